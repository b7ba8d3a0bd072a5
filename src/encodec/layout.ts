import type { EncodecConfig } from "./config.js";

/**
 * Where each layer of the two SEANets stands in the checkpoint, and what it turns into what. Layers are numbered as in
 * the reference, where every ELU between them has a number too.
 */

/** A residual unit of a stage. */
export interface ResidualLayout {
  readonly layer: number;
  readonly dilation: number;
}

/** A change of rate with its residual units: before it in the encoder, after it in the decoder. */
export interface StageLayout {
  readonly ratio: number;
  readonly residuals: readonly ResidualLayout[];
  readonly residualWidth: number; // channels that the residual units work on
  readonly resample: number; // layer of the strided or transposed convolution
  readonly inputs: number; // its channels in
  readonly outputs: number; // its channels out
  readonly hop: number; // samples per position at the stage's end
}

/** One SEANet, from its first layer to its last. */
export interface SeanetLayout {
  readonly first: number;
  readonly stages: readonly StageLayout[];
  readonly lstm: number;
  readonly lstmWidth: number;
  readonly last: number;
}

/** first, (residuals, ELU, strided convolution) per stage, LSTM, ELU, last */
export function encoderLayout(config: EncodecConfig): SeanetLayout {
  let layer = 1;
  let width = config.filters;
  let hop = 1;
  const stages = config.ratios.toReversed().map((ratio): StageLayout => {
    const residuals = config.residualDilations.map((dilation) => ({ layer: layer++, dilation }));
    layer += 1; // ELU
    hop *= ratio;
    const stage = { ratio, residuals, residualWidth: width, resample: layer++, inputs: width, outputs: 2 * width, hop };
    width *= 2;
    return stage;
  });
  return { first: 0, stages, lstm: layer, lstmWidth: width, last: layer + 2 };
}

/** first, LSTM, (ELU, transposed convolution, residuals) per stage, ELU, last */
export function decoderLayout(config: EncodecConfig): SeanetLayout {
  const lstmWidth = config.filters * 2 ** config.ratios.length;
  let layer = 2;
  let width = lstmWidth;
  let hop = config.hop;
  const stages = config.ratios.map((ratio): StageLayout => {
    layer += 1; // ELU
    const resample = layer++;
    const residuals = config.residualDilations.map((dilation) => ({ layer: layer++, dilation }));
    hop /= ratio;
    const stage = { ratio, residuals, residualWidth: width / 2, resample, inputs: width, outputs: width / 2, hop };
    width /= 2;
    return stage;
  });
  return { first: 0, stages, lstm: 1, lstmWidth, last: layer + 1 };
}
