import * as tf from "@tensorflow/tfjs-core";

/**
 * Owns the tensors made on the way through one part of a forward pass, and frees them when that part ends.
 *
 * `tf.tidy` cannot do this: a forward pass is a generator, and a tidy scope left open across a `yield` would swallow
 * the tensors its consumer makes. An owner holds plain references instead, so between yields no scope is open.
 *
 * ```ts
 * const owner = new Owner();
 * try {
 *   const h = owner.own(tf.matMul(x, w));
 *   return owner.release(owner.run(() => tf.relu(tf.add(h, b))));
 * } finally {
 *   owner.dispose();
 * }
 * ```
 */
export class Owner {
  readonly #tensors = new Set<tf.Tensor>();

  /** Takes ownership of `tensor` and hands it back. */
  own<T extends tf.Tensor>(tensor: T): T {
    this.#tensors.add(tensor);
    return tensor;
  }

  /** Runs synchronous ops under `tf.tidy` and owns what they return. */
  run<T extends tf.Tensor>(ops: () => T): T {
    return this.own(tf.tidy(ops));
  }

  /** Gives `tensor` up: from here on it is the caller's to dispose. */
  release<T extends tf.Tensor>(tensor: T): T {
    this.#tensors.delete(tensor);
    return tensor;
  }

  /** Gives everything up: for a loader that has come to its end and hands its weights over. */
  releaseAll(): void {
    this.#tensors.clear();
  }

  /** Frees one owned tensor early, where waiting for the end would hold too much memory. */
  free(tensor: tf.Tensor): void {
    if (this.#tensors.delete(tensor)) tensor.dispose();
  }

  /** Frees everything still owned. Safe to call twice. */
  dispose(): void {
    for (const tensor of this.#tensors) tensor.dispose();
    this.#tensors.clear();
  }
}

/**
 * Disposes every tensor of a nested weight value: records and lists of tensors to any depth. Numbers and host arrays in
 * it are left alone.
 */
export function disposeTree(tree: unknown): void {
  if (typeof tree !== "object" || tree === null || ArrayBuffer.isView(tree)) return;
  if (tree instanceof tf.Tensor) tree.dispose();
  else Object.values(tree).forEach(disposeTree);
}
