import { join } from "node:path";

import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";

import { SafetensorsFile, writeSafetensors, type NamedTensor } from "../../src/checkpoint/safetensors.js";
import { TINY_SHAPE, writeRandomCheckpoint } from "../../src/model/random-checkpoint.js";
import { MusicGen } from "../../src/musicgen.js";
import type { SteeringVectors } from "../../src/probes/vectors.js";
import { Gate, planGate } from "../../src/steering/gate.js";
import { steer, type SteeringTrace } from "../../src/steering/steering.js";
import { parseSpec } from "../../src/steering/spec.js";
import { describeOnEachBackend } from "../support/backends.js";
import { temporaryDirectory } from "../support/temporary.js";
import { bareModel, noise, randomVectors, specOf } from "./support.js";

/** Tokens that the planted concept favours, in every codebook: the upper half. */
const FAVOURED = TINY_SHAPE.codec.codebookSize / 2;
const WIDTH = TINY_SHAPE.decoder.width;
const SITE = `blocks.${TINY_SHAPE.decoder.layers - 1}.hook_resid_post`;
const GAIN = 2;

/** A direction of mean 0, so that the final layer norm, which takes the mean off, leaves it alone. */
function centredUnit(seed: number): Float32Array {
  const values = noise(WIDTH, seed);
  const mean = values.reduce((total, value) => total + value, 0) / WIDTH;
  const centred = values.map((value) => value - mean);
  const norm = Math.hypot(...centred);
  return centred.map((value) => value / norm);
}

const CONCEPT = centredUnit(11);

/**
 * A random direction at a right angle to the concept. Of 64 dimensions two random directions have a cosine of ±1/8, and the
 * planted gain would show it.
 */
function across(seed: number): Float32Array {
  const values = centredUnit(seed);
  const along = values.reduce((total, value, index) => total + value * (CONCEPT[index] ?? 0), 0);
  return values.map((value, index) => value - along * (CONCEPT[index] ?? 0));
}

/**
 * A random checkpoint with a concept planted into its heads: a final state along CONCEPT raises the logits of the upper
 * half of all tokens and lowers those of the lower half; across it the heads are what they were.
 */
async function plantedCheckpoint(): Promise<string> {
  const [original, planted] = [await temporaryDirectory(), await temporaryDirectory()];
  await writeRandomCheckpoint(original, TINY_SHAPE, 3);
  await writeRandomCheckpoint(planted, TINY_SHAPE, 3);
  const file = await SafetensorsFile.open(join(original, "model.safetensors"));
  const tensors: NamedTensor[] = [];
  for (const [name, { shape }] of file.tensors) {
    const values = await file.floats(name);
    if (name.startsWith("decoder.lm_heads.")) plant(values);
    tensors.push({ name, shape, dtype: "F32", values });
  }
  await file.close();
  await writeSafetensors(join(planted, "model.safetensors"), tensors, { format: "pt" });
  return planted;
}

/** @param head [V, D] */
function plant(head: Float32Array): void {
  for (let token = 0; token < head.length / WIDTH; token++) {
    const row = head.subarray(token * WIDTH, (token + 1) * WIDTH);
    const along = row.reduce((total, value, index) => total + value * (CONCEPT[index] ?? 0), 0);
    const wanted = token >= FAVOURED ? GAIN : -GAIN;
    row.forEach((value, index) => (row[index] = value + (wanted - along) * (CONCEPT[index] ?? 0)));
  }
}

function vectorsAlong(model: MusicGen, direction: Float32Array): SteeringVectors {
  const made = randomVectors(model, [SITE], ["planted"]);
  const sites = [...made.sites].map(
    ([site, one]) => [site, { ...one, directions: direction.map((v) => 3 * v) }] as const,
  );
  return { ...made, sites: new Map(sites) };
}

/** The part of a generation's tokens that the concept favours. */
async function favouredShare(model: MusicGen, direction: Float32Array | undefined, strength: number): Promise<number> {
  const spec = specOf([{ concept: "planted", sites: SITE, strength, rows: "all" }]);
  const steering = direction && steer(model, spec, { genre: vectorsAlong(model, direction) });
  const { codes } = await model.generate({ frames: 60, seed: 5, topK: 0, ...(steering ? { steering } : {}) });
  return codes.values.filter((code) => code >= FAVOURED).length / codes.values.length;
}

