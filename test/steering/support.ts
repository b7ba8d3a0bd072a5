import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";

import { layerOf } from "../../src/activations/activation.js";
import type { Site } from "../../src/activations/catalogue.js";
import type { DecoderConfig } from "../../src/model/config.js";
import { decoderSites } from "../../src/model/sites.js";
import { directionShape, type SiteVectors, type SteeringVectors } from "../../src/probes/vectors.js";
import type { SteerableModel } from "../../src/steering/plan.js";
import type { TokenBatch } from "../../src/text/tokenizer.js";

/** A text for checkpoints without a tokenizer. */
export const TEXT: TokenBatch = { ids: Int32Array.of(5, 9, 1), mask: Int32Array.of(1, 1, 1), batch: 1, length: 3 };

/** Uniform numbers in −1 … 1. */
export function noise(count: number, seed: number): Float32Array {
  const generator = xoroshiro128plus(seed);
  return Float32Array.from({ length: count }, () => 2 * uniformFloat64(generator) - 1);
}

/** Vectors of random directions for a model: what a probe would write, without the probe. */
export function randomVectors(
  model: SteerableModel,
  sites: readonly string[],
  concepts: readonly string[] = ["jazz", "rock"],
  seed = 1,
): SteeringVectors {
  const made = sites.map((site, index): SiteVectors => {
    const shape = directionShape(site, model.config.decoder) ?? [];
    const units = shape.length === 2 ? (shape[0] ?? 1) : 1;
    const width = shape.reduce((product, size) => product * size, 1);
    const values = (count: number, part: number): Float32Array => noise(count, seed * 1000 + index * 10 + part);
    const positive = (count: number, part: number): Float32Array => values(count, part).map((value) => 1.5 + value);
    return {
      site,
      shape,
      directions: values(concepts.length * width, 1),
      gain: positive(concepts.length * units, 2),
      bias: values(concepts.length * units, 3),
      score: positive(units, 4).map((value) => value / 3),
      deviation: positive(concepts.length * units, 5),
      mean: values(concepts.length * width, 6),
      norm: positive(units, 7),
    };
  });
  return {
    concepts,
    label: "genre",
    target: "classes",
    estimator: "random",
    settings: {},
    scoring: "balanced accuracy",
    normalized: false,
    model: model.fingerprint,
    data: "none",
    seed,
    tonearm: "test",
    sites: new Map(made.map((vectors) => [vectors.site, vectors])),
  };
}

/** A spec of one segment over the whole clip. */
export function specOf(steer: readonly object[], more: object = {}): object {
  return { vectors: { genre: "genre.safetensors" }, segments: [{ steer }], ...more };
}

/** A decoder of one block with activations of width 4, as the operators' goldens have them; it can't run. */
export function bareModel(kind: "residual" | "heads"): SteerableModel {
  const decoder: DecoderConfig = {
    layers: 1,
    width: kind === "residual" ? 4 : 8,
    heads: kind === "residual" ? 1 : 2,
    headWidth: 4,
    ffnWidth: 8,
    codebooks: 1,
    codebookSize: 8,
    audioChannels: 1,
    maxPositions: 16,
    crossAttention: true,
  };
  const sites = decoderSites(decoder).map(({ site, shape }): Site => ({
    site,
    network: "decoder",
    layer: layerOf(site),
    shape,
    sizes: shape,
  }));
  return { fingerprint: "0123456789abcdef", config: { decoder }, sites: () => sites };
}
