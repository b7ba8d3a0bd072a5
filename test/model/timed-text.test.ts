import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";

import type { Hook } from "../../src/activations/hooks.js";
import type { Audio } from "../../src/audio/audio.js";
import { UsageError } from "../../src/errors.js";
import type { Codes } from "../../src/model/delay.js";
import { placeTexts, withStretches, type TextStretch } from "../../src/model/timed-text.js";
import { MusicGen, type ForwardOptions, type HookedGenerateOptions } from "../../src/musicgen.js";
import { steer } from "../../src/steering/steering.js";
import type { TokenBatch } from "../../src/text/tokenizer.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { noise, randomVectors, specOf } from "../steering/support.js";

const FRAMES = 12;
const SWITCH = 5;

function tokens(...ids: readonly number[]): TokenBatch {
  return { ids: Int32Array.from(ids), mask: new Int32Array(ids.length).fill(1), batch: 1, length: ids.length };
}

const [JAZZ, ELECTRONIC, SAD] = [tokens(5, 9, 1), tokens(7, 3, 8, 2, 1), tokens(4, 1)];
const TIMED = [{ text: JAZZ }, { fromFrame: SWITCH, text: ELECTRONIC }];

/** A sound that becomes 8 frames, so that the text changes within it: the fixture's hop is 40 samples. */
const PROMPT: Audio = { sampleRate: 32_000, channels: [noise(8 * 40, 3).map((value) => value / 3)] };

interface Run {
  readonly codes: Codes;
  readonly logits: ReadonlyMap<number, Float32Array>; // by position: [R, K, V]
  readonly segments: readonly (readonly [position: number, segment: number | undefined])[];
}

/** A generation, with the logits of each position that decides something. */
async function generate(model: MusicGen, options: HookedGenerateOptions): Promise<Run> {
  const logits = new Map<number, Float32Array>();
  const segments: [number, number | undefined][] = [];
  const keep: Hook = {
    sites: "hook_logits",
    run: async (value, at) => {
      const [position = -1] = at.positions;
      logits.set(position, Float32Array.from(await value.data()));
      segments.push([position, at.textSegment]);
      return undefined;
    },
  };
  const { codes } = await model.generate({ frames: FRAMES, seed: 7, ...options, hooks: [keep] });
  return { codes, logits, segments };
}

/** Logits of one row at a position of a whole pass: [K, V]. */
async function rowAt(logits: tf.Tensor, row: number, position: number): Promise<Float32Array> {
  const [, codebooks = 0, , entries = 0] = logits.shape;
  const slice = tf.slice(logits, [row, 0, position, 0], [1, codebooks, 1, entries]);
  const values = Float32Array.from(await slice.data());
  slice.dispose();
  return values;
}

/**
 * The reference, without a cache and without the code under test: both texts are run over the same codes in one pass of
 * two rows, and after every cross-attention both rows go on with what the first one read at the positions before the
 * change, and the second one from there on.
 */
async function composed(model: MusicGen, codes: Codes, first: TokenBatch, second: TokenBatch): Promise<tf.Tensor> {
  const length = Math.max(first.length, second.length);
  const padded = (values: Int32Array): number[] => [...values, ...Array<number>(length - values.length).fill(0)];
  const both = {
    ids: Int32Array.from([...padded(first.ids), ...padded(second.ids)]),
    mask: Int32Array.from([...padded(first.mask), ...padded(second.mask)]),
    batch: 2,
    length,
  };
  const mix: Hook = {
    sites: "blocks.*.hook_cross_attn_out",
    run: (value) =>
      tf.tidy(() => {
        const [, positions = 0, width = 0] = value.shape;
        const before = tf.slice(value, [0, 0, 0], [1, SWITCH, width]);
        const after = tf.slice(value, [1, SWITCH, 0], [1, positions - SWITCH, width]);
        return tf.tile(tf.concat([before, after], 1), [2, 1, 1]);
      }),
  };
  return (await model.runWithHooks({ text: both, codes: [codes, codes], rows: ["cond"] }, [mix])).logits;
}

