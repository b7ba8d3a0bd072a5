import { describe, expect, it } from "vitest";

import { CheckpointError, UsageError } from "../../src/errors.js";
import type { RunPlan } from "../../src/activations/intervention.js";
import type { RowRole } from "../../src/model/guidance.js";
import { COMBINATION } from "../../src/steering/algebra.js";
import { PRESET_NAMES, presetSpec } from "../../src/steering/presets.js";
import { parseSpec, withStrength } from "../../src/steering/spec.js";
import { steer } from "../../src/steering/steering.js";
import { bareModel, randomVectors, specOf } from "./support.js";

const RESIDUAL = "blocks.0.hook_resid_post";
const MINIMAL = { concept: "jazz", sites: RESIDUAL, strength: 0.5 };
const HEADS = { ...MINIMAL, sites: "blocks.0.attn.hook_z" };

/** The error of a spec that can't be read. */
function refusal(spec: unknown): string {
  return messageOf(() => parseSpec(spec));
}

function messageOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof UsageError || error instanceof CheckpointError) return error.message;
    throw error;
  }
  return "nothing was refused";
}

describe("a steering spec", () => {
  it("is completed, and a complete one comes back equal", () => {
    const spec = parseSpec(specOf([MINIMAL]));
    expect(spec.segments[0]?.steer[0]).toEqual({
      vectors: "genre",
      minus: null,
      without: [],
      vectorSite: null,
      weighting: "uniform",
      operator: "convex",
      unit: null,
      target: null,
      beyond: null,
      restoreNorm: false,
      ramp: null,
      every: 1,
      offset: 0,
      probability: 1,
      rows: "cond",
      gate: null,
      ...MINIMAL,
    });
    expect(parseSpec(JSON.parse(JSON.stringify(spec)))).toEqual(spec);
  });

  it.each(PRESET_NAMES)("is complete as the preset %s, for models of any depth", (name) => {
    const { decoder } = bareModel("heads").config;
    for (const [layers, heads] of [
      [1, 1],
      [3, 4],
      [24, 16],
      [48, 32],
    ] as const) {
      const model = { decoder: { ...decoder, layers, heads } };
      const spec = presetSpec(name, model, { vectors: "v.safetensors", concept: "jazz", strength: 0.5 });
      expect(parseSpec(JSON.parse(JSON.stringify(spec)))).toEqual(spec);
    }
  });

  it("has the published numbers in its presets, on the published models", () => {
    const { decoder } = bareModel("heads").config;
    const options = { vectors: "v.safetensors", concept: "jazz" };
    const of = (name: string, layers: number, heads: number) =>
      presetSpec(name, { decoder: { ...decoder, layers, heads } }, options).segments[0]?.steer[0];
    expect(of("seed-faithful", 24, 16)).toMatchObject({
      sites: "blocks.19.hook_resid_post",
      strength: 0.5,
      every: 25,
      offset: 24,
    });
    expect(of("iti", 32, 32)).toMatchObject({ weighting: { top: 48 }, strength: 15, unit: "deviation" });
    expect(of("smitin", 48, 32)).toMatchObject({
      weighting: { power: 3 },
      strength: 5,
      every: 5,
      gate: { monitor: { top: 16 } },
    });
    expect(of("caa", 32, 32)).toMatchObject({ sites: "blocks.13.hook_resid_post", strength: 1, unit: "raw" });
    expect(of("musicrfm", 48, 32)).toMatchObject({ strength: 0.3, probability: 0.3, unit: "unit", rows: "all" });
    expect(of("musicrfm", 48, 32)?.sites).toHaveLength(47);
  });

  it("takes minus as a preset's option, where the preset's unit allows it", () => {
    const model = bareModel("heads").config;
    const options = { vectors: "v.safetensors", concept: "jazz", minus: "rock" };
    expect(presetSpec("seed-clean", model, options).segments[0]?.steer[0]?.minus).toBe("rock");
    expect(messageOf(() => presetSpec("iti", model, options))).toContain("steer[0].unit");
    expect(messageOf(() => presetSpec("ity", model, options))).toContain("seed-faithful");
  });

  it("takes one strength for all its interventions", () => {
    const spec = parseSpec(specOf([MINIMAL, { ...MINIMAL, concept: "rock" }]));
    expect(withStrength(spec, 0.2).segments[0]?.steer.map(({ strength }) => strength)).toEqual([0.2, 0.2]);
    expect(messageOf(() => withStrength(spec, Infinity))).toContain("segments[0].steer[0].strength: Infinity");
  });

  const one = (more: object): object => specOf([{ ...MINIMAL, ...more }]);
  it.each<[string, unknown, string]>([
    ["no object", [], "the spec: []"],
    ["no vectors", { segments: [] }, "vectors: missing"],
    ["empty vectors", { vectors: {}, segments: [] }, "vectors: no vectors"],
    ["a vectors' path that is no text", { vectors: { genre: 3 }, segments: [] }, "vectors.genre: 3"],
    ["no segments", { vectors: { genre: "g" } }, "segments: missing"],
    ["another format", { ...specOf([MINIMAL]), format: "tonearm steering 9" }, 'format: "tonearm steering 9"'],
    ["an unknown field", { ...specOf([MINIMAL]), sed: 1 }, "sed: no such field. Nearest: seed"],
    ["a seed that is not whole", { ...specOf([MINIMAL]), seed: 0.5 }, "seed: 0.5"],
    ["an empty list of interventions", { vectors: { g: "g" }, segments: [{ steer: [] }] }, "segments[0].steer: []"],
    ["a segment before the clip", specOf([], { segments: [{ from: -1, steer: [MINIMAL] }] }), "segments[0].from: -1"],
    [
      "a segment that ends as it begins",
      specOf([], { segments: [{ from: 2, until: 2, steer: [MINIMAL] }] }),
      "segments[0].until: 2. Give a finite number above 2",
    ],
    [
      "overlapping segments",
      specOf([], {
        segments: [
          { until: 8, steer: [MINIMAL] },
          { from: 7.5, steer: [MINIMAL] },
        ],
      }),
      "segments[1].from: 7.5, while segments[0] lasts until 8. Give a value from 8 up",
    ],
    [
      "a segment after one without an end",
      specOf([], { segments: [{ steer: [MINIMAL] }, { from: 7.5, steer: [MINIMAL] }] }),
      "lasts until the end of the clip",
    ],
    [
      "half a frame",
      specOf([], { time: "frames", segments: [{ from: 0.5, steer: [MINIMAL] }] }),
      "segments[0].from: 0.5. Give a whole number",
    ],
    ["a text of another kind", specOf([], { segments: [{ text: 3, steer: [MINIMAL] }] }), "segments[0].text: 3"],
    ["an empty text", specOf([], { segments: [{ text: "" }] }), 'segments[0].text: ""'],
    ["a segment of nothing", specOf([], { segments: [{ from: 1 }] }), "segments[0].steer: missing"],
    ["vectors that the spec doesn't name", one({ vectors: "tempo" }), 'steer[0].vectors: "tempo". Choose "genre"'],
    ["no concept", specOf([{ sites: RESIDUAL, strength: 1 }]), "steer[0].concept: missing"],
    ["no strength", specOf([{ sites: RESIDUAL, concept: "jazz" }]), "steer[0].strength: missing"],
    [
      "a strength that is NaN",
      one({ strength: NaN }),
      "steer[0].strength: NaN. Give a finite number from -10000 to 10000",
    ],
    ["an infinite strength", one({ strength: -Infinity }), "steer[0].strength: -Infinity"],
    ["a strength that is a text", one({ strength: "0.5" }), 'steer[0].strength: "0.5"'],
    [
      "more than all of a clamp",
      one({ operator: "clamp", strength: 1.5 }),
      "strength: 1.5. Give a finite number from 0 to 1",
    ],
    ["an unknown operator", one({ operator: "push" }), 'steer[0].operator: "push". Choose "convex"'],
    ["a unit without adding", one({ unit: "norm" }), 'steer[0].unit: "norm". Leave it out'],
    ["an unknown unit", one({ operator: "add", unit: "metres" }), 'steer[0].unit: "metres"'],
    ["a target without clamping", one({ target: 3 }), "steer[0].target: 3. Leave it out"],
    ["going beyond without a span", one({ beyond: 2 }), "steer[0].beyond: 2. Leave it out"],
    ["more than all of a span", one({ operator: "span", strength: 1.5 }), "Give a finite number from 0 to 1"],
    ["a span without a direction", one({ operator: "span", without: "rock" }), "steer[0].without"],
    ["a span of another length", one({ operator: "span", restoreNorm: true }), "steer[0].restoreNorm: true"],
    ["adjusting without minus", one({ operator: "adjust" }), "steer[0].minus: missing"],
    ["replacing with minus", one({ operator: "replace", minus: "rock" }), 'steer[0].minus: "rock"'],
    ["means without a direction", one({ operator: "replace", without: "rock" }), "steer[0].without"],
    ["minus itself", one({ minus: "jazz" }), 'steer[0].minus: "jazz", the concept itself'],
    ["without itself", one({ without: ["jazz"] }), 'steer[0].without: "jazz", the concept itself'],
    ["a deviation of a difference", one({ operator: "add", unit: "deviation", minus: "rock" }), "steer[0].unit"],
    ["every 0th", one({ every: 0 }), "steer[0].every: 0. Give a whole number from 1 up"],
    ["an offset that never comes", one({ every: 5, offset: 5 }), "steer[0].offset: 5 with every 5. Give 0 … 4"],
    ["probability 0", one({ probability: 0 }), "steer[0].probability: 0. Give a finite number above 0 to 1"],
    ["unknown rows", one({ rows: "uncond" }), 'steer[0].rows: "uncond". Choose "cond", "null", "negative" or "all"'],
    ["two weightings", one({ weighting: { top: 3, power: 3 } }), "steer[0].weighting"],
    ["no head at all", one({ weighting: { top: 0 } }), "steer[0].weighting.top: 0"],
    ["a head without a layer", one({ weighting: { heads: [[3]] } }), "steer[0].weighting.heads[0]: [3]"],
    ["an exponential ramp from 0", one({ ramp: { shape: "exponential", from: 0 } }), "steer[0].ramp.from: 0"],
    ["a ramp that takes no time", one({ ramp: { over: 0 } }), "steer[0].ramp.over: 0"],
    ["a gate of no kind", one({ gate: {} }), "steer[0].gate.kind: missing"],
    [
      "a monitor without sites",
      one({ gate: { kind: "monitor", monitor: { concept: "jazz" } } }),
      "gate.monitor.sites: missing",
    ],
    [
      "a target beyond 1",
      one({ gate: { kind: "pid", target: 2, monitor: { concept: "jazz", sites: RESIDUAL } } }),
      "gate.target: 2",
    ],
  ])("refuses %s, with the field's path", (_, spec, message) => {
    expect(refusal(spec)).toContain(message);
  });
});