describeOnEachBackend("steering a checkpoint with a planted concept", (backend) => {
  it("moves the next tokens as predicted, both ways, and a random direction of the same norm does not", async () => {
    const model = await MusicGen.load(await plantedCheckpoint(), { backend });
    const clean = await favouredShare(model, undefined, 0);
    const towards = await favouredShare(model, CONCEPT, 1);
    const away = await favouredShare(model, CONCEPT, -1);
    const random: number[] = [];
    for (const seed of [21, 22, 23]) random.push(await favouredShare(model, across(seed), 1));
    // h' is half CONCEPT by norm: the layer norm gives it √D · cos 45° ≈ 5.7, times the planted gain of ±2.
    expect(clean).toBeGreaterThan(0.15);
    expect(clean).toBeLessThan(0.85);
    expect(towards).toBeGreaterThan(0.97);
    expect(away).toBeLessThan(0.03);
    for (const share of random) {
      expect(share).toBeGreaterThan(0.15);
      expect(share).toBeLessThan(0.85);
    }
    await model.dispose();
  });

  it("moves the logits by the computed amount", async () => {
    const model = await MusicGen.load(await plantedCheckpoint(), { backend });
    const { codes } = await model.generate({ frames: 6, seed: 1 });
    const site = { sites: [SITE, "ln_final.hook_scale"] };
    const clean = await model.runWithCache({ text: null, codes }, site);
    const vectors = { genre: vectorsAlong(model, CONCEPT) };
    const strength = 4;
    const spec = specOf([{ concept: "planted", sites: SITE, operator: "add", unit: "unit", strength, rows: "null" }]);
    const run = { frames: 6, promptFrames: 0, frameRate: 50, rows: { batch: 1, roles: ["null"] } } as const;
    const begun = steer(model, spec, vectors).begin(run);
    const steered = await model.runWithCache({ text: null, codes }, site, begun.hooks);
    begun.end();
    // The gap between a favoured and an unfavoured token's logits, before: (h · Δw) / σ; after: (h · Δw + 4 Δ) / σ'.
    const last = clean.logits.shape[2];
    const entries = TINY_SHAPE.codec.codebookSize;
    const gap = (logits: ArrayLike<number>, position: number): number => {
      const start = position * entries; // codebook 0 of row 0
      const mean = (from: number): number =>
        Array.from({ length: FAVOURED }, (_, token) => logits[start + from + token] ?? NaN).reduce((x, y) => x + y, 0) /
        FAVOURED;
      return mean(FAVOURED) - mean(0);
    };
    const before = await clean.logits.data();
    const after = await steered.logits.data();
    const scaleBefore = await clean.cache["ln_final.hook_scale"]?.data();
    const scaleAfter = await steered.cache["ln_final.hook_scale"]?.data();
    for (let position = 0; position < (last ?? 0); position++) {
      const [own, moved] = [scaleBefore?.[position] ?? NaN, scaleAfter?.[position] ?? NaN];
      const predicted = (gap(before, position) * own + strength * 2 * GAIN) / moved;
      expect(gap(after, position)).toBeCloseTo(predicted, 3);
    }
    tf.dispose([clean.logits, steered.logits, ...Object.values(clean.cache), ...Object.values(steered.cache)]);
    await model.dispose();
  });

  it("is switched off by a monitor when the concept is reached, and held at a target by a controller", async () => {
    const model = await MusicGen.load(await plantedCheckpoint(), { backend });
    const made = vectorsAlong(model, CONCEPT);
    const reading = `blocks.${TINY_SHAPE.decoder.layers - 1}.hook_resid_mid`;
    const probe = randomVectors(model, [reading], ["planted"]);
    const monitored = async (gate: object, bias: number): Promise<readonly SteeringTrace[]> => {
      const sites = [...probe.sites].map(
        ([site, one]) => [site, { ...one, bias: Float32Array.of(bias), gain: Float32Array.of(0) }] as const,
      );
      const traces: SteeringTrace[] = [];
      const intervention = { concept: "planted", sites: SITE, strength: 1, rows: "all" };
      const monitor = { vectors: "probe", concept: "planted", sites: reading, top: 1 };
      const spec = specOf([{ ...intervention, gate: { ...gate, monitor } }], { vectors: { genre: "g", probe: "p" } });
      const vectors = { genre: made, probe: { ...probe, sites: new Map(sites) } };
      const steering = steer(model, spec, vectors, { onPass: (trace) => traces.push(trace) });
      await model.generate({ frames: 6, seed: 1, steering });
      return traces;
    };
    const strengths = (traces: readonly SteeringTrace[]): readonly number[] =>
      traces.flatMap((trace) => trace.strengths.flat());
    // A probe of gain 0 reads sigmoid(bias) always: 0.5 and 0.88.
    expect(strengths(await monitored({ kind: "monitor", threshold: 0.6, decay: 0.5 }, 0))).toEqual([
      1,
      ...Array<number>(8).fill(0.75),
    ]);
    expect(strengths(await monitored({ kind: "monitor", threshold: 0.6 }, 2))).toEqual([
      1,
      ...Array<number>(8).fill(0),
    ]);
    const pid = await monitored({ kind: "pid", target: 0.8, kp: 1, ki: 0.05, kd: 0.01 }, 0);
    expect(strengths(pid)).toBeAllClose([0.8, ...Array.from({ length: 8 }, (_, n) => 0.3 + 0.05 * 0.3 * (n + 1))], {
      within: 1e-6,
    });
    expect(pid[1]?.gates[0]?.readings[0]).toBeCloseTo(0.5, 6);
    await model.dispose();
  });
});

it("reads the median of the best units, and takes its threshold from their scores", () => {
  const model = bareModel("heads");
  const site = "blocks.0.attn.hook_z";
  const vectors = randomVectors(model, [site], ["jazz"]);
  const scores = new Map([...vectors.sites].map(([name, one]) => [name, { ...one, score: Float32Array.of(0.9, 0.7) }]));
  const gate = { kind: "monitor", monitor: { concept: "jazz", sites: site, top: 2 } };
  const spec = parseSpec(specOf([{ concept: "jazz", sites: site, strength: 1, gate }]));
  const parsed = spec.segments[0]?.steer[0]?.gate;
  if (!parsed) throw new Error("the spec has a gate");
  const plan = planGate(parsed, "gate", model, model.sites(), { genre: { ...vectors, sites: scores } });
  expect(plan.threshold).toBeCloseTo(0.8 - 0.1, 6);
  expect(plan.unitsBySite.get(site)?.map(({ offset }) => offset)).toEqual([0, 4]);
  expect([...new Gate(plan, 3).factors]).toEqual([1, 1, 1]);
});
