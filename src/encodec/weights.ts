import type { WeightScope } from "../checkpoint/scope.js";
import { Owner } from "../runtime/owner.js";
import type { EncodecConfig } from "./config.js";
import {
  loadConvolution,
  loadTransposedConvolution,
  type Convolution,
  type TransposedConvolution,
} from "./convolution.js";
import { decoderLayout, encoderLayout, type StageLayout } from "./layout.js";
import { loadLstm, type LstmLayer } from "./lstm.js";
import { loadCodebooks, type Codebook } from "./quantizer.js";

/** The weights of EnCodec, and their way from the checkpoint. */

/** x + widen(ELU(narrow(ELU(x)))) */
export type ResidualUnit = {
  readonly narrow: Convolution; // kernel 3, to half the channels
  readonly widen: Convolution; // kernel 1, back again
};

/** Waveform to latents: first, stages of residual units and a strided convolution, LSTM, last. */
export type EncoderWeights = {
  readonly first: Convolution;
  readonly stages: readonly { readonly residuals: readonly ResidualUnit[]; readonly down: Convolution }[];
  readonly lstm: readonly LstmLayer[];
  readonly last: Convolution;
};

/** Latents to waveform: first, LSTM, stages of a transposed convolution and residual units, last. */
export type DecoderWeights = {
  readonly first: Convolution;
  readonly lstm: readonly LstmLayer[];
  readonly stages: readonly { readonly up: TransposedConvolution; readonly residuals: readonly ResidualUnit[] }[];
  readonly last: Convolution;
};

/** The weights of a codec; free them with `disposeTree`. */
export type EncodecWeights = {
  readonly encoder: EncoderWeights;
  readonly quantizer: readonly Codebook[];
  readonly decoder: DecoderWeights;
};

/**
 * Reads a codec. Conversions made here, once: weight norm folded, convolutions laid out for TF.js, LSTM biases added and
 * gates reordered.
 *
 * @param scope the codec's own: `audio_encoder` of a MusicGen checkpoint, the root of a stand-alone one
 * @returns weights owned by the caller.
 * @throws {CheckpointError} if a tensor is missing, damaged or of another shape; nothing stays allocated then.
 */
export async function loadEncodec(scope: WeightScope, config: EncodecConfig): Promise<EncodecWeights> {
  const owner = new Owner();
  try {
    const weights = {
      encoder: await loadEncoder(scope.scope("encoder"), config, owner),
      quantizer: await loadCodebooks(scope.scope("quantizer"), config, owner),
      decoder: await loadDecoder(scope.scope("decoder"), config, owner),
    };
    owner.releaseAll();
    return weights;
  } finally {
    owner.dispose();
  }
}

async function loadEncoder(scope: WeightScope, config: EncodecConfig, owner: Owner): Promise<EncoderWeights> {
  const layout = encoderLayout(config);
  const { filters, latentWidth, kernel, lastKernel } = config;
  const conv = (layer: number, inputs: number, outputs: number, width: number): Promise<Convolution> =>
    loadConvolution(scope.scope("layers", layer, "conv"), { inputs, outputs, kernel: width }, owner);

  const first = await conv(layout.first, 1, filters, kernel);
  const stages = [];
  for (const stage of layout.stages) {
    stages.push({
      residuals: await loadResiduals(scope, config, stage, owner),
      down: await conv(stage.resample, stage.inputs, stage.outputs, 2 * stage.ratio),
    });
  }
  return {
    first,
    stages,
    lstm: await loadLstm(scope.scope("layers", layout.lstm, "lstm"), config.lstmLayers, layout.lstmWidth, owner),
    last: await conv(layout.last, layout.lstmWidth, latentWidth, lastKernel),
  };
}

async function loadDecoder(scope: WeightScope, config: EncodecConfig, owner: Owner): Promise<DecoderWeights> {
  const layout = decoderLayout(config);
  const { filters, latentWidth, kernel, lastKernel } = config;
  const conv = (layer: number, inputs: number, outputs: number, width: number): Promise<Convolution> =>
    loadConvolution(scope.scope("layers", layer, "conv"), { inputs, outputs, kernel: width }, owner);

  const first = await conv(layout.first, latentWidth, layout.lstmWidth, kernel);
  const memory = await loadLstm(scope.scope("layers", layout.lstm, "lstm"), config.lstmLayers, layout.lstmWidth, owner);
  const stages = [];
  for (const stage of layout.stages) {
    const { inputs, outputs, ratio: stride } = stage;
    stages.push({
      up: await loadTransposedConvolution(
        scope.scope("layers", stage.resample, "conv"),
        { inputs, outputs, stride },
        owner,
      ),
      residuals: await loadResiduals(scope, config, stage, owner),
    });
  }
  return { first, lstm: memory, stages, last: await conv(layout.last, filters, 1, lastKernel) };
}

async function loadResiduals(
  scope: WeightScope,
  { residualKernel, residualShrink }: EncodecConfig,
  { residuals, residualWidth: width }: StageLayout,
  owner: Owner,
): Promise<readonly ResidualUnit[]> {
  const inner = Math.floor(width / residualShrink);
  const units: ResidualUnit[] = [];
  for (const { layer } of residuals) {
    const block = scope.scope("layers", layer, "block");
    units.push({
      narrow: await loadConvolution(
        block.scope(1, "conv"),
        { inputs: width, outputs: inner, kernel: residualKernel },
        owner,
      ),
      widen: await loadConvolution(block.scope(3, "conv"), { inputs: inner, outputs: width, kernel: 1 }, owner),
    });
  }
  return units;
}
