import type { TokenBatch } from "./tokenizer.js";

/**
 * Joins batches of prompts into one, padded on the right to the longest.
 *
 * @returns the batch, and where each of the given ones starts in it
 */
export function joinTokens(batches: readonly TokenBatch[]): {
  readonly tokens: TokenBatch;
  readonly starts: readonly number[];
} {
  const length = Math.max(0, ...batches.map((batch) => batch.length));
  const count = batches.reduce((sum, { batch }) => sum + batch, 0);
  const ids = new Int32Array(count * length);
  const mask = new Int32Array(count * length);
  const starts: number[] = [];
  let row = 0;
  for (const part of batches) {
    starts.push(row);
    for (let item = 0; item < part.batch; item++, row++) {
      ids.set(part.ids.subarray(item * part.length, (item + 1) * part.length), row * length);
      mask.set(part.mask.subarray(item * part.length, (item + 1) * part.length), row * length);
    }
  }
  return { tokens: { ids, mask, batch: count, length }, starts };
}
