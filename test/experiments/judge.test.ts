import { describe, expect, it } from "vitest";

import { melFilters } from "../../src/audio/mel.js";
import { SafetensorsFile } from "../../src/checkpoint/safetensors.js";
import { judgeAudio, judgeFeatures, judgeLogits, loadJudge } from "../../src/experiments/judge.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { temporaryDirectory } from "../support/temporary.js";

// Signals with features and logits by tools/train/judge.py (PyTorch 2.13, float32): `write_golden`.
const SIGNALS = ["pluck", "pulses", "glide"] as const;

async function golden(): Promise<(name: string) => Promise<Float32Array>> {
  const file = await SafetensorsFile.open(fixtureDirectory("judge/golden.safetensors"));
  const all = new Map<string, Float32Array>();
  for (const name of file.tensors.keys()) all.set(name, await file.floats(name));
  await file.close();
  return async (name) => all.get(name) ?? Promise.reject(new Error(`no tensor ${name}`));
}

describe("the judge", () => {
  it("hears what its PyTorch original hears, and says the same", async () => {
    const judge = await loadJudge();
    const read = await golden();
    for (const name of SIGNALS) {
      const audio = { sampleRate: 32_000, channels: [await read(`${name}.signal`)] };
      const features = judgeFeatures(audio);
      expect(features).toBeAllClose(await read(`${name}.features`), { within: 1e-4 });
      for (const task of ["instrument", "genre"] as const) {
        const logits = await read(`${name}.${task}`);
        expect(judgeLogits(judge[task], features)).toBeAllClose(logits, { within: 1e-4 });
        const best = logits.indexOf(logits.reduce((most, value) => Math.max(most, value)));
        const judged = judgeAudio(judge, audio);
        expect(judged[task]).toBe(judge[task].names[best]);
        const sum = Object.values(judged.probabilities[task]).reduce((total, value) => total + value, 0);
        expect(sum).toBeCloseTo(1, 12);
      }
    }
  });

  it("is deaf to loudness, and to a second channel of the same", async () => {
    const judge = await loadJudge();
    const signal = await (await golden())("pluck.signal");
    const { probabilities } = judgeAudio(judge, { sampleRate: 32_000, channels: [signal] });
    const quiet = signal.map((sample) => sample / 8);
    const stereo = judgeAudio(judge, { sampleRate: 32_000, channels: [quiet, quiet] });
    for (const [name, value] of Object.entries(probabilities.instrument)) {
      expect(stereo.probabilities.instrument[name]).toBeCloseTo(value, 3);
    }
  });

  it("refuses a sound that is too short, and a folder without its files", async () => {
    const judge = await loadJudge();
    const short = { sampleRate: 32_000, channels: [new Float32Array(7167).fill(0.1)] };
    expect(() => judgeAudio(judge, short)).toThrow("7167 samples at 32 kHz");
    await expect(loadJudge(await temporaryDirectory())).rejects.toThrow("judge.json");
  });
});

describe("mel filters", () => {
  it("sum to 1 each, rise in pitch, and none is empty", () => {
    const filters = melFilters({ bands: 64, size: 256, sampleRate: 32_000, lowest: 30 });
    for (const { weights } of filters) expect(weights.reduce((sum, value) => sum + value, 0)).toBeCloseTo(1, 12);
    const firsts = filters.map(({ first }) => first);
    expect(firsts).toEqual(firsts.toSorted((a, b) => a - b));
  });
});
