import { readFile } from "node:fs/promises";
import { join } from "node:path";

import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";

import { readWavMetadata } from "../../src/audio/wav.js";
import { measureEffect, tokenChange } from "../../src/experiments/effect.js";
import { genreFusion, styleTransfer, timbreTransfer } from "../../src/experiments/recipes.js";
import { randomized } from "../../src/experiments/randomized.js";
import { atLayer, sweepSteering } from "../../src/experiments/sweep.js";
import { MusicGen } from "../../src/musicgen.js";
import { norms, conceptDirection } from "../../src/steering/algebra.js";
import { parseSpec } from "../../src/steering/spec.js";
import { steer } from "../../src/steering/steering.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { temporaryDirectory } from "../support/temporary.js";
import { randomVectors, specOf, TEXT } from "../steering/support.js";

const SITES = [0, 1, 2].map((layer) => `blocks.${layer}.hook_resid_post`);
const SITE = "blocks.1.hook_resid_post";

describe("the effect of steering", () => {
  it("is nothing at strength 0, and grows with the strength", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend: "cpu" });
    const vectors = { genre: randomVectors(model, SITES) };
    const options = { text: TEXT, frames: 24, seed: 3 };
    const clean = await model.generate(options);
    const effectAt = async (strength: number) => {
      const steering = steer(model, specOf([{ concept: "jazz", sites: SITE, strength }]), vectors);
      const steered = await model.generate({ ...options, steering });
      const judge = (): Record<string, number> => ({ loudness: 1 });
      return measureEffect({ model, steering, text: TEXT, guidance: 3, promptFrames: 0, clean, steered, judge });
    };
    const before = tf.memory().numTensors;
    const none = await effectAt(0);
    expect(none).toMatchObject({ tokenChange: 0, divergence: 0, normRatio: 1, judged: { loudness: 1 } });
    expect(none.sound).toEqual(none.cleanSound);
    const [some, more] = [await effectAt(0.1), await effectAt(1)];
    expect(some.divergence).toBeGreaterThan(0);
    expect(more.divergence).toBeGreaterThan(some.divergence ?? NaN);
    expect(more.tokenChange).toBeGreaterThan(0);
    expect(more.normRatio).not.toBe(1);
    expect(tf.memory().numTensors).toBe(before);
    await model.dispose();
  });

  it("counts changed codes after the prompt only", () => {
    const codes = (values: number[]) => ({ values: Int32Array.from(values), codebooks: 2, frames: 3 });
    expect(tokenChange(codes([1, 2, 3, 4, 5, 6]), codes([9, 2, 4, 9, 5, 6]), 1)).toBe(0.25);
  });
});

describe("a sweep", () => {
  it("writes clips, tables and a report for every layer, strength and control", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend: "cpu" });
    const vectors = { genre: randomVectors(model, SITES) };
    const folder = join(await temporaryDirectory(), "sweep");
    const spec = parseSpec(specOf([{ concept: "jazz", sites: SITE, strength: 1 }]));
    const options = { spec, vectors, control: true, generate: { text: TEXT, frames: 8, seed: 1 } };
    const found = await sweepSteering(model, folder, { ...options, strengths: [0.2, 0.8], layers: [0, 2] });
    expect(found.rows.map(({ layer, strength, direction }) => [layer, strength, direction])).toEqual([
      [0, 0.2, "concept"],
      [0, 0.2, "random"],
      [0, 0.8, "concept"],
      [0, 0.8, "random"],
      [2, 0.2, "concept"],
      [2, 0.2, "random"],
      [2, 0.8, "concept"],
      [2, 0.8, "random"],
    ]);
    const settings = await readWavMetadata(join(folder, "layer-2-strength-0.8.wav"));
    expect(settings).toMatchObject({
      steering: { spec: { segments: [{ steer: [{ strength: 0.8, sites: [SITES[2]] }] }] } },
    });
    expect((await readFile(join(folder, "sweep.csv"), "utf8")).trim().split("\n")).toHaveLength(9);
    const report = await readFile(join(folder, "report.html"), "utf8");
    for (const file of found.files.filter((name) => name.endsWith(".wav"))) expect(report).toContain(`src="${file}"`);
    expect(report).not.toMatch(/NaN|undefined/);
    const nowhere = sweepSteering(model, join(folder, "none"), { ...options, strengths: [0.2], layers: [7] });
    await expect(nowhere).rejects.toThrow("segments[0].steer[0].sites: a layer out of range");
    await expect(sweepSteering(model, folder, { ...options, strengths: [], layers: [0] })).rejects.toThrow(
      "nothing to try",
    );
    await model.dispose();
  });

  it("has controls of the same norm, and moves every kind of site to a layer", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend: "cpu" });
    const site = "blocks.2.attn.hook_z";
    const vectors = randomVectors(model, [site]);
    const control = randomized(vectors);
    const [own, other] = [vectors, control].map((one) => conceptDirection(one, site, "rock"));
    if (!own || !other) throw new Error("both have the concept");
    expect(norms(other)).toBeAllClose(norms(own), { within: 1e-5 });
    expect(other.values).not.toEqual(own.values);
    const spec = parseSpec(
      specOf([{ concept: "jazz", sites: ["blocks.*.attn.hook_z", "blocks.3.hook_mlp_out"], strength: 1 }]),
    );
    expect(atLayer(spec, 5).segments[0]?.steer[0]?.sites).toEqual(["blocks.5.attn.hook_z", "blocks.5.hook_mlp_out"]);
    await model.dispose();
  });
});

describe("the recipes", () => {
  it("are specs that say when, from what and to what", () => {
    const shared = { vectors: "v.safetensors", sites: SITE };
    const transfer = { ...shared, from: "trumpet", to: "violin", promptSeconds: 5, fadeSeconds: 1 };
    expect(timbreTransfer(transfer).segments).toMatchObject([
      { from: 5, until: null, steer: [{ concept: "violin", minus: "trumpet", restoreNorm: true, ramp: { over: 1 } }] },
    ]);
    expect(styleTransfer(transfer).segments).toMatchObject([{ from: 5, steer: [{ restoreNorm: false }] }]);
    const parts = [
      { concept: "jazz", from: 0.5, to: 0 },
      { concept: "rock", from: 0, to: 0.5 },
    ];
    expect(genreFusion({ ...shared, parts, orthogonal: true }).segments).toMatchObject([
      {
        steer: [
          { concept: "jazz", strength: 1, ramp: { from: 0.5, to: 0 } },
          { concept: "rock", without: ["jazz"] },
        ],
      },
    ]);
    expect(() => genreFusion({ ...shared, parts: parts.slice(1) })).toThrow("fewer than two");
  });
});
