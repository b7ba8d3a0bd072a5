import { readFile } from "node:fs/promises";
import { join } from "node:path";

import * as tf from "@tensorflow/tfjs-core";
import { expect, it, describe } from "vitest";

import { SafetensorsFile, writeSafetensors } from "../src/checkpoint/safetensors.js";
import { UsageError } from "../src/errors.js";
import { TINY_SHAPE, writeRandomCheckpoint, type CheckpointShape } from "../src/model/random-checkpoint.js";
import { MusicGen } from "../src/musicgen.js";
import { PUBLISHED_VALUES, type PublishedValues } from "../src/published-values.js";
import { promptSounds, publishedValues, verifyCheckpoint } from "../src/verify.js";
import { describeOnEachBackend } from "./support/backends.js";
import { fixtureJson } from "./support/fixtures.js";
import { temporaryDirectory } from "./support/temporary.js";

const STEREO: CheckpointShape = { ...TINY_SHAPE, decoder: { ...TINY_SHAPE.decoder, audioChannels: 2 } };

/**
 * The published cases with the values that transformers 5.18.0 gives for a tiny random checkpoint (seed 1) in place of
 * those published: tools/reference/run_published_cases.py.
 */
function casesOf(model: string, file: string): PublishedValues {
  const published = PUBLISHED_VALUES.find((one) => one.model === model);
  const { values } = fixtureJson(`verify/${file}`) as { readonly values: Readonly<Record<string, readonly number[]>> };
  if (!published) throw new Error(`no ${model}`);
  return { ...published, cases: published.cases.map((one) => ({ ...one, values: values[one.name] ?? [] })) };
}

const KINDS = [
  ["mono", TINY_SHAPE, casesOf("facebook/musicgen-small", "tiny.json")],
  ["stereo", STEREO, casesOf("facebook/musicgen-stereo-small", "tiny-stereo.json")],
] as const;

describeOnEachBackend("verifyCheckpoint", (backend) => {
  it.each(KINDS)("finds that a %s model gives the values transformers gives for it", async (_, shape, published) => {
    const directory = await temporaryDirectory();
    await writeRandomCheckpoint(directory, shape, 1);
    const model = await MusicGen.load(directory, { backend });
    const before = tf.memory().numTensors;
    const verification = await verifyCheckpoint(model, published);
    expect(verification.cases.filter(({ passed }) => !passed)).toEqual([]);
    expect(verification).toMatchObject({ passed: true, model: published.model });
    expect(verification.cases.map(({ name }) => name)).toEqual(published.cases.map(({ name }) => name));
    expect(tf.memory().numTensors).toBe(before);
    await model.dispose();
  });
});

describe("verifyCheckpoint", () => {
  it("finds one changed weight", { timeout: 30_000 }, async () => {
    const directory = await temporaryDirectory();
    await writeRandomCheckpoint(directory, TINY_SHAPE, 1);
    const path = join(directory, "model.safetensors");
    const file = await SafetensorsFile.open(path);
    const tensors = [];
    for (const { name, shape } of file.tensors.values()) {
      const values = await file.floats(name);
      if (name === "decoder.model.decoder.layers.1.fc1.weight") values.fill(0);
      tensors.push({ name, shape, dtype: "F32" as const, values });
    }
    await file.close();
    await writeSafetensors(path, tensors);
    const model = await MusicGen.load(directory);
    const { passed, cases } = await verifyCheckpoint(model, KINDS[0][2]);
    expect(passed).toBe(false);
    expect(cases.find(({ name }) => name === "logits_text_prompt")).toMatchObject({ passed: false });
    await model.dispose();
  });

  it("refuses a model for which nothing was published", async () => {
    const directory = await temporaryDirectory();
    await writeRandomCheckpoint(directory, TINY_SHAPE, 1);
    const model = await MusicGen.load(directory, { onDemand: true });
    expect(() => publishedValues(model)).toThrow(UsageError);
    await expect(verifyCheckpoint(model)).rejects.toThrow(/3 layers of width 64 \(mono\).*facebook\/musicgen-small/);
    await model.dispose();
  });

  it("plays the sounds that the published continuations start from", () => {
    const [half, whole] = promptSounds(2);
    expect(half?.channels).toHaveLength(2);
    expect(half?.channels[0]?.subarray(0, 20_000).every((sample) => sample === 0)).toBe(true); // 0.5 s, then an eighth
    expect(half?.channels[0]?.[20_000]).toBeCloseTo(Math.cos(2 * Math.PI * 440 * 0.125), 6);
    expect(whole?.channels[0]?.[4000]).toBeCloseTo(Math.cos(2 * Math.PI * 440 * 0.125), 6);
    expect(whole?.channels[0]?.[8000]).toBe(0);
  });

  it("holds the numbers of the published file", async () => {
    const path = join(import.meta.dirname, "fixtures/golden/musicgen_hf_expected.json");
    const text = await readFile(path, "utf8");
    const numbers = new Set(Array.from(text.matchAll(/-?\d+\.\d+(?:e-?\d+)?/g), ([digits]) => Number(digits)));
    const cases = PUBLISHED_VALUES.filter(({ model }) => !model.endsWith("melody")).flatMap((model) => model.cases);
    for (const { name, values } of cases) {
      expect(
        values.filter((value) => !numbers.has(value)),
        name,
      ).toEqual([]);
    }
    expect(cases.flatMap(({ values }) => values)).toHaveLength(16 + 10 + 16 + 16 + 4 * 16);
  });
});
