import * as tf from "@tensorflow/tfjs-core";

/**
 * What a row of the batch is for. Classifier-free guidance runs every item twice: once with its text (`cond`), once
 * without (`null`) or with the text to steer away from (`negative`).
 */
export type RowRole = "cond" | "null" | "negative";

/** The rows of a pass: item b of role r is row r·B + b. */
export interface Rows {
  readonly batch: number; // B
  readonly roles: readonly RowRole[]; // one per block of B rows
}

/** R, the number of rows. */
export function rowCount({ batch, roles }: Rows): number {
  return batch * roles.length;
}

/** The role and batch item of each row. */
export function describeRows({ batch, roles }: Rows): readonly { readonly role: RowRole; readonly item: number }[] {
  return roles.flatMap((role) => Array.from({ length: batch }, (_, item) => ({ role, item })));
}

/**
 * Guided logits: u + (c − u) · scale, where c are the conditional rows and u the rows beside them. Without a second
 * role, the logits as they are.
 *
 * @param logits [R, K, T, V]
 * @returns [B, K, T, V], owned by the caller.
 */
export function guideLogits(logits: tf.Tensor4D, { batch, roles }: Rows, scale: number): tf.Tensor4D {
  if (roles.length === 1) return tf.clone(logits);
  return tf.tidy(() => {
    const [, codebooks, positions, entries] = logits.shape;
    const shape: [number, number, number, number] = [batch, codebooks, positions, entries];
    const conditional = tf.slice(logits, [0, 0, 0, 0], shape); // [B, K, T, V]
    const unconditional = tf.slice(logits, [batch, 0, 0, 0], shape); // [B, K, T, V]
    return tf.add(unconditional, tf.mul(tf.sub(conditional, unconditional), scale));
  });
}
