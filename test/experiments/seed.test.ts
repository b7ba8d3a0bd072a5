import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";

import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";

import type { Audio } from "../../src/audio/audio.js";
import { CONCEPTS, faultsOf, type ClipJudge } from "../../src/experiments/concepts.js";
import { isAbove, meanOf, shareOf } from "../../src/experiments/intervals.js";
import { findings } from "../../src/experiments/seed-findings.js";
import { writeSeedReport } from "../../src/experiments/seed-report.js";
import { runSeedExperiment, seedSettings } from "../../src/experiments/seed.js";
import { TINY_SHAPE, writeRandomCheckpoint } from "../../src/model/random-checkpoint.js";
import { MusicGen } from "../../src/musicgen.js";
import { temporaryDirectory } from "../support/temporary.js";

/** Deals sounds out to a few classes by a number that depends on every sample: it can't be right, and doesn't have to be. */
const fakeJudge: ClipJudge = (audio: Audio) => {
  const sum = audio.channels[0]?.reduce((total, sample, index) => total + Math.abs(sample) * (1 + (index % 7)), 0) ?? 0;
  const pick = (names: readonly string[]): Readonly<Record<string, number>> => {
    const chosen = Math.floor(sum * 1000) % 2;
    return Object.fromEntries(names.map((name, index) => [name, index === chosen ? 0.9 : 0.1 / (names.length - 1)]));
  };
  const [instrument, genre] = [pick(CONCEPTS.instrument), pick(CONCEPTS.genre)];
  const best = (one: Readonly<Record<string, number>>): string =>
    Object.entries(one).reduce((a, b) => (b[1] > a[1] ? b : a))[0];
  return { instrument: best(instrument), genre: best(genre), probabilities: { instrument, genre } };
};

const MINIATURE = {
  judge: fakeJudge,
  pairs: 1,
  clips: 1,
  fitClips: 5,
  choiceClips: 1,
  matrixClips: 1,
  seconds: 0.3,
  promptSeconds: 0.2,
  steerSeconds: 0.2,
  sourceSeconds: 0.5,
  strengths: [0.5],
  penalties: [0.1],
  seed: 3,
};

