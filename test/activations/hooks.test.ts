import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, expect, it } from "vitest";

import type { Activation } from "../../src/activations/activation.js";
import type { Hook } from "../../src/activations/hooks.js";
import { MusicGen } from "../../src/musicgen.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { shortText, someCodes, valuesOf } from "./support.js";

const RESIDUAL = "blocks.1.hook_resid_post";

describeOnEachBackend("hooks", (backend) => {
  let model: MusicGen;
  const text = shortText();

  beforeAll(async () => {
    model = await MusicGen.load(fixtureDirectory("mono"), { backend });
  });
  afterAll(() => model.dispose());

  const forced = () => ({ text, codes: someCodes(model, 2) });
  const runs = (...hooks: Hook[]) => model.runWithHooks(forced(), hooks);

  it("on one site run in the order they are given in, each on what the one before left", async () => {
    const order: string[] = [];
    const seen: number[] = [];
    const adding = (name: string, by: number): Hook => ({
      name,
      sites: RESIDUAL,
      run: async (value) => {
        order.push(name);
        seen.push((await value.data())[0] ?? NaN);
        return tf.add(value, by);
      },
    });
    const { logits, hooks } = await runs(adding("first", 1), adding("second", 2), {
      ...adding("third", 0),
      optional: true,
    });
    logits.dispose();
    expect(order).toEqual(["first", "second", "third"]);
    expect(seen.map((value) => value - (seen[0] ?? 0))).toBeAllClose([0, 1, 3], { within: 1e-5 });
    expect(hooks).toEqual(["first", "second", "third"].map((name) => ({ name, sites: 1, fired: 1, silent: [] })));
  });

  it("may replace by calling at.replace instead of returning", async () => {
    const add = (value: tf.Tensor): tf.Tensor => tf.add(value, 0.5);
    const returned = await runs({ sites: RESIDUAL, run: add });
    const replaced = await runs({
      sites: RESIDUAL,
      run: (value, at) => {
        at.replace(tf.zerosLike(value));
        at.replace(add(value));
      },
    });
    expect(await valuesOf(replaced.logits)).toEqual(await valuesOf(returned.logits));
  });

  it("are told phase, step, positions, seconds, rows, item and frames exactly, over prefill and every step", async () => {
    const { hop, frameRate } = model.config.codec;
    const seen: ContextNote[] = [];
    const logits: ContextNote[] = [];
    await model.generate({
      text,
      frames: 4,
      count: 2,
      greedy: true,
      promptAudio: { sampleRate: model.sampleRate, channels: [new Float32Array(2 * hop).fill(0.1)] },
      hooks: [
        { sites: RESIDUAL, run: note(seen) },
        { sites: "hook_guided_logits", run: note(logits) },
      ],
    });
    // Two frames of prompt fill positions 0 … 2; codebook k carries frame p − 1 − k at position p; the last column, 7,
    // is filled but never read.
    const passes = [[0, 1, 2], [3], [4], [5], [6]];
    expect(seen.map(({ positions }) => positions)).toEqual(passes);
    expect(seen.map(({ phase }) => phase)).toEqual(["prefill", "decode", "decode", "decode", "decode"]);
    expect(seen.map(({ step }) => step)).toEqual([0, 1, 2, 3, 4]);
    expect(seen.map(({ layer }) => layer)).toEqual([1, 1, 1, 1, 1]);
    expect(seen.flatMap(({ seconds }) => seconds)).toEqual([-1, 0, 1, 2, 3, 4, 5].map((frame) => frame / frameRate));
    expect(seen.flatMap(({ frames }) => frames[0])).toEqual([undefined, 0, 1, 2, 3, undefined, undefined]);
    expect(seen.flatMap(({ frames }) => frames[3])).toEqual([undefined, undefined, undefined, undefined, 0, 1, 2]);
    const rows = ["cond", "null"].flatMap((role) => [0, 1].map((item) => ({ role, item })));
    expect(seen.map(({ rows: told }) => told)).toEqual(passes.map(() => rows));
    expect(logits.map(({ positions }) => positions)).toEqual([[2], [3], [4], [5], [6]]);
  });

  it("are told the rows of each site", async () => {
    const rows = new Map<string, unknown>();
    await model.generate({
      text,
      negative: text,
      frames: 1,
      count: 2,
      seed: 1,
      hooks: [
        {
          sites: [
            "hook_pos_embed",
            "hook_embed",
            "blocks.0.ln2.hook_scale",
            "hook_guided_logits",
            "codec.hook_quantized",
          ],
          run: (_, at) => {
            rows.set(at.site, at.rows);
            expect(at.rows.length === 0 || at.rows.length === at.value.shape[0]).toBe(true);
          },
        },
      ],
    });
    const both = ["cond", "negative"].flatMap((role) => [0, 1].map((item) => ({ role, item })));
    expect(Object.fromEntries(rows)).toEqual({
      hook_pos_embed: [],
      hook_embed: both,
      "blocks.0.ln2.hook_scale": both,
      hook_guided_logits: [0, 1].map((item) => ({ role: "guided", item })),
      "codec.hook_quantized": [{ role: "audio", item: 1 }],
    });
    const guided: unknown[] = [];
    const reading: unknown[] = [];
    const { logits } = await model.runWithHooks({ ...forced(), rows: ["cond", "null"] }, [
      {
        sites: ["blocks.0.hook_cross_attn_out", "blocks.0.cross_attn.hook_k"],
        run: (_, at) => {
          (at.site.endsWith("out") ? guided : reading).push(at.rows, at.positions, at.seconds);
        },
      },
    ]);
    logits.dispose();
    expect(guided[0]).toEqual(["cond", "null"].map((role) => ({ role, item: 0 })));
    expect(reading).toEqual([[{ role: "cond", item: 0 }], [0, 1, 2], []]); // keys are tokens of the text
  });

  it("know the channel and item of a pass of the codec", async () => {
    const stereo = await MusicGen.load(fixtureDirectory("stereo"), { backend });
    const seen: unknown[] = [];
    await stereo.generate({
      text,
      frames: 1,
      count: 2,
      seed: 1,
      hooks: [
        {
          sites: "codec.hook_quantized",
          run: (_, at) => {
            seen.push([at.phase, at.channel, at.rows, at.positions, at.seconds, at.step, at.layer]);
          },
        },
      ],
    });
    await stereo.dispose();
    const expected = [0, 1].flatMap((item) =>
      [0, 1].map((channel) => ["decode-audio", channel, [{ role: "audio", item }], [], [], 0, undefined]),
    );
    expect(seen).toEqual(expected);
  });

  it("report how often they fired, and which of their sites the run never came by", async () => {
    const { logits, hooks } = await model.runWithHooks({ ...forced(), text: null }, [
      { name: "reader", sites: ["blocks.*.hook_resid_mid*", "hook_guided_logits"], run: () => undefined },
      { name: "shy", sites: "hook_guided_logits", run: () => undefined, optional: true },
    ]);
    logits.dispose();
    const silent = [0, 1, 2].map((layer) => `blocks.${layer}.hook_resid_mid_cross`);
    expect(hooks).toEqual([
      { name: "reader", sites: 7, fired: 3, silent: [...silent, "hook_guided_logits"] },
      { name: "shy", sites: 1, fired: 0, silent: ["hook_guided_logits"] },
    ]);
    const { hooks: generated } = await model.generate({
      text,
      frames: 2,
      hooks: [{ sites: ["resid_pre", 0], run: () => undefined }],
    });
    expect(generated).toEqual([{ name: "hook 0", sites: 1, fired: 5, silent: [] }]);
  });

  it("that never fire are an error, unless they say that they may", async () => {
    const tensors = tf.memory().numTensors;
    const silent: Hook = { name: "guide", sites: "hook_guided_logits", run: () => undefined };
    await expect(runs(silent)).rejects.toThrow(/guide at hook_guided_logits: the run ended without/);
    await expect(model.decodeCodes(someCodes(model, 1), [silent])).rejects.toThrow("guide");
    expect(tf.memory().numTensors).toBe(tensors);
    const { logits } = await runs({ ...silent, optional: true });
    logits.dispose();
  });

  it.each<[string, () => Hook, RegExp]>([
    ["a misspelt site", () => ({ sites: "blocks.1.hook_resid_pots", run: () => undefined }), /nearest: blocks\.1/],
    ["a layer out of range", () => ({ sites: "blocks.9.hook_resid_post", run: () => undefined }), /layers 0 … 2/],
    ["a shorter sequence", () => ({ sites: RESIDUAL, run: (v) => tf.slice(v, [0, 0, 0], [1, 2, 32]) }), /\[1,2,32\]/],
    [
      "a wrong width",
      () => ({ name: "steer", sites: RESIDUAL, run: () => tf.zeros([1, 6, 31]) }),
      /steer at blocks\.1/,
    ],
    ["another dtype", () => ({ sites: RESIDUAL, run: (v) => tf.cast(v, "int32") }), /int32/],
    ["NaN", () => ({ sites: RESIDUAL, run: (v) => tf.mul(v, NaN) }), /left NaN at \[0,0,0\]/],
    ["infinity", () => ({ sites: RESIDUAL, run: (_, at) => replaceBy(at, Infinity) }), /left Infinity at \[0,0,0\]/],
    ["a disposed tensor", () => ({ sites: RESIDUAL, run: (v) => disposed(tf.clone(v)) }), /returned a disposed tensor/],
    ["a disposed value", () => ({ sites: RESIDUAL, run: (v) => (disposed(v), undefined) }), /disposed the value/],
    ["a number", () => ({ sites: RESIDUAL, run: returning(3) }), /returned a number/],
    ["null", () => ({ sites: RESIDUAL, run: returning(null) }), /returned null/],
    ["an error of its own", () => ({ sites: RESIDUAL, run: () => fail("mine") }), /^mine$/],
    ["a rejected promise", () => ({ sites: RESIDUAL, run: async () => fail("later") }), /^later$/],
  ])("%s is an error that says so, after which nothing is left behind", async (_, hook, message) => {
    const clean = await valuesOf((await runs()).logits);
    const tensors = tf.memory().numTensors;
    await expect(runs(hook())).rejects.toThrow(message);
    await expect(model.generate({ text, frames: 1, hooks: [hook()] })).rejects.toThrow();
    expect(tf.memory().numTensors).toBe(tensors);
    expect(await valuesOf((await runs()).logits)).toEqual(clean);
  });
});

/** A hook's run that collects the contexts it is called with. */
function note(list: ContextNote[]): Hook["run"] {
  return (_, at) => {
    const { positions, phase, step, layer, seconds, rows } = at;
    list.push({ positions, phase, step, layer, seconds, rows, frames: [0, 1, 2, 3].map((k) => at.frames(k)) });
    return undefined;
  };
}

type ContextNote = Pick<Activation, "positions" | "phase" | "step" | "layer" | "seconds" | "rows"> & {
  readonly frames: readonly (readonly (number | undefined)[])[];
};

/** What JavaScript lets a hook return and TypeScript does not. */
function returning(value: unknown): Hook["run"] {
  return () => value as undefined;
}

function replaceBy(at: Activation, value: number): undefined {
  at.replace(tf.fill(at.value.shape, value));
}

function disposed(tensor: tf.Tensor): tf.Tensor {
  tensor.dispose();
  return tensor;
}

function fail(message: string): never {
  throw new Error(message);
}
