import type * as tf from "@tensorflow/tfjs-core";

import { SiteError } from "../errors.js";
import type { Owner } from "./owner.js";

/**
 * How a network lets its activations be seen: its forward pass is a generator that stops at every wanted site and goes
 * on with what the consumer left there. Reading, capturing and steering are three consumers of this one mechanism.
 */

/** Which sites a consumer wants. A site that is not wanted is not yielded, and its tensor is made only if needed anyway. */
export interface Taps {
  wants(site: string): boolean;
}

/** The consumer that wants nothing. */
export const NO_TAPS: Taps = { wants: () => false };

/** A forward pass: yields announcements, returns its result. Nothing is left open between two yields. */
export type Walk<Result> = Generator<Announcement, Result, void>;

/**
 * One stop at a site.
 *
 * `value` belongs to the network and lives until its block ends: clone it to keep it. A tensor handed to `replace`
 * becomes the network's, which disposes it.
 */
export class Announcement {
  readonly site: string;
  readonly value: tf.Tensor;
  #replacement: tf.Tensor | undefined;
  #passed = false; // whether the network has gone on

  constructor(site: string, value: tf.Tensor) {
    this.site = site;
    this.value = value;
  }

  /** What the network goes on with: the last replacement, or the value itself. */
  get result(): tf.Tensor {
    return this.#replacement ?? this.value;
  }

  /**
   * Goes on with `tensor` instead of `value`. Replacing twice keeps the last one and frees the one before.
   *
   * @throws {SiteError} if the shape or dtype differs from the value's, or the network has gone on already: the tensor
   *   then stays the caller's.
   */
  replace(tensor: tf.Tensor): void {
    if (this.#passed) {
      throw new SiteError({
        asked: `replace the activation at ${this.site}`,
        found: "the network has gone on from there",
        todo: "Replace it before the walk's next step, and let a hook return the promise of what it waits for",
      });
    }
    if (tensor === this.value) return this.#discard();
    const sameShape =
      tensor.shape.length === this.value.shape.length &&
      tensor.shape.every((size, axis) => size === this.value.shape[axis]);
    if (!sameShape || tensor.dtype !== this.value.dtype) {
      throw new SiteError({
        asked: `replace the activation at ${this.site}, ${this.value.dtype} [${this.value.shape.join(",")}]`,
        found: `a replacement of ${tensor.dtype} [${tensor.shape.join(",")}]`,
        todo: "Return a tensor of the site's own shape and dtype",
      });
    }
    if (tensor === this.#replacement) return;
    this.#discard();
    this.#replacement = tensor;
  }

  /** The network goes on: from here on nothing can be replaced. */
  pass(): void {
    this.#passed = true;
  }

  #discard(): void {
    this.#replacement?.dispose();
    this.#replacement = undefined;
  }
}

/**
 * Announces `value` at `site` and returns what to go on with: `value`, or its replacement, which `owner` then owns.
 * Yields nothing if the site is not wanted.
 */
export function* announce<T extends tf.Tensor>(taps: Taps, owner: Owner, site: string, value: T): Walk<T> {
  if (!taps.wants(site)) return value;
  const stop = new Announcement(site, value);
  try {
    yield stop;
  } finally {
    stop.pass();
    if (stop.result !== value) owner.own(stop.result);
  }
  // replace() has checked shape and dtype, which is all that tells one tf.Tensor type from another.
  return stop.result as T;
}

/** Runs a walk to its end without looking. */
export function complete<Result>(walk: Walk<Result>): Result {
  for (;;) {
    const { done, value } = walk.next();
    if (done) return value;
  }
}

/** Runs an asynchronous walk to its end without looking. */
export async function completeAsync<Result>(walk: AsyncGenerator<unknown, Result, void>): Promise<Result> {
  for (;;) {
    const { done, value } = await walk.next();
    if (done) return value;
  }
}
