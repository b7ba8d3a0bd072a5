/**
 * Sums over activations in float64, from which means, variances and covariances follow. Sums of two parts add up to the
 * sums of the whole, so captures that were split can be joined without loss.
 */

/** Sums over `count` vectors of one width W. */
export interface Moments {
  readonly width: number; // W
  readonly count: number;
  readonly sum: Float64Array; // [W]
  /** Sums of squares [W], or of products [W, W], of which the lower triangle is a mirror image. */
  readonly squares: Float64Array;
}

/** No vectors yet. */
export function emptyMoments(width: number, kind: "variance" | "covariance"): Moments {
  const squares = new Float64Array(kind === "variance" ? width : width * width);
  return { width, count: 0, sum: new Float64Array(width), squares };
}

/**
 * Adds vectors. The arrays of `moments` are changed in place; go on with the result.
 *
 * @param vectors [n, W]
 */
export function addVectors(moments: Moments, vectors: Float32Array): Moments {
  const { width, sum, squares } = moments;
  for (let start = 0; start < vectors.length; start += width) {
    for (let i = 0; i < width; i++) sum[i] = (sum[i] ?? 0) + (vectors[start + i] ?? 0);
  }
  if (squares.length === width) addSquares(squares, vectors, width);
  else addProducts(squares, vectors, width);
  return { ...moments, count: moments.count + vectors.length / width };
}

function addSquares(squares: Float64Array, vectors: Float32Array, width: number): void {
  for (let start = 0; start < vectors.length; start += width) {
    for (let i = 0; i < width; i++) {
      const value = vectors[start + i] ?? 0;
      squares[i] = (squares[i] ?? 0) + value * value;
    }
  }
}

/** The upper triangle is summed, then mirrored. */
function addProducts(squares: Float64Array, vectors: Float32Array, width: number): void {
  for (let start = 0; start < vectors.length; start += width) {
    for (let i = 0; i < width; i++) {
      const value = vectors[start + i] ?? 0;
      const row = i * width;
      for (let j = i; j < width; j++) squares[row + j] = (squares[row + j] ?? 0) + value * (vectors[start + j] ?? 0);
    }
  }
  for (let i = 0; i < width; i++) {
    for (let j = 0; j < i; j++) squares[i * width + j] = squares[j * width + i] ?? 0;
  }
}

/** The sums of two disjoint sets of vectors together, in new arrays. @throws {RangeError} if their kinds differ. */
export function mergeMoments(a: Moments, b: Moments): Moments {
  if (a.width !== b.width || a.squares.length !== b.squares.length) {
    throw new RangeError(`moments of widths ${a.width} and ${b.width}, or of two kinds`);
  }
  return {
    width: a.width,
    count: a.count + b.count,
    sum: a.sum.map((value, index) => value + (b.sum[index] ?? 0)),
    squares: a.squares.map((value, index) => value + (b.squares[index] ?? 0)),
  };
}

/** The mean [W]; zeros of no vectors. */
export function meanOf({ count, sum }: Moments): Float64Array {
  return sum.map((value) => (count === 0 ? 0 : value / count));
}

/** The variance [W] with divisor n − 1; zeros of fewer than two vectors. */
export function varianceOf(moments: Moments): Float64Array {
  const { width, count, sum, squares } = moments;
  if (count < 2) return new Float64Array(width);
  const step = squares.length === width ? 1 : width + 1; // the squares, or the diagonal of the products
  return sum.map((total, index) => Math.max(0, ((squares[index * step] ?? 0) - (total * total) / count) / (count - 1)));
}

/**
 * The covariance [W, W] with divisor n − 1; zeros of fewer than two vectors.
 *
 * @throws {RangeError} if only squares were summed.
 */
export function covarianceOf({ width, count, sum, squares }: Moments): Float64Array {
  if (squares.length !== width * width) throw new RangeError("a covariance takes moments of the kind covariance");
  if (count < 2) return new Float64Array(width * width);
  return squares.map((product, index) => {
    const i = Math.floor(index / width);
    const j = index % width;
    return (product - ((sum[i] ?? 0) * (sum[j] ?? 0)) / count) / (count - 1);
  });
}