describe("the experiment in miniature, on random weights with a judge that guesses", () => {
  it("runs from clips to report, goes on without doing a stage twice, and leaves no tensors", async () => {
    const directory = await temporaryDirectory();
    await writeRandomCheckpoint(join(directory, "model"), TINY_SHAPE, 5);
    const model = await MusicGen.load(join(directory, "model"));
    const folder = join(directory, "experiment");
    const before = tf.memory().numTensors;
    const { result, stages } = await runSeedExperiment(model, folder, MINIATURE);
    expect(tf.memory().numTensors).toBe(before);
    const [instrument, genre] = result.tasks;
    expect(instrument?.classes.filter(({ fit }) => fit > 0).map(({ name }) => name)).toEqual(["piano", "violin"]);
    expect(result.notes.join()).toContain("these classes are left out: trumpet (0 of 24)");
    expect(genre?.pairs[0]?.outcomes[0]).toMatchObject({ content: 1, divergence: null }); // left alone
    const steered = genre?.pairs.find(({ condition }) => condition === "steered 0.5");
    expect(steered?.outcomes[0]?.divergence).toBeGreaterThan(0);
    expect(stages.reused).toEqual([]);
    expect(stages.made).toContain("steering/instrument/piano-to-violin/wrong-layer");
    for (const { choice, second, pairs } of result.tasks) {
      expect(new Set([choice?.at, second?.at])).toEqual(new Set(["residual", "heads"]));
      const other = second?.at === "heads" ? "heads" : "residual stream";
      const names = pairs.map(({ condition }) => condition);
      expect(names).toEqual(expect.arrayContaining([other, `${other}, random direction`, "steered to the end"]));
    }

    expect(genre?.matrix.map(({ pair }) => pair.to)).toEqual(["electronic", "electronic", "classical", "classical"]);
    const [cell, control] = genre?.matrix ?? [];
    expect(cell?.outcomes[0]).toMatchObject({
      source: steered?.outcomes[0]?.source,
      content: steered?.outcomes[0]?.content,
    });
    expect(control?.condition).toBe("every pair, random direction");
    expect(control?.outcomes[0]?.content).not.toBe(cell?.outcomes[0]?.content);

    const files = await writeSeedReport(folder, result);
    expect(files).toEqual(["results.json", "table.csv", "report.html"]);
    const report = await readFile(join(folder, "report.html"), "utf8");
    expect(report).toContain("data:audio/wav;base64,");
    expect(report).not.toMatch(/undefined|\[object/);
    expect(report).toContain("steered from row to column with the melody kept");
    expect(findings(result).some((line) => line.startsWith("genre, all 2 pairs, steered: "))).toBe(true);
    expect(findings(result).some((line) => line.startsWith("genre: steering alone reaches"))).toBe(true);

    // Killed between two stages: what is missing is done again, nothing else, and comes out the same.
    const lost = "stages/steering/genre/classical-to-electronic/text.json";
    await rm(join(folder, lost));
    const again = await runSeedExperiment(model, folder, MINIATURE);
    expect(again.stages.made).toEqual(["steering/genre/classical-to-electronic/text"]);
    expect(again.stages.reused).toHaveLength(stages.made.length - 1);
    expect(again.result).toEqual(result);

    const other = runSeedExperiment(model, folder, { ...MINIATURE, clips: 2 });
    await expect(other).rejects.toThrow("clips 1, now 2");
    await model.dispose();
  }, 180_000);

  it("refuses numbers that make no experiment", () => {
    expect(() => seedSettings({ clips: 0 })).toThrow("clips 0");
    expect(() => seedSettings({ matrixClips: -1 })).toThrow("matrixClips -1");
    expect(() => seedSettings({ seconds: 3, steerSeconds: 4 })).toThrow("steered for 4 s");
    expect(() => seedSettings({ steerSeconds: 0 })).toThrow("steered for 0 s");
    expect(seedSettings({ quick: true, pairs: 3 })).toMatchObject({ pairs: 3, clips: 8 });
  });
});

describe("intervals", () => {
  it("of shares are Wilson's", () => {
    // Newcombe 1998, table I: 81 of 263 → 0.2553 to 0.3662; 0 of 20 → 0 to 0.1611.
    const [many, none] = [shareOf(81, 263), shareOf(0, 20)];
    expect([many.low, many.high, none.low, none.high]).toBeAllClose([0.2553, 0.3662, 0, 0.1611], { within: 1e-4 });
    expect(none.value).toBe(0);
    expect(isAbove(shareOf(18, 20), shareOf(2, 20))).toBe(true);
    expect(isAbove(shareOf(11, 20), shareOf(9, 20))).toBe(false);
  });

  it("of means hold the mean, and narrow with more values", () => {
    const values = Array.from({ length: 40 }, (_, index) => (index * 7) % 11);
    const [few, many] = [meanOf(values.slice(0, 10)), meanOf([...values, ...values, ...values])];
    expect(few && few.low < few.value && few.value < few.high).toBe(true);
    expect(many && few && many.high - many.low < few.high - few.low).toBe(true);
    expect(meanOf([])).toBeUndefined();
  });
});

describe("faults of a clip", () => {
  it("are silence, clipping and codes that stand still", () => {
    const sound = (level: number): Audio => ({ sampleRate: 1000, channels: [new Float32Array(2000).fill(level)] });
    const still = { values: new Int32Array(200), codebooks: 2, frames: 100 };
    const moving = { values: Int32Array.from({ length: 200 }, (_, index) => index % 3), codebooks: 2, frames: 100 };
    expect(faultsOf(sound(0.1), moving, 50)).toEqual([]);
    expect(faultsOf(sound(0.0001), moving, 50)).toEqual(["silence"]);
    expect(faultsOf(sound(1), moving, 50)).toEqual(["clipping"]);
    expect(faultsOf(sound(0.1), still, 50)).toEqual(["stuck"]);
  });
});
