import { dirname } from "node:path";

import { describe, expect, it } from "vitest";

import { MemoryError } from "../../src/errors.js";
import { readMusicGenConfig, type MusicGenConfig } from "../../src/model/checkpoint.js";
import {
  memoryBudget,
  planResidency,
  requireMemory,
  stateBytes,
  weightBytes,
  type MemoryBudget,
} from "../../src/model/memory-plan.js";
import { configJson, MUSICGEN_SMALL_SHAPE, type CheckpointShape } from "../../src/model/random-checkpoint.js";
import { temporaryFile } from "../support/temporary.js";

const GIB = 2 ** 30;
const MUSICGEN_MEDIUM_SHAPE: CheckpointShape = {
  ...MUSICGEN_SMALL_SHAPE,
  decoder: { layers: 48, width: 1536, heads: 24, ffnWidth: 6144, audioChannels: 1 },
};

async function configOf(shape: CheckpointShape): Promise<MusicGenConfig> {
  const file = await temporaryFile("config.json", JSON.stringify(configJson(shape)));
  return readMusicGenConfig(dirname(file));
}

describe("the memory plan", () => {
  const wasm = memoryBudget("wasm");
  const plain: MemoryBudget = { bytes: 20 * GIB, what: "a test", productCopies: 1, convolutionCopies: 1 };

  it("counts musicgen-small's parameters as they are known to be", async () => {
    const small = await configOf(MUSICGEN_SMALL_SHAPE);
    // 419,584,000 of the decoder and 787,456 of the projection, less its norms and bias; T5 109,628,544 less its norms.
    const { decoder, text } = weightBytes(small, plain);
    expect(decoder / 4 / (419_584_000 + 787_456)).toBeCloseTo(1, 3);
    expect(text / 4 / 109_628_544).toBeCloseTo(1, 3);
  });

  it("lets musicgen-small's networks take turns on wasm, and share a process of 20 GiB", async () => {
    const small = await configOf(MUSICGEN_SMALL_SHAPE);
    expect(planResidency(small, wasm)).toBe("staged");
    expect(planResidency(small, plain)).toBe("together");
  });

  it("refuses musicgen-medium on wasm, with the numbers", async () => {
    const medium = await configOf(MUSICGEN_MEDIUM_SHAPE);
    expect(() => planResidency(medium, wasm)).toThrow(MemoryError);
    expect(() => planResidency(medium, wasm)).toThrow(/13\.\d\d GiB.*3\.75 GiB/);
  });

  it("lets a clip of 10 s through on wasm, and refuses 16 of 30 s before anything is allocated", async () => {
    const small = await configOf(MUSICGEN_SMALL_SHAPE);
    const clip = { rows: 2, positions: 504, prefill: 1, frames: 500 };
    expect(() => requireMemory(small, wasm, "staged", clip)).not.toThrow();
    const many = { rows: 32, positions: 1504, prefill: 1, frames: 1500 };
    expect(() => requireMemory(small, wasm, "staged", many)).toThrow(MemoryError);
  });

  it("counts keys and values as the reference does: 591 MB for two rows of 1,504 positions", async () => {
    const small = await configOf(MUSICGEN_SMALL_SHAPE);
    const state = stateBytes(small, { rows: 2, positions: 1504, prefill: 1, frames: 1500 });
    expect(state / 591e6).toBeGreaterThan(1);
    expect(state / 591e6).toBeLessThan(1.1);
  });

  it("counts half of that for keys and values in 16 bits, and so lets a clip through that float32 does not", async () => {
    const small = await configOf(MUSICGEN_SMALL_SHAPE);
    const size = { rows: 2, positions: 1504, prefill: 1, frames: 1500 };
    const half = stateBytes(small, size, "f16");
    expect(stateBytes(small, size) - half).toBe(25 * 2 * 2 * 1024 * 1504 * 2); // layers and one, rows, keys and values
    const budget = { ...plain, bytes: weightBytes(small, plain).decoder + stateBytes(small, size) - 1 };
    expect(() => requireMemory(small, budget, "staged", size)).toThrow(MemoryError);
    expect(() => requireMemory(small, { ...budget, cacheStorage: "f16" }, "staged", size)).not.toThrow();
  });
});