describeOnEachBackend("a text that changes over time", (backend) => {
  it("changes not one bit before, and everything after", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    for (const more of [{}, { negative: SAD }, { guidance: 1 }]) {
      const plain = await generate(model, { text: JAZZ, ...more });
      const timed = await generate(model, { text: TIMED, ...more });
      expect([...timed.logits.keys()]).toEqual([...plain.logits.keys()]);
      for (const [position, values] of timed.logits) {
        if (position < SWITCH) expect(values).toEqual(plain.logits.get(position));
        else expect(values).not.toEqual(plain.logits.get(position));
      }
      expect(timed.segments).toEqual([...timed.logits.keys()].map((position) => [position, position < SWITCH ? 0 : 1]));
    }
    await model.dispose();
  });

  it.each([
    ["from the BOS column on", {}],
    ["within an audio prompt", { promptAudio: PROMPT }],
  ])("is what a composition without a cache gives: %s", async (_, more) => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const run = await generate(model, { text: TIMED, ...more });
    const reference = await composed(model, run.codes, JAZZ, ELECTRONIC);
    const unconditional = await model.forward({ text: null, codes: run.codes });
    expect(run.logits.has(FRAMES + 2)).toBe(true);
    for (const [position, values] of run.logits) {
      const half = values.length / 2;
      const [cond, none] = [await rowAt(reference, 0, position), await rowAt(unconditional, 0, position)];
      expect(values.subarray(0, half)).toBeAllClose(cond, { within: 1e-4 });
      expect(values.subarray(half)).toBeAllClose(none, { within: 1e-4 });
    }
    tf.dispose([reference, unconditional]);
    await model.dispose();
  });

  it("is read by teacher-forced passes too, in parts that go on from each other", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const { codes } = await generate(model, { text: TIMED });
    const reference = await composed(model, codes, JAZZ, ELECTRONIC);
    const options: ForwardOptions = { text: TIMED, codes };
    const before = tf.memory().numTensors;
    const { logits, cache } = await model.runWithCache(options, {
      sites: ["blocks.1.hook_resid_post", "blocks.1.*attn.hook_pattern", "blocks.2.hook_resid_pre"],
    });
    const [positions] = [logits.shape[2] ?? 0];
    expect(logits.shape).toEqual([1, ...reference.shape.slice(1)]);
    for (let position = 0; position < positions; position++) {
      expect(await rowAt(logits, 0, position)).toBeAllClose(await rowAt(reference, 0, position), { within: 1e-4 });
    }
    expect(cache["blocks.1.hook_resid_post"]?.shape[1]).toBe(positions);
    expect(cache["blocks.1.attn.hook_pattern"]?.shape.slice(2)).toEqual([positions, positions]);
    expect(cache["blocks.1.cross_attn.hook_pattern"]?.shape.slice(2)).toEqual([positions, ELECTRONIC.length]);
    // A part of the blocks gives the same, from the residual stream that the whole had there.
    const residual = cache["blocks.2.hook_resid_pre"] as tf.Tensor3D;
    const upper = await model.forward({ ...options, startAt: { layer: 2, residual } });
    expect(await upper.data()).toBeAllClose(await logits.data(), { within: 1e-5 });
    const lower = await model.forward({ ...options, stopAt: 2 });
    expect(await lower.data()).toBeAllClose(await residual.data(), { within: 1e-5 });
    tf.dispose([logits, upper, lower, ...Object.values(cache)]);
    expect(tf.memory().numTensors).toBe(before);
    const stops = [...model.walk(options, "blocks.1.hook_resid_post")].map((at) => [at.textSegment, at.positions[0]]);
    expect(stops).toEqual([
      [0, 0],
      [1, SWITCH],
    ]);
    reference.dispose();
    await model.dispose();
  });

  it("leaves no tensor behind, also when it is ended early", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const before = tf.memory().numTensors;
    await generate(model, { text: TIMED, promptAudio: PROMPT });
    for (const site of ["blocks.1.hook_resid_post", "text.blocks.1.hook_resid_post"]) {
      let stops = 0;
      for await (const at of model.walkGeneration({ text: TIMED, frames: FRAMES, promptAudio: PROMPT }, site)) {
        expect(at.site).toBe(site);
        if (++stops === 2) break;
      }
    }
    for (const at of model.walk({ text: TIMED, codes: { values: new Int32Array(4 * 8), codebooks: 4, frames: 8 } })) {
      if (at.textSegment === 1) break;
    }
    expect(tf.memory().numTensors).toBe(before);
    await model.dispose();
  });
});