describe("steering by a spec", () => {
  const model = bareModel("heads");
  const vectors = { genre: randomVectors(model, [RESIDUAL, "blocks.0.attn.hook_z"]) };
  const refused = (intervention: object, given = vectors): string =>
    messageOf(() => steer(model, specOf([intervention]), given));

  it.each<[string, object, string]>([
    [
      "a layer that doesn't exist",
      { ...MINIMAL, sites: "blocks.7.hook_resid_post" },
      "steer[0].sites: a layer out of range. This network has layers 0 … 0",
    ],
    [
      "a site that doesn't exist",
      { ...MINIMAL, sites: "blocks.0.hook_resid_pots" },
      "steer[0].sites: no site of that name; nearest: blocks.0.hook_resid_post",
    ],
    [
      "a site without a direction",
      { ...MINIMAL, sites: "blocks.0.attn.hook_pattern" },
      "steer[0].sites: blocks.0.attn.hook_pattern, which has no direction",
    ],
    [
      "a site over text tokens",
      { ...MINIMAL, sites: "blocks.0.cross_attn.hook_k" },
      "which has no direction over time",
    ],
    [
      "a site without vectors",
      { ...MINIMAL, sites: "blocks.0.hook_mlp_out" },
      'steer[0].sites: blocks.0.hook_mlp_out, for which "genre" has no vectors',
    ],
    [
      "a concept that doesn't exist",
      { ...MINIMAL, concept: "polka" },
      'steer[0].concept: "polka", a concept that "genre" lacks. Choose one of "jazz", "rock"',
    ],
    ["a minus that doesn't exist", { ...MINIMAL, minus: "polka" }, 'steer[0].minus: "polka"'],
    [
      "more heads than there are",
      { ...HEADS, weighting: { top: 3 } },
      "steer[0].weighting.top: 3 of 2 units. Give 1 … 2",
    ],
    [
      "a head that doesn't exist",
      { ...HEADS, weighting: { heads: [[0, 2]] } },
      "steer[0].weighting.heads[0]: head 2 of 2. Give 0 … 1",
    ],
    [
      "a head of a layer that isn't chosen",
      { ...HEADS, weighting: { heads: [[1, 0]] } },
      "steer[0].weighting.heads[0]: layer 1",
    ],
    [
      "weights of one score",
      { ...MINIMAL, weighting: { power: 2 } },
      "steer[0].weighting.power: 1 units with one score",
    ],
    [
      "vectors of another shape",
      { ...HEADS, vectorSite: RESIDUAL },
      "steer[0].vectorSite: blocks.0.hook_resid_post of shape [8], for blocks.0.attn.hook_z of [2, 4]",
    ],
    [
      "a monitor of more units than there are",
      { ...MINIMAL, gate: { kind: "monitor", monitor: { concept: "jazz", sites: RESIDUAL } } },
      "gate.monitor.top: 16 of 1 units",
    ],
    [
      "a monitor of a concept that doesn't exist",
      { ...MINIMAL, gate: { kind: "pid", target: 1, monitor: { concept: "x", sites: RESIDUAL } } },
      'gate.monitor.concept: "x"',
    ],
  ])("refuses %s, with the field's path", (_, intervention, message) => {
    expect(refused(intervention)).toContain(message);
  });

  it("refuses a vector of zeros, whole or of one head that is steered", () => {
    const edit = (change: (directions: Float32Array) => void): typeof vectors => {
      const sites = [...vectors.genre.sites].map(([site, one]) => {
        const directions = one.directions.slice();
        change(directions);
        return [site, { ...one, directions }] as const;
      });
      return { genre: { ...vectors.genre, sites: new Map(sites) } };
    };
    expect(
      refused(
        MINIMAL,
        edit((all) => all.fill(0)),
      ),
    ).toContain("steer[0].concept: at blocks.0.hook_resid_post zeros");
    const secondHead = edit((all) => all.fill(0, 4, 8));
    expect(refused(HEADS, secondHead)).toContain("zeros for head 1");
    expect(refused({ ...HEADS, weighting: { heads: [[0, 0]] } }, secondHead)).toBe("nothing was refused");
    const same = edit((all) => all.copyWithin(8, 0, 8));
    expect(refused({ ...MINIMAL, without: "rock" }, same)).toContain("nothing is left");
    expect(refused({ ...MINIMAL, minus: "rock" }, same)).toContain("zeros");
  });

  it("refuses vectors of another model by name and shape, with the reason", () => {
    const other = { genre: { ...vectors.genre, model: "fedcba9876543210" } };
    expect(refused(MINIMAL, other)).toContain("vectors of the model fedcba987654, while this one is 0123456789ab");
    const wider = { genre: { ...randomVectors(bareModel("residual"), [RESIDUAL]) } };
    expect(refused(MINIMAL, wider)).toContain(
      "vectors of shape [4] at blocks.0.hook_resid_post, where this model has [8]",
    );
    expect(messageOf(() => steer(model, specOf([MINIMAL]), {}))).toContain("vectors.genre: no vectors of that name");
  });

  it("refuses statistics that a combination of directions doesn't have", () => {
    const combined = { genre: { ...vectors.genre, estimator: COMBINATION } };
    expect(refused({ ...MINIMAL, operator: "replace" }, combined)).toContain("steer[0].operator");
    expect(refused({ ...MINIMAL, operator: "span", strength: 1 }, combined)).toContain("steer[0].operator");
    expect(refused({ ...MINIMAL, operator: "clamp" }, combined)).toContain("steer[0].target");
    expect(refused({ ...MINIMAL, operator: "add", unit: "deviation" }, combined)).toContain("steer[0].unit");
    expect(refused(MINIMAL, combined)).toBe("nothing was refused");
  });

  it("refuses a span of one class alone, which would do nothing", () => {
    const alone = { genre: randomVectors(model, [...vectors.genre.sites.keys()], ["jazz"]) };
    expect(refused({ ...MINIMAL, operator: "span", strength: 1 }, alone)).toContain("steer[0].operator");
  });

  it("refuses joint steps that disagree on the norm", () => {
    const spec = specOf([MINIMAL, { ...MINIMAL, concept: "rock", restoreNorm: true }]);
    expect(messageOf(() => steer(model, spec, vectors))).toContain("segments[0].steer[1].restoreNorm: true");
  });

  const run = (roles: readonly RowRole[] = ["cond", "null"], more: Partial<RunPlan> = {}): RunPlan => ({
    frames: 100,
    promptFrames: 0,
    frameRate: 50,
    rows: { batch: 1, roles },
    ...more,
  });
  const begun = (intervention: object, segment: object, plan: RunPlan): string =>
    messageOf(() => {
      const spec = specOf([], { segments: [{ ...segment, steer: [intervention] }] });
      steer(model, spec, vectors).begin(plan).end();
    });

  it.each<[string, object, object, RunPlan, string]>([
    ["a segment beyond the clip", MINIMAL, { from: 2 }, run(), "segments[0].from: 2, while the clip ends at 2 seconds"],
    [
      "an end beyond the clip",
      MINIMAL,
      { until: 2.5 },
      run(),
      "segments[0].until: 2.5, while the clip ends at 2 seconds. Give at most 2, or null",
    ],
    [
      "a segment of no frame",
      MINIMAL,
      { from: 0.001, until: 0.002 },
      run(),
      "segments[0].until: 0.002, less than a frame after 0.001",
    ],
    [
      "a segment in the prompt",
      MINIMAL,
      { until: 1 },
      run(["cond"], { promptFrames: 50 }),
      "segments[0].until: 1, within the audio prompt of 1 seconds",
    ],
    [
      "a ramp longer than its segment",
      { ...MINIMAL, ramp: { over: 3 } },
      {},
      run(),
      "segments[0].steer[0].ramp.over: 3, longer than its segment of 2 seconds",
    ],
    [
      "a period that the segment is too short for",
      { ...MINIMAL, every: 200, offset: 150 },
      {},
      run(),
      "segments[0].steer[0].every: 200 from 150 on, which no position",
    ],
    [
      "rows that don't run",
      { ...MINIMAL, rows: "cond" },
      {},
      run(["null"]),
      'segments[0].steer[0].rows: "cond", while this run has only "null" rows',
    ],
    [
      "negative rows without a negative text",
      { ...MINIMAL, rows: "negative" },
      {},
      run(),
      'rows: "negative", while this run has only "cond" and "null"',
    ],
  ])("refuses %s, before any work", (_, intervention, segment, plan, message) => {
    expect(begun(intervention, segment, plan)).toContain(message);
  });

  it("refuses the cross-attention without a text", () => {
    const site = "blocks.0.hook_cross_attn_out";
    const given = { genre: randomVectors(model, [site]) };
    const spec = specOf([{ ...MINIMAL, sites: site, rows: "all" }]);
    expect(messageOf(() => steer(model, spec, given).begin(run(["null"])))).toContain("segments[0].steer[0].sites");
    expect(
      messageOf(() =>
        steer(model, spec, given)
          .begin(run(["cond"]))
          .end(),
      ),
    ).toBe("nothing was refused");
  });
});
