import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { describe, expect, it } from "vitest";

import { writeSafetensors } from "../../src/checkpoint/safetensors.js";
import { CheckpointError } from "../../src/errors.js";
import type { DecoderConfig } from "../../src/model/config.js";
import {
  directionOf,
  directionShape,
  readVectors,
  requireSameModel,
  writeVectors,
  type SiteVectors,
  type SteeringVectors,
} from "../../src/probes/vectors.js";
import { temporaryDirectory } from "../support/temporary.js";

const config: DecoderConfig = {
  layers: 2,
  width: 6,
  heads: 2,
  headWidth: 3,
  ffnWidth: 24,
  codebooks: 4,
  codebookSize: 16,
  audioChannels: 1,
  maxPositions: 64,
  crossAttention: true,
};

function siteVectors(site: string, shape: readonly number[]): SiteVectors {
  const units = shape.length === 2 ? (shape[0] ?? 1) : 1;
  const width = shape.reduce((a, b) => a * b, 1);
  const count = (length: number, first: number): Float32Array =>
    Float32Array.from({ length }, (_, index) => first + index / 7);
  return {
    site,
    shape,
    directions: count(2 * width, 1),
    gain: count(2 * units, 2),
    bias: count(2 * units, 3),
    score: count(units, 0.5),
    deviation: count(2 * units, 4),
    mean: count(2 * width, 5),
    norm: count(units, 6),
  };
}

const vectors: SteeringVectors = {
  concepts: ["jazz", "rock"],
  label: "genre",
  target: "classes",
  estimator: "ridge",
  settings: { penalty: 0.1, standardize: true, group: "track" },
  scoring: "balanced accuracy",
  normalized: false,
  model: "f".repeat(64),
  data: "d".repeat(64),
  seed: 7,
  tonearm: "0.1.0",
  sites: new Map([
    ["blocks.0.hook_resid_post", siteVectors("blocks.0.hook_resid_post", [6])],
    ["blocks.1.attn.hook_z", siteVectors("blocks.1.attn.hook_z", [2, 3])],
  ]),
};

describe("files of vectors", () => {
  it("come back as they were written", async () => {
    const path = join(await temporaryDirectory(), "genre.safetensors");
    await writeVectors(path, vectors);
    expect(await readVectors(path)).toEqual(vectors);
  });

  it("give the direction of a concept, and name what there is where it is unknown", () => {
    expect(directionOf(vectors, "blocks.0.hook_resid_post", "rock")).toEqual(
      vectors.sites.get("blocks.0.hook_resid_post")?.directions.subarray(6),
    );
    expect(() => directionOf(vectors, "blocks.0.hook_resid_post", "folk")).toThrow(/jazz, rock/);
    expect(() => directionOf(vectors, "blocks.9.hook_resid_post", "rock")).toThrow(/blocks.0.hook_resid_post/);
  });

  it("refuse another model by its fingerprint, by a site that it lacks, and by shape", () => {
    const own = { fingerprint: vectors.model, config };
    expect(() => {
      requireSameModel(vectors, own);
    }).not.toThrow();
    const other = { fingerprint: "e".repeat(64), config };
    expect(() => {
      requireSameModel(vectors, other);
    }).toThrow(/vectors of the model ffffffffffff, while this one is eeeeeeeeeeee/);
    expect(() => {
      requireSameModel(vectors, { ...own, config: { ...config, layers: 1 } });
    }).toThrow(/blocks.1.attn.hook_z, a site that this model lacks/);
    expect(() => {
      requireSameModel(vectors, { ...own, config: { ...config, heads: 3, headWidth: 2 } });
    }).toThrow(/shape \[2, 3\] at blocks.1.attn.hook_z, where this model has \[3, 2\]/);
  });

  it("know the shape of a direction at every site that has one", () => {
    expect(directionShape("blocks.1.hook_mlp_out", config)).toEqual([6]);
    expect(directionShape("blocks.1.mlp.hook_post", config)).toEqual([24]);
    expect(directionShape("blocks.1.cross_attn.hook_z", config)).toEqual([2, 3]);
    expect(directionShape("blocks.1.attn.hook_pattern", config)).toBeUndefined();
    expect(directionShape("blocks.2.hook_resid_post", config)).toBeUndefined();
  });

  it("refuse values that are not finite, other safetensors and damaged ones", async () => {
    const folder = await temporaryDirectory();
    const path = join(folder, "bad.safetensors");
    const site = siteVectors("blocks.0.hook_resid_post", [6]);
    const broken = { ...site, bias: Float32Array.of(NaN, 0) };
    await expect(writeVectors(path, { ...vectors, sites: new Map([[site.site, broken]]) })).rejects.toThrow(
      /NaN in "blocks.0.hook_resid_post\/bias"/,
    );
    await writeSafetensors(path, [{ name: "codes", shape: [1], dtype: "I32", values: Int32Array.of(1) }]);
    await expect(readVectors(path)).rejects.toThrow(/without steering vectors/);
    await writeVectors(path, vectors);
    const bytes = await readFile(path);
    await writeFile(path, bytes.subarray(0, bytes.length - 8));
    await expect(readVectors(path)).rejects.toThrow(CheckpointError);
  });
});