describe("texts in the segments of a steering spec", () => {
  it("hold for their segment, beside its directions", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend: "cpu" });
    const vectors = { genre: randomVectors(model, ["blocks.1.hook_resid_post"]) };
    const one = { concept: "jazz", sites: "blocks.1.hook_resid_post", strength: 0.5 };
    const segments = [
      { until: 3, steer: [one] },
      { from: SWITCH, until: 9, text: "electronic" },
    ];
    const steering = steer(model, { ...specOf([]), time: "frames", segments }, vectors);
    expect(steering.texts?.(50)).toEqual([{ first: SWITCH, end: 9, text: "electronic", path: "segments[1].text" }]);
    // The fixture has no tokenizer; the error shows that the text arrived.
    const run = model.generate({ text: JAZZ, frames: FRAMES, seed: 7, steering });
    await expect(run).rejects.toThrow('read the text "electronic"');
    await model.dispose();
  });

  it("take the place of the clip's own text, or of none where they cover the clip", () => {
    const stretch = (first: number, end: number | null, text: string): TextStretch => ({
      first,
      end,
      text,
      path: text,
    });
    const jazz = stretch(0, 4, "jazz");
    expect(withStretches("trio", [], 12, 50)).toBe("trio");
    expect(withStretches("trio", [stretch(4, 8, "jazz")], 12, 50)).toEqual([
      { fromFrame: 0, text: "trio" },
      { fromFrame: 4, text: "jazz" },
      { fromFrame: 8, text: "trio" },
    ]);
    expect(withStretches([{ text: "a" }, { fromFrame: 6, text: "b" }], [stretch(4, 8, "jazz")], 12, 50)).toEqual([
      { fromFrame: 0, text: "a" },
      { fromFrame: 4, text: "jazz" },
      { fromFrame: 8, text: "b" },
    ]);
    expect(withStretches(undefined, [jazz, stretch(4, null, "rock")], 12, 50)).toEqual([
      { fromFrame: 0, text: "jazz" },
      { fromFrame: 4, text: "rock" },
    ]);
    expect(withStretches(undefined, [stretch(0, null, "rock")], 12, 50)).toBe("rock");
    expect(() => withStretches(undefined, [jazz], 12, 50)).toThrow("no text from 0.08 s on");
    expect(() => withStretches("trio", [jazz, stretch(3, 6, "rock")], 12, 50)).toThrow("where jazz still holds");
  });
});

describe("the times of texts", () => {
  it("are frames of the first codebook", () => {
    const placed = placeTexts([{ text: "a" }, { from: 0.1, text: "b" }, { fromFrame: 7, text: "c" }], 10, 50);
    expect(placed.map(({ from }) => from)).toEqual([0, 5, 7]);
    expect(placeTexts("a", 10, 50)).toEqual([{ from: 0, text: "a" }]);
  });

  it.each<[string, Parameters<typeof placeTexts>[0], string]>([
    ["a first one that begins later", [{ from: 1, text: "a" }], "text[0].from: 1. The first text holds from 0 on"],
    ["one without a beginning", [{ text: "a" }, { text: "b" }], "text[1] without a beginning"],
    ["two beginnings", [{ text: "a" }, { from: 1, fromFrame: 50, text: "b" }], "at 1 seconds and at frame 50"],
    [
      "an order that isn't time's",
      [{ text: "a" }, { from: 2, text: "b" }, { from: 1, text: "c" }],
      "text[2].from: 1, no later",
    ],
    ["less than a frame", [{ text: "a" }, { from: 1, text: "b" }, { from: 0.999, text: "c" }], "text[2].from: 0.999"],
    [
      "what lies beyond the clip",
      [{ text: "a" }, { from: 4, text: "b" }],
      "text[1].from: 4, while the clip ends at 4 seconds",
    ],
    ["what is no number", [{ text: "a" }, { from: NaN, text: "b" }], "text[1].from: NaN. Give seconds from 0 up"],
    ["what is negative", [{ text: "a" }, { from: -1, text: "b" }], "text[1].from: -1"],
    ["half a frame", [{ text: "a" }, { fromFrame: 1.5, text: "b" }], "text[1].fromFrame: 1.5. Give a whole number"],
  ])("refuse %s", (_, text, message) => {
    expect(() => placeTexts(text, 200, 50)).toThrow(UsageError);
    expect(() => placeTexts(text, 200, 50)).toThrow(message);
  });
});
