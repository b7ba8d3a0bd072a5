import * as tf from "@tensorflow/tfjs-core";

/**
 * Sinusoidal position embeddings as transformers 5.18.0 computes them: cosines first, divisor width/2 − 1, frequencies
 * and phases rounded to float32. (The rounding matters: at position 2,000 a float64 phase differs by 1.8e-4.)
 *
 * @param start absolute position of the first row
 * @param table the checkpoint's own table [P, D], used where it reaches far enough
 * @returns [T, D] owned by the caller.
 */
export function positionEmbeddings(
  start: number,
  count: number,
  width: number,
  table: Float32Array | undefined,
): tf.Tensor2D {
  if (table && (start + count) * width <= table.length) {
    return tf.tensor2d(table.slice(start * width, (start + count) * width), [count, width]); // [T, D]
  }
  const half = width >> 1;
  const step = Math.fround(-(Math.log(10_000) / (half - 1)));
  const values = new Float32Array(count * width);
  for (let i = 0; i < half; i++) {
    const frequency = Math.fround(Math.exp(Math.fround(i * step)));
    for (let row = 0; row < count; row++) {
      const phase = Math.fround((start + row) * frequency);
      values[row * width + i] = Math.cos(phase);
      values[row * width + half + i] = Math.sin(phase);
    }
  }
  return tf.tensor2d(values, [count, width]); // [T, D]
}
