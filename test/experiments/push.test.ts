import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";

import { meanNorms, pushNorms } from "../../src/experiments/push.js";
import { randomOfLengths } from "../../src/experiments/randomized.js";
import { MusicGen } from "../../src/musicgen.js";
import { conceptDirection, norms } from "../../src/steering/algebra.js";
import { steer } from "../../src/steering/steering.js";
import { randomVectors, specOf } from "../steering/support.js";
import { fixtureDirectory } from "../support/fixtures.js";

const SITES = ["blocks.1.hook_resid_post", "blocks.2.attn.hook_z"];
const [FRAMES, PROMPT] = [12, 5];

describe("how far steering moves activations", () => {
  it("is, of a direction that is added, its length, head by head, and nothing in the prompt; no tensor stays", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend: "cpu" });
    const { codebooks } = model.config.decoder;
    const vectors = randomVectors(model, SITES);
    const codes = { values: new Int32Array(codebooks * FRAMES).fill(3), codebooks, frames: FRAMES };
    const shared = { model, sites: SITES, text: null, promptFrames: PROMPT, codes };
    const moved = async (given: object): Promise<Readonly<Record<string, readonly number[]>>> => {
      const one = { concept: "jazz", sites: SITES, rows: "all", ...given };
      return pushNorms({ ...shared, steering: steer(model, specOf([one]), { genre: vectors }) });
    };
    await moved({ operator: "add", unit: "raw", strength: 1 }); // warms up
    const before = tf.memory().numTensors;
    const found = await moved({ operator: "add", unit: "raw", strength: 0.5 });
    expect(tf.memory().numTensors).toBe(before);
    for (const site of SITES) {
      const whole = norms(conceptDirection(vectors, site, "jazz"));
      expect(found[site]).toBeAllClose(
        whole.map((norm) => norm / 2),
        { within: 1e-4 },
      );
    }

    // The same norms in a random direction, added, are found again.
    const random = randomOfLengths(vectors, "jazz", found, 4);
    const again = { concept: "jazz", sites: SITES, rows: "all", operator: "add", unit: "raw", strength: 1 };
    const steering = steer(model, specOf([again]), { genre: random });
    const other = await pushNorms({ ...shared, steering });
    for (const site of SITES) expect(other[site]).toBeAllClose(found[site] ?? [], { within: 1e-4 });
    await model.dispose();
  });

  it("is, where a goal is reached already, nothing", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend: "cpu" });
    const { codebooks } = model.config.decoder;
    const [site = ""] = SITES;
    const vectors = randomVectors(model, [site]);
    const codes = { values: new Int32Array(codebooks * FRAMES).fill(3), codebooks, frames: FRAMES };
    const span = { concept: "jazz", sites: [site], rows: "all", operator: "span", strength: 1 };
    const once = steer(model, specOf([span]), { genre: vectors });
    const twice = steer(model, specOf([span, span]), { genre: vectors });
    const shared = { model, sites: [site], text: null, promptFrames: 0, codes };
    const [first] = (await pushNorms({ ...shared, steering: once }))[site] ?? [];
    const [both] = (await pushNorms({ ...shared, steering: twice }))[site] ?? [];
    expect(first).toBeGreaterThan(0.1);
    expect(both).toBeCloseTo(first ?? NaN, 4);
    await model.dispose();
  });

  it("is averaged by squares over clips", () => {
    expect(meanNorms([{ a: [3, 0] }, { a: [4, 0], b: [1] }])).toEqual({ a: [Math.sqrt(12.5), 0], b: [1] });
    expect(meanNorms([])).toEqual({});
  });
});
