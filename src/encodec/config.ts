import type { ConfigBlock } from "../checkpoint/config.js";
import { CheckpointError } from "../errors.js";

/** The shape of an EnCodec model: SEANet encoder and decoder around a residual vector quantiser. */
export interface EncodecConfig {
  readonly sampleRate: number; // samples per second
  readonly ratios: readonly number[]; // of the upsampling stages, in the decoder's order
  readonly filters: number; // channels at the full sample rate; every stage doubles them
  readonly latentWidth: number; // channels of the encoder's output and of a codebook entry
  readonly kernel: number; // of the first convolution
  readonly lastKernel: number;
  readonly residualKernel: number;
  readonly residualDilations: readonly number[]; // one per residual unit of a stage
  readonly residualShrink: number; // a residual unit's inner channels are its outer ones divided by this
  readonly lstmLayers: number;
  readonly codebooks: number; // K
  readonly codebookSize: number; // V
  readonly hop: number; // samples per frame: the product of the ratios
  readonly frameRate: number; // frames per second, rounded up
}

/**
 * Reads the `audio_encoder` block of config.json, with the defaults of transformers 5.18.0 for keys that are absent.
 *
 * @throws {CheckpointError} naming the key that is out of range or of a variant that tonearm would compute differently.
 */
export function readEncodecConfig(block: ConfigBlock): EncodecConfig {
  block.expect("model_type", "encodec");
  block.expect("audio_channels", 1, undefined);
  block.expect("normalize", false, undefined);
  block.expect("chunk_length_s", null, undefined);
  block.expect("norm_type", "weight_norm", undefined);
  block.expect("use_causal_conv", false);
  block.expect("pad_mode", "reflect", undefined);
  block.expect("use_conv_shortcut", false);
  block.expect("trim_right_ratio", 1, undefined);
  block.ignore("overlap"); // of chunks, which chunk_length_s turned off
  block.ignoreGeneric();

  const sampleRate = block.integer("sampling_rate", { min: 1, default: 24_000 });
  const ratios = block.integers("upsampling_ratios", { min: 1, default: [8, 5, 4, 2] });
  const latentWidth = block.integer("hidden_size", { min: 1, default: 128 });
  const codebookSize = block.integer("codebook_size", { min: 2, default: 1024 });
  const codebookWidth = block.integer("codebook_dim", { min: 1, default: latentWidth });
  const [bandwidth, ...otherBandwidths] = block.numbers("target_bandwidths", {
    min: 0,
    default: [1.5, 3, 6, 12, 24],
  });
  const growth = block.integer("dilation_growth_rate", { min: 1, default: 2 });
  const residualUnits = block.integer("num_residual_layers", { min: 0, default: 1 });

  const refuse = (found: string, todo: string): CheckpointError =>
    new CheckpointError({ asked: `read ${block.path} of ${block.file}`, found, todo });
  if (ratios.length === 0) throw refuse("no upsampling_ratios", "Fetch the file again: it is damaged");
  if (codebookWidth !== latentWidth) {
    throw refuse(
      `codebook_dim ${codebookWidth} beside hidden_size ${latentWidth}`,
      "Use a model in which both are equal: there is no projection between them",
    );
  }
  if (!Number.isInteger(Math.log2(codebookSize))) {
    throw refuse(`codebook_size ${codebookSize}`, "Use a model whose codebook size is a power of two");
  }
  if (bandwidth === undefined || otherBandwidths.length > 0) {
    throw refuse(
      `target_bandwidths of ${bandwidth === undefined ? 0 : 1 + otherBandwidths.length} values`,
      "Use a model with one bandwidth, as MusicGen's codec: it decides how many codebooks there are",
    );
  }

  const hop = ratios.reduce((product, ratio) => product * ratio, 1);
  const frameRate = Math.ceil(sampleRate / hop);
  const bitsPerCode = Math.log2(codebookSize);
  const codebooks = Math.floor((1000 * bandwidth) / (frameRate * bitsPerCode));
  if (codebooks < 1) {
    throw refuse(
      `target_bandwidths [${bandwidth}], too little for one codebook of ${bitsPerCode} bits at ${frameRate} frames a second`,
      "Fetch the file again: it is damaged",
    );
  }
  return {
    sampleRate,
    ratios,
    filters: block.integer("num_filters", { min: 1, default: 32 }),
    latentWidth,
    kernel: block.integer("kernel_size", { min: 1, default: 7 }),
    lastKernel: block.integer("last_kernel_size", { min: 1, default: 7 }),
    residualKernel: block.integer("residual_kernel_size", { min: 1, default: 3 }),
    residualDilations: Array.from({ length: residualUnits }, (_, unit) => growth ** unit),
    residualShrink: block.integer("compress", { min: 1, default: 2 }),
    lstmLayers: block.integer("num_lstm_layers", { min: 1, default: 2 }),
    codebooks,
    codebookSize,
    hop,
    frameRate,
  };
}
