import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";

import type { Audio } from "../../src/audio/audio.js";
import { CONCEPTS, type ClipJudge } from "../../src/experiments/concepts.js";
import type { LabelledClip } from "../../src/experiments/material.js";
import { measureQuality, qualityLines } from "../../src/experiments/quality.js";
import { TINY_SHAPE, writeRandomCheckpoint } from "../../src/model/random-checkpoint.js";
import { MusicGen } from "../../src/musicgen.js";
import { temporaryDirectory } from "../support/temporary.js";

/** Hears a flute and rock in everything, but a piano in what is exactly half loud. */
const judge: ClipJudge = ({ channels: [samples] }) => {
  const instrument = samples?.[100] === 0.5 ? "piano" : "flute";
  const sure = (names: readonly string[], chosen: string): Readonly<Record<string, number>> =>
    Object.fromEntries(names.map((name) => [name, name === chosen ? 1 : 0]));
  return {
    instrument,
    genre: "rock",
    probabilities: { instrument: sure(CONCEPTS.instrument, instrument), genre: sure(CONCEPTS.genre, "rock") },
  };
};

function clip(id: string, instrument: string, level: number, sampleRate: number): LabelledClip {
  const audio: Audio = { sampleRate, channels: [new Float32Array(sampleRate / 2).fill(level)] };
  return { id, classes: { instrument }, piece: id, split: undefined, read: () => Promise.resolve(audio) };
}

describe("quality of a checkpoint", () => {
  it("counts what the judge hears by class, what the codec keeps, and leaves no tensors", async () => {
    const directory = await temporaryDirectory();
    await writeRandomCheckpoint(directory, TINY_SHAPE, 5);
    const model = await MusicGen.load(directory);
    const material = [clip("a", "piano", 0.5, model.sampleRate), clip("b", "flute", 0.3, model.sampleRate)];
    const before = tf.memory().numTensors;
    const quality = await measureQuality(model, { judge, prompts: 2, seeds: 1, seconds: 0.2, material });
    expect(tf.memory().numTensors).toBe(before);

    const [instrument, genre] = quality.control;
    expect(instrument?.all).toMatchObject({ hits: 2, trials: 16 }); // the two that asked for a flute
    expect(instrument?.classes.find(({ name }) => name === "violin")?.heard).toEqual({ flute: 2 });
    expect(genre?.all).toMatchObject({ hits: 2, trials: 8 });
    // Random weights don't give back a half-loud sound: the piano is lost, the flute stays one.
    expect(quality.codec?.judged).toMatchObject([
      { task: "instrument", originals: { hits: 2, trials: 2 }, reconstructions: { hits: 1, trials: 2 }, kept: 0.5 },
    ]);
    expect(quality.faults.silence.trials).toBe(24);

    const lines = qualityLines(quality).join("\n");
    expect(lines).toContain("heard as flute 2");
    expect(lines).toContain("50.0 % kept");
    const without = await measureQuality(model, { judge, prompts: 1, seeds: 1, seconds: 0.2 });
    expect(without.codec).toBeNull();
    expect(qualityLines(without).at(-1)).toContain("--audio");
    await model.dispose();
  }, 60_000);
});
