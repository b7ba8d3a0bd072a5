/**
 * Cholesky's factorisation in float64. TF.js has no float64, so this works on plain arrays of the host, compiled where the
 * backend in use brings its own.
 */

/** What a backend may bring. */
export interface CompiledCholesky {
  readonly usable: () => boolean;
  /** Replaces the lower triangle of a symmetric matrix [n, n] by its factor; false where it is not positive definite. */
  readonly factorise: (matrix: Float64Array, n: number) => boolean;
  /** Replaces right-hand sides [count, n] by their solutions. */
  readonly solve: (factor: Float64Array, n: number, sides: Float64Array) => void;
}

let compiled: CompiledCholesky | undefined;

/** Lets {@link compiledCholesky} find a backend's own from now on. */
export function useCompiledCholesky(own: CompiledCholesky): void {
  compiled = own;
}

/** What the backend in use brings; undefined where it brings none. */
export function compiledCholesky(): CompiledCholesky | undefined {
  return compiled?.usable() === true ? compiled : undefined;
}
