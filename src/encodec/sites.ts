import type { EncodecConfig } from "./config.js";
import { decoderLayout, encoderLayout, type SeanetLayout } from "./layout.js";

/** The activations that the codec announces. */

/** What goes into the quantiser: the encoder's output. */
export const LATENT_SITE = "codec.hook_latent";
/** What comes out of the quantiser: the decoder's input. */
export const QUANTIZED_SITE = "codec.hook_quantized";

/** The output of one layer of the encoder or decoder, numbered as in the checkpoint. */
export function layerSite(network: "encoder" | "decoder", layer: number): string {
  return `codec.${network}.layers.${layer}.hook_out`;
}

/** What is left to describe before codebook `index`. */
export function residualSite(index: number): string {
  return `codec.quantizer.${index}.hook_residual`;
}

/** One site: who announces it, and the shape of its tensor. */
export interface CodecSite {
  readonly site: string;
  readonly walk: "encode" | "decode"; // encodeWave or decodeCodes
  readonly hop: number; // samples per position
  readonly width: number; // channels
}

/** The shape [B, positions, channels] of a site for a batch of waveforms of `samples` samples (decoding: F·hop). */
export function codecSiteShape({ hop, width }: CodecSite, batch: number, samples: number): [number, number, number] {
  return [batch, Math.ceil(samples / hop), width];
}

/**
 * Every site of a codec in the order of announcement. Layers without weights (ELU) have none; the encoder's last layer,
 * `codec.hook_latent` and the first codebook's residual are one tensor under three names.
 */
export function codecSites(config: EncodecConfig): readonly CodecSite[] {
  const { hop, latentWidth, codebooks } = config;
  const frame = { hop, width: latentWidth };
  return [
    ...encoderSites(config),
    { site: LATENT_SITE, walk: "encode", ...frame },
    ...Array.from({ length: codebooks }, (_, index): CodecSite => ({
      site: residualSite(index),
      walk: "encode",
      ...frame,
    })),
    { site: QUANTIZED_SITE, walk: "decode", ...frame },
    ...decoderSites(config),
  ];
}

function encoderSites(config: EncodecConfig): readonly CodecSite[] {
  const layout = encoderLayout(config);
  const at = siteMaker("encoder", "encode");
  let hop = 1;
  const stages = layout.stages.flatMap((stage) => {
    const residuals = stage.residuals.map(({ layer }) => at(layer, hop, stage.residualWidth));
    hop = stage.hop;
    return [...residuals, at(stage.resample, hop, stage.outputs)];
  });
  return [
    at(layout.first, 1, config.filters),
    ...stages,
    at(layout.lstm, config.hop, layout.lstmWidth),
    at(layout.last, config.hop, config.latentWidth),
  ];
}

function decoderSites(config: EncodecConfig): readonly CodecSite[] {
  const layout = decoderLayout(config);
  const at = siteMaker("decoder", "decode");
  return [
    at(layout.first, config.hop, layout.lstmWidth),
    at(layout.lstm, config.hop, layout.lstmWidth),
    ...layout.stages.flatMap((stage) => [
      at(stage.resample, stage.hop, stage.outputs),
      ...stage.residuals.map(({ layer }) => at(layer, stage.hop, stage.residualWidth)),
    ]),
    at(layout.last, 1, 1),
  ];
}

function siteMaker(network: "encoder" | "decoder", walk: CodecSite["walk"]) {
  return (layer: number, hop: number, width: number): CodecSite => ({
    site: layerSite(network, layer),
    walk,
    hop,
    width,
  });
}

/** The sites of the layers that work above the frame rate: all between the first or last layer and the LSTM. */
export function resamplingSites(network: "encoder" | "decoder", layout: SeanetLayout): readonly string[] {
  const stages = layout.stages.flatMap(({ resample, residuals }) => [resample, ...residuals.map(({ layer }) => layer)]);
  const outer = network === "encoder" ? layout.first : layout.last;
  return [outer, ...stages].map((layer) => layerSite(network, layer));
}
