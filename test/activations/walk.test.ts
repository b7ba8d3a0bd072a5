import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, expect, it } from "vitest";

import { MusicGen } from "../../src/musicgen.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { shortText, someCodes, valuesOf } from "./support.js";

describeOnEachBackend("a walk", (backend) => {
  let model: MusicGen;
  const text = shortText();

  beforeAll(async () => {
    model = await MusicGen.load(fixtureDirectory("mono"), { backend });
  });
  afterAll(() => model.dispose());

  const forced = () => ({ text, codes: someCodes(model, 2) });

  /** What a piece of work leaves behind. */
  async function leftBy(work: () => unknown): Promise<number> {
    const before = tf.memory().numTensors;
    await work();
    return tf.memory().numTensors - before;
  }

  it("stops at the same activations with `for of` and `for await`", async () => {
    const plain: string[] = [];
    for (const { site } of model.walk(forced())) plain.push(site);
    const awaited: string[] = [];
    for await (const { site } of model.walk(forced())) awaited.push(site);
    expect(awaited).toEqual(plain);
    expect(plain).toHaveLength(model.sites().filter(({ site }) => !/^codec|guided/.test(site)).length);
  });

  it("stops nowhere but where it is asked to, and can be walked twice", () => {
    const walk = model.walk(forced(), ["blocks.*.hook_resid_post", "hook_embed"]);
    const first = [...walk].map(({ site }) => site);
    expect(first).toEqual(
      ["hook_embed", 0, 1, 2].map((layer) => (layer === "hook_embed" ? layer : `blocks.${layer}.hook_resid_post`)),
    );
    expect([...walk].map(({ site }) => site)).toEqual(first);
  });

  it("goes on with what it is handed", async () => {
    const edit = (value: tf.Tensor): tf.Tensor => tf.mul(value, 2);
    const { logits } = await model.runWithHooks(forced(), [{ sites: ["attn_out", 1], run: edit }]);
    const hooked = await valuesOf(logits);
    const seen: Float32Array[] = [];
    for await (const at of model.walk(forced(), ["blocks.1.hook_attn_out", "hook_logits"])) {
      if (at.site === "hook_logits") seen.push(Float32Array.from(await at.value.data()));
      else at.replace(edit(at.value));
    }
    expect(seen).toEqual([hooked]);
  });

  it("leaves nothing behind when it ends, is left at any site, or its consumer throws there", async () => {
    expect(await leftBy(() => [...model.walk(forced())].length)).toBe(0);
    const chosen = ["*", "blocks.1.**", "ln_final.*"];
    const sites = [...model.walk(forced(), chosen)].map(({ site }) => site);
    for (const last of sites) {
      const stop = (): void => {
        for (const at of model.walk(forced(), chosen)) {
          at.replace(tf.clone(at.value));
          if (at.site === last) break;
        }
      };
      expect(await leftBy(stop), last).toBe(0);
      const fail = (): void => {
        for (const at of model.walk(forced(), last)) {
          at.replace(tf.clone(at.value));
          throw new Error(at.site);
        }
      };
      expect(await leftBy(() => expect(fail).toThrow(last)), last).toBe(0);
    }
  });

  it("over a generation leaves nothing behind when it is left in the prefill, in a step or in the codec", async () => {
    for (const [phase, step] of [
      ["text", 0],
      ["prefill", 0],
      ["decode", 2],
      ["decode-audio", 0],
    ] as const) {
      const stop = async (): Promise<void> => {
        for await (const at of model.walkGeneration({ text, frames: 3 })) {
          at.replace(tf.clone(at.value));
          if (at.phase === phase && at.step === step) return;
        }
        throw new Error(`the generation never came by ${phase} ${step}`);
      };
      expect(await leftBy(stop), phase).toBe(0);
    }
  });

  it("over a generation ends with the generation", async () => {
    const walk = model.walkGeneration({ text, frames: 3, seed: 8 }, "blocks.0.hook_resid_pre");
    let stops = 0;
    for (;;) {
      const next = await walk.next();
      if (next.done) {
        expect(next.value.clips).toEqual((await model.generate({ text, frames: 3, seed: 8 })).clips);
        break;
      }
      stops++;
    }
    expect(stops).toBe(6); // prefill and five steps
  });

  it("says so when an activation is read or replaced after the network has gone on", async () => {
    const before = tf.memory().numTensors;
    const [embedded] = [...model.walk(forced(), ["hook_embed", "blocks.0.hook_resid_pre"])];
    expect(() => embedded?.value).toThrow(/hook_embed: its tensor is freed.*tf\.clone/);
    expect(embedded?.positions).toEqual([0, 1, 2, 3, 4, 5]); // where it stood is still known
    expect(embedded?.rows).toEqual([{ role: "cond", item: 0 }]);
    const late = tf.zeros([1, 6, 32]);
    expect(() => embedded?.replace(late)).toThrow("the network has gone on");
    late.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  it("waits for a consumer that takes its time, and for hooks that do", async () => {
    const clean = await valuesOf(await model.forward(forced()));
    const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 1));
    const { logits } = await model.runWithHooks(forced(), [
      { sites: "blocks.*.hook_resid_post", run: async (value) => (await pause(), tf.add(value, 0)) },
    ]);
    expect(await valuesOf(logits)).toEqual(clean);
  });

  it("may run inside another's stop, on the same model and on another", async () => {
    const other = await MusicGen.load(fixtureDirectory("stereo"), { backend });
    const clean = await valuesOf(await model.forward(forced()));
    const otherClean = await valuesOf(await other.forward({ text, codes: someCodes(other, 2) }));
    const inner: Float32Array[] = [];
    const { logits } = await model.runWithHooks(forced(), [
      {
        sites: "blocks.1.hook_resid_pre",
        run: async () => {
          inner.push(await valuesOf(await model.forward(forced())));
          const edited = await model.runWithHooks(forced(), [{ sites: "hook_embed", run: (v) => tf.mul(v, 3) }]);
          edited.logits.dispose();
          inner.push(await valuesOf(await other.forward({ text, codes: someCodes(other, 2) })));
        },
      },
    ]);
    expect(await valuesOf(logits)).toEqual(clean);
    expect(inner).toEqual([clean, otherClean]);
    await other.dispose();
  });

  it("of two models, step by step in turns, gives what each gives alone", async () => {
    const other = await MusicGen.load(fixtureDirectory("stereo"), { backend });
    const options = [
      { model, options: forced() },
      { model: other, options: { text, codes: someCodes(other, 2) } },
    ];
    const alone = await Promise.all(options.map(async (run) => valuesOf(await run.model.forward(run.options))));
    const walks = options.map((run) => run.model.walk(run.options)[Symbol.asyncIterator]());
    const logits: Float32Array[] = [];
    for (let left = walks.length; left > 0;) {
      for (const [index, walk] of walks.entries()) {
        const next = await walk.next();
        if (next.done) continue;
        if (next.value.site === "hook_logits") {
          logits[index] = Float32Array.from(await next.value.value.data());
          left--;
        }
      }
    }
    for (const walk of walks) await walk.return?.();
    expect(logits).toEqual(alone);
    await other.dispose();
  });

  it("starts and stops at a layer: two halves are the whole", async () => {
    const whole = await valuesOf(await model.forward(forced()));
    const residual = (await model.forward({ ...forced(), stopAt: 2 })) as tf.Tensor3D;
    expect(residual.shape).toEqual([1, 6, 32]);
    const rest = await model.forward({ ...forced(), startAt: { layer: 2, residual } });
    expect(await valuesOf(rest)).toEqual(whole);
    const sites = [...model.walk({ ...forced(), startAt: { layer: -1, residual } }, "blocks.**")].map(
      ({ layer }) => layer,
    );
    expect(new Set(sites)).toEqual(new Set([2]));
    residual.dispose();
    await expect(model.forward({ ...forced(), stopAt: 3 })).rejects.toThrow("0 … 2");
    await expect(model.forward({ ...forced(), stopAt: -4 })).rejects.toThrow("-1 … -3");
    const wrong = tf.zeros<tf.Rank.R3>([1, 5, 32]);
    await expect(model.forward({ ...forced(), startAt: { layer: 1, residual: wrong } })).rejects.toThrow("[1,6,32]");
    wrong.dispose();
  });

  it("of networks that take turns in memory is walked with `for await`, and says so otherwise", async () => {
    const staged = await MusicGen.load(fixtureDirectory("mono"), { backend, residency: "staged" });
    expect(() => [...staged.walk(forced())]).toThrow("for await");
    let logits: Float32Array | undefined;
    for await (const at of staged.walk(forced(), "hook_logits")) logits = Float32Array.from(await at.value.data());
    expect(logits).toEqual(await valuesOf(await model.forward(forced())));
    await staged.dispose();
  });
});
