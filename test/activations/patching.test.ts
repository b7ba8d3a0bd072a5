import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, expect, it } from "vitest";

import { divergenceFromClean, logitDifference, patchActivations, patchSweep } from "../../src/activations/patching.js";
import { MusicGen } from "../../src/musicgen.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { largestDifference, shortText, someCodes, valuesOf } from "./support.js";

describeOnEachBackend("patching activations", (backend) => {
  let model: MusicGen;

  beforeAll(async () => {
    model = await MusicGen.load(fixtureDirectory("mono"), { backend });
  });
  afterAll(() => model.dispose());

  /** Two runs that differ in one code, which stands at position 2. */
  const inputs = () => {
    const codes = someCodes(model, 2);
    const changed = codes.values.map((code, index) => (index === 1 ? (code + 9) % 64 : code));
    const text = shortText();
    return { clean: { text, codes }, corrupted: { text, codes: { ...codes, values: changed } } };
  };
  const both = async () => {
    const { clean, corrupted } = inputs();
    return [await valuesOf(await model.forward(clean)), await valuesOf(await model.forward(corrupted))] as const;
  };
  const patched = async (options: Omit<Parameters<typeof patchActivations>[1], "clean" | "corrupted">) =>
    valuesOf(await patchActivations(model, { ...inputs(), ...options }));

  it("the whole residual stream at any layer brings the clean run back, bit for bit", async () => {
    const [clean, corrupted] = await both();
    expect(clean).not.toEqual(corrupted);
    for (const layer of [0, 1, 2]) expect(await patched({ sites: ["resid_pre", layer] })).toEqual(clean);
    expect(await patched({ sites: "hook_embed", positions: [2] })).toEqual(clean); // all that differs
  });

  it("with a run's own activations changes nothing", async () => {
    const { corrupted } = inputs();
    const [, own] = await both();
    const same = { clean: corrupted, corrupted, sites: "blocks.**" };
    expect(await valuesOf(await patchActivations(model, same))).toEqual(own);
    expect(
      await valuesOf(await patchActivations(model, { ...same, positions: [1], sites: ["z", 1], heads: [2] })),
    ).toEqual(own);
  });

  it("before the difference changes nothing, at it something", async () => {
    const [, corrupted] = await both();
    expect(await patched({ sites: ["resid_pre", 1], positions: [0, 1] })).toEqual(corrupted);
    expect(largestDifference(await patched({ sites: ["resid_pre", 1], positions: [2] }), corrupted)).toBeGreaterThan(
      1e-3,
    );
    expect(largestDifference(await patched({ sites: ["z", 1], heads: [3] }), corrupted)).toBeGreaterThan(1e-5);
  });

  it("keeps to its rows", async () => {
    const { clean, corrupted } = inputs();
    const rows = ["cond", "null"] as const;
    const run = { clean: { ...clean, rows }, corrupted: { ...corrupted, rows } };
    const logits = await valuesOf(await patchActivations(model, { ...run, sites: ["resid_pre", 0], rows: [1] }));
    const half = logits.length / 2;
    const untouched = await valuesOf(await model.forward(run.corrupted));
    const whole = await valuesOf(await model.forward(run.clean));
    expect(logits.subarray(0, half)).toEqual(untouched.subarray(0, half));
    expect(logits.subarray(half)).toEqual(whole.subarray(half));
  });

  it("sweeps over layers and positions, and each cell is that patch's metric", async () => {
    const before = tf.memory().numTensors;
    const metric = logitDifference({ token: 3, other: 7, codebook: 0, position: 5 });
    const progress: number[] = [];
    const { table, clean, corrupted } = await patchSweep(model, {
      ...inputs(),
      sites: ["hook_embed", "blocks.*.hook_resid_pre"],
      over: "positions",
      metric,
      onProgress: (done) => progress.push(done),
    });
    expect(tf.memory().numTensors).toBe(before);
    expect(table.rows).toEqual(["hook_embed", ...[0, 1, 2].map((layer) => `blocks.${layer}.hook_resid_pre`)]);
    expect(table.columns).toEqual(["0", "1", "2", "3", "4", "5"]);
    expect(progress).toEqual(Array.from({ length: 24 }, (_, index) => index + 1));
    expect(clean).not.toBe(corrupted);
    expect(table.values[0]?.[2]).toBe(clean); // the one position that differs
    expect(table.values[0]?.[1]).toBe(corrupted);
    const one = (await patchActivations(model, {
      ...inputs(),
      sites: ["resid_pre", 2],
      positions: [3],
    })) as tf.Tensor4D;
    expect(await metric(one, one)).toBe(table.values[3]?.[3]);
    one.dispose();
  });

  it("sweeps over heads; the divergence from the clean run is 0 for the clean run alone", async () => {
    const { table, clean, corrupted } = await patchSweep(model, {
      ...inputs(),
      sites: "blocks.*.attn.hook_z",
      over: "heads",
      metric: divergenceFromClean(),
    });
    expect(table.columns).toHaveLength(4);
    expect(table.values).toHaveLength(3);
    expect(clean).toBe(0);
    expect(corrupted).toBeGreaterThan(1e-4);
    expect(table.values.flat().every((value) => value > 0 && Number.isFinite(value))).toBe(true);
  });

  it("refuses regions that are not there, inputs that do not match, and sites without the axis swept over", async () => {
    const before = tf.memory().numTensors;
    await expect(patched({ sites: ["resid_pre", 1], heads: [0] })).rejects.toThrow("has none");
    await expect(patched({ sites: ["z", 1], heads: [4] })).rejects.toThrow("0 … 3");
    await expect(patched({ sites: ["z", 1], positions: [6] })).rejects.toThrow("0 … 5");
    await expect(patched({ sites: ["z", 1], positions: [] })).rejects.toThrow("positions");
    await expect(patched({ sites: ["pattern", 7] })).rejects.toThrow("layers 0 … 2");
    const { clean, corrupted } = inputs();
    const longer = { text: corrupted.text, codes: someCodes(model, 3) };
    const run = patchActivations(model, { clean, corrupted: longer, sites: ["resid_pre", 1] });
    await expect(run).rejects.toThrow(/\[1,7,32\] in the corrupted run: \[1,6,32\] in the clean/);
    const sweep = { clean, corrupted, metric: divergenceFromClean(), over: "heads" } as const;
    await expect(patchSweep(model, { ...sweep, sites: "blocks.*.hook_mlp_out" })).rejects.toThrow("has none");
    expect(tf.memory().numTensors).toBe(before);
  });
});
