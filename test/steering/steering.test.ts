import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";

import type { Hook } from "../../src/activations/hooks.js";
import { withIntervention, type RunPlan } from "../../src/activations/intervention.js";
import type { Audio } from "../../src/audio/audio.js";
import { MusicGen } from "../../src/musicgen.js";
import { steer, type Steering, type SteeringTrace } from "../../src/steering/steering.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { noise, randomVectors, specOf, TEXT } from "./support.js";

const FRAMES = 12;
const PROMPT_FRAMES = 4;
const RESIDUAL = "blocks.1.hook_resid_post";
const HEADS = "blocks.2.attn.hook_z";
const SITES = [RESIDUAL, "blocks.0.hook_attn_out", "blocks.2.hook_mlp_out", HEADS, "blocks.1.cross_attn.hook_z"];

/** A sound that becomes 4 frames: the fixture's hop is 40 samples. */
const PROMPT: Audio = { sampleRate: 32_000, channels: [noise(PROMPT_FRAMES * 40, 3).map((value) => value / 3)] };

/** "site position row head", for each place whose values changed. */
type Places = ReadonlySet<string>;

/** Which places the steering changed in a generation, found by comparing what comes in with what goes out. */
async function touched(model: MusicGen, steering: Steering, prompt: boolean): Promise<Places> {
  const before = new Map<string, Float32Array>();
  const places = new Set<string>();
  const look: Hook = {
    sites: SITES,
    run: async (value, at) => {
      before.set(at.site, Float32Array.from(await value.data()));
      return undefined;
    },
  };
  const compare: Hook = {
    sites: SITES,
    run: async (value, at) => {
      const [rows = 0, positions = 0, heads = 0] = value.shape;
      const units = value.shape.length === 4 ? heads : 1;
      const values = await value.data();
      const width = values.length / (rows * positions * units);
      const clean = before.get(at.site) ?? new Float32Array(0);
      for (let place = 0; place < values.length; place++) {
        if (values[place] === clean[place]) continue;
        const unit = Math.floor(place / width) % units;
        const position = Math.floor(place / (width * units)) % positions;
        const row = Math.floor(place / (width * units * positions));
        places.add(`${at.site} ${at.positions[position]} ${row} ${unit}`);
      }
      return undefined;
    },
  };
  const roles = ["cond", "null"] as const;
  const plan: RunPlan = {
    frames: FRAMES,
    promptFrames: prompt ? PROMPT_FRAMES : 0,
    frameRate: model.config.codec.frameRate,
    rows: { batch: 1, roles },
  };
  await withIntervention(steering, plan, (hooks) =>
    model.generate({
      text: TEXT,
      frames: FRAMES,
      seed: 7,
      ...(prompt ? { promptAudio: PROMPT } : {}),
      hooks: [look, ...hooks, compare],
    }),
  );
  return places;
}

/** All positions that a generation of 12 frames comes by: the last codebook of the last frame is decided at 14. */
const POSITIONS = Array.from({ length: FRAMES + 3 }, (_, position) => position);

const SCHEDULES: readonly {
  readonly name: string;
  readonly prompt?: boolean;
  readonly spec: { readonly [key: string]: unknown; readonly segments: readonly Record<string, unknown>[] };
  readonly intervention?: Record<string, unknown>;
  readonly expected: readonly number[];
}[] = [
  { name: "the whole clip", spec: { segments: [{}] }, expected: POSITIONS },
  {
    name: "from a frame on",
    spec: { time: "frames", segments: [{ from: 5 }] },
    expected: [5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
  },
  { name: "up to a frame", spec: { time: "frames", segments: [{ until: 3 }] }, expected: [0, 1, 2] },
  { name: "seconds", spec: { segments: [{ from: 0.005, until: 0.0075 }] }, expected: [4, 5] }, // 800 frames a second
  {
    name: "two segments",
    spec: {
      time: "frames",
      segments: [
        { from: 1, until: 3 },
        { from: 6, until: 8 },
      ],
    },
    expected: [1, 2, 6, 7],
  },
  { name: "every 4th", spec: { segments: [{}] }, intervention: { every: 4 }, expected: [0, 4, 8, 12] },
  { name: "every 4th from 3", spec: { segments: [{}] }, intervention: { every: 4, offset: 3 }, expected: [3, 7, 11] },
  { name: "after a prompt", prompt: true, spec: { segments: [{}] }, expected: POSITIONS.slice(PROMPT_FRAMES) },
  { name: "through a prompt", prompt: true, spec: { prompt: true, segments: [{}] }, expected: POSITIONS },
  {
    name: "across the end of a prompt",
    prompt: true,
    spec: { prompt: true, time: "frames", segments: [{ from: 2, until: 6 }] },
    expected: [2, 3, 4, 5],
  },
  {
    name: "every 3rd after a prompt",
    prompt: true,
    spec: { segments: [{}] },
    intervention: { every: 3, offset: 1 },
    expected: [5, 8, 11, 14],
  },
  {
    name: "a ramp from nothing",
    spec: { segments: [{}] },
    intervention: { ramp: { shape: "linear", from: 0, to: 1, over: null } },
    expected: POSITIONS.slice(1),
  },
];

const OPERATORS: readonly Record<string, unknown>[] = [
  { operator: "convex", strength: 0.5 },
  { operator: "convex", strength: -0.5, restoreNorm: true },
  { operator: "add", strength: 0.3, unit: "norm" },
  { operator: "clamp", strength: 1, target: 2 },
  { operator: "ablate", strength: 1 },
  { operator: "replace", strength: 0.5 },
  { operator: "span", strength: 1, minus: "rock", beyond: 1.5 },
  { operator: "adjust", strength: 1, minus: "rock" },
];

/** Which places a schedule stands for has nothing to do with the backend: the oracle runs on one. */
const backend = "cpu";

describe("the oracle of touched places", () => {
  for (const [kind, audioPrompt] of [
    ["text", false],
    ["audio prompt", true],
  ] as const) {
    const schedules = SCHEDULES.filter(({ prompt = false }) => prompt === audioPrompt);
    it.each(schedules)(`touches exactly the asked positions, for every operator ($name, ${kind})`, async (schedule) => {
      const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
      const vectors = { genre: randomVectors(model, SITES) };
      for (const operator of OPERATORS) {
        const one = { concept: "jazz", sites: RESIDUAL, ...operator, ...schedule.intervention };
        const segments = schedule.spec.segments.map((segment) => ({ ...segment, steer: [one] }));
        const steering = steer(model, { ...specOf([]), ...schedule.spec, segments }, vectors);
        const expected = schedule.expected.map((position) => `${RESIDUAL} ${position} 0 0`);
        expect([...(await touched(model, steering, audioPrompt))].sort(), JSON.stringify(operator)).toEqual(
          expected.sort(),
        );
      }
      await model.dispose();
    });
  }

  it.each([
    ["cond", [0]],
    ["null", [1]],
    ["all", [0, 1]],
  ] as const)("touches exactly the asked rows (%s)", async (rows, expected) => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const vectors = { genre: randomVectors(model, SITES) };
    for (const operator of OPERATORS) {
      const one = { concept: "jazz", sites: RESIDUAL, rows, ...operator };
      const places = await touched(model, steer(model, specOf([one]), vectors), false);
      const all = POSITIONS.flatMap((position) => expected.map((row) => `${RESIDUAL} ${position} ${row} 0`));
      expect([...places].sort(), JSON.stringify(operator)).toEqual(all.sort());
    }
    await model.dispose();
  });

  it("touches exactly the asked heads, at several sites at once", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const vectors = { genre: randomVectors(model, SITES) };
    const sites = [HEADS, "blocks.1.cross_attn.hook_z"];
    for (const operator of OPERATORS) {
      const heads = [
        [2, 0],
        [2, 3],
        [1, 1],
      ];
      const one = { concept: "jazz", sites, weighting: { heads }, ...operator };
      const places = await touched(model, steer(model, specOf([one]), vectors), false);
      const all = POSITIONS.flatMap((position) =>
        heads.map(([layer, head]) => `${layer === 2 ? HEADS : "blocks.1.cross_attn.hook_z"} ${position} 0 ${head}`),
      );
      expect([...places].sort(), JSON.stringify(operator)).toEqual(all.sort());
    }
    const scores = sites.flatMap((site) =>
      [...(vectors.genre.sites.get(site)?.score ?? [])].map((score, head) => ({ site, head, score })),
    );
    const best = scores.sort((a, b) => b.score - a.score).slice(0, 3);
    const top = { concept: "jazz", sites, weighting: { top: 3 }, operator: "add", unit: "deviation", strength: 1 };
    const places = await touched(model, steer(model, specOf([top]), vectors), false);
    const expected = POSITIONS.flatMap((position) => best.map(({ site, head }) => `${site} ${position} 0 ${head}`));
    expect([...places].sort()).toEqual(expected.sort());
    await model.dispose();
  });

  it("touches the negative rows, and each clip of a batch alike", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const vectors = { genre: randomVectors(model, SITES) };
    const one = { concept: "jazz", sites: RESIDUAL, strength: 0.5, rows: "negative", every: 5 };
    const traces: SteeringTrace[] = [];
    const steering = steer(model, specOf([one]), vectors, { onPass: (trace) => traces.push(trace) });
    await model.generate({ text: TEXT, negative: TEXT, frames: FRAMES, count: 2, seed: 1, steering });
    const acting = traces.filter(({ strengths }) => strengths.flat().some((strength) => strength !== 0));
    expect(acting.map(({ firstPosition }) => firstPosition)).toEqual([0, 5, 10]);
    acting.forEach(({ strengths }) => expect(strengths).toEqual([[0, 0, 0.5, 0.5]]));
    await model.dispose();
  });
});

describeOnEachBackend("steering", (backend) => {
  it("changes not one bit at strength 0 and without a segment", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const vectors = { genre: randomVectors(model, SITES) };
    const options = { text: TEXT, frames: FRAMES, seed: 5 };
    const clean = await model.generate(options);
    const nothing = { ...specOf([]), segments: [] };
    for (const spec of [
      nothing,
      ...OPERATORS.map((one) => specOf([{ concept: "jazz", sites: SITES, ...one, strength: 0 }])),
    ]) {
      const steered = await model.generate({ ...options, steering: steer(model, spec, vectors) });
      expect(steered.clips).toEqual(clean.clips);
    }
    const other = specOf([{ concept: "jazz", sites: RESIDUAL, strength: 2, rows: "all" }]);
    const steered = await model.generate({ ...options, steering: steer(model, other, vectors) });
    expect(steered.codes).not.toEqual(clean.codes);
    await model.dispose();
  });

  it("gives the same logits with the key-value cache and without", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const vectors = { genre: randomVectors(model, SITES) };
    const spec = {
      vectors: { genre: "genre.safetensors" },
      time: "frames",
      seed: 9,
      segments: [
        {
          from: 2,
          until: 7,
          steer: [
            { concept: "jazz", sites: RESIDUAL, strength: 0.6, rows: "all", ramp: { shape: "cosine", over: 4 } },
            { concept: "rock", sites: RESIDUAL, strength: 0.3, rows: "cond" },
            { concept: "jazz", sites: HEADS, operator: "add", unit: "deviation", strength: 2, weighting: { power: 3 } },
          ],
        },
        {
          from: 8,
          steer: [
            { concept: "rock", sites: RESIDUAL, operator: "clamp", target: 3, strength: 1, every: 2 },
            {
              concept: "rock",
              sites: [RESIDUAL, HEADS],
              operator: "add",
              unit: "unit",
              strength: 1,
              probability: 0.4,
              rows: "all",
            },
          ],
        },
      ],
    };
    for (const promptFrames of [0, PROMPT_FRAMES]) {
      const steering = steer(model, { ...spec, prompt: true }, vectors);
      const cached = new Map<number, Float32Array>();
      const keep: Hook = {
        sites: "hook_logits",
        run: async (value, at) => {
          cached.set(at.positions[0] ?? -1, Float32Array.from(await value.data())); // [R, K, 1, V]
          return undefined;
        },
      };
      const { codes } = await model.generate({
        text: TEXT,
        frames: FRAMES,
        seed: 7,
        ...(promptFrames > 0 ? { promptAudio: PROMPT } : {}),
        steering,
        hooks: [keep],
      });
      const rows = { batch: 1, roles: ["cond", "null"] } as const;
      const plan: RunPlan = { frames: FRAMES, promptFrames, frameRate: model.config.codec.frameRate, rows };
      const { logits } = await withIntervention(steering, plan, (hooks) =>
        model.runWithHooks({ text: TEXT, codes, rows: rows.roles }, hooks),
      );
      const [roles = 0, codebooks = 0, positions = 0, entries = 0] = logits.shape;
      const whole = await logits.data();
      logits.dispose();
      expect(cached.size).toBe(FRAMES + 3 - promptFrames);
      for (const [position, values] of cached) {
        const expected = Array.from({ length: roles * codebooks }, (_, row) => {
          const start = (row * positions + position) * entries;
          return [...whole.slice(start, start + entries)];
        }).flat();
        expect(values).toBeAllClose(expected, { within: 1e-4 });
      }
    }
    await model.dispose();
  });

  it("adds at hook_z what it would add after the output projection", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const vectors = { genre: randomVectors(model, SITES) };
    const codes = (await model.generate({ text: TEXT, frames: FRAMES, seed: 7 })).codes;
    const strength = 1.5;
    const byHeads = steer(
      model,
      specOf([{ concept: "jazz", sites: HEADS, operator: "add", unit: "deviation", strength, weighting: { top: 2 } }]),
      vectors,
    );
    const rows = { batch: 1, roles: ["cond"] } as const;
    const plan: RunPlan = { frames: FRAMES, promptFrames: 0, frameRate: model.config.codec.frameRate, rows };
    const options = { text: TEXT, codes };
    const steered = await withIntervention(byHeads, plan, (hooks) => model.runWithHooks(options, hooks));

    // The same by hand: what each head's σ θ̂ becomes behind W_O, found by sending it through the model's own projection.
    const z = vectors.genre.sites.get(HEADS);
    const [heads = 0, width = 0] = z?.shape ?? [];
    const best = [...(z?.score ?? [])].map((score, head) => ({ score, head })).sort((a, b) => b.score - a.score);
    const push = new Float32Array(heads * width);
    for (const { head } of best.slice(0, 2)) {
      const direction = (z?.directions ?? new Float32Array(0)).subarray(head * width, (head + 1) * width);
      const norm = Math.hypot(...direction);
      direction.forEach((value, index) => (push[head * width + index] = ((z?.deviation[head] ?? 0) * value) / norm));
    }
    const replaceWith = (values: Float32Array): Hook => ({
      sites: HEADS,
      run: (value) => tf.tidy(() => tf.add(tf.zerosLike(value), tf.tensor(values, [1, 1, heads, width]))),
    });
    const at = { sites: "blocks.2.hook_attn_out" };
    const projected = await model.runWithCache(options, at, [replaceWith(push)]);
    const direction = projected.cache["blocks.2.hook_attn_out"] ?? tf.zeros([1]);
    const byOutput = await model.runWithHooks(options, [
      { sites: "blocks.2.hook_attn_out", run: (value) => tf.tidy(() => tf.add(value, tf.mul(direction, strength))) },
    ]);
    expect(await steered.logits.data()).toBeAllClose(await byOutput.logits.data(), { within: 1e-5 });
    const clean = await model.forward(options);
    expect(await clean.data()).not.toBeAllClose(await steered.logits.data(), { within: 1e-2 });
    tf.dispose([steered.logits, byOutput.logits, projected.logits, direction, clean]);
    await model.dispose();
  });

  it("leaves no tensor behind, also when a run fails", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend });
    const vectors = { genre: randomVectors(model, SITES) };
    const gate = { kind: "pid", target: 0.9, monitor: { concept: "jazz", sites: RESIDUAL, top: 1 } };
    const all = OPERATORS.map((one) => ({
      concept: "jazz",
      sites: [HEADS, RESIDUAL],
      rows: "all",
      ...one,
      restoreNorm: one.operator !== "span",
    }));
    const steering = steer(
      model,
      specOf([...all, { concept: "rock", sites: RESIDUAL, strength: 1, restoreNorm: true, gate }]),
      vectors,
    );
    const before = tf.memory().numTensors;
    await model.generate({ text: TEXT, frames: FRAMES, seed: 7, steering });
    const fail: Hook = {
      sites: RESIDUAL,
      run: (_, at) => {
        if (at.step === 4) throw new Error("enough");
        return undefined;
      },
    };
    const failing = model.generate({ text: TEXT, frames: FRAMES, seed: 7, steering, hooks: [fail] });
    await expect(failing).rejects.toThrow("enough");
    expect(tf.memory().numTensors).toBe(before);
    await model.dispose();
  });
});

describe("a gate", () => {
  it("refuses a teacher-forced pass, which has all positions at once, and says what to do", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend: "cpu" });
    const vectors = { genre: randomVectors(model, SITES) };
    const gate = { kind: "pid", target: 0.9, monitor: { concept: "jazz", sites: RESIDUAL, top: 1 } };
    const steering = steer(model, specOf([{ concept: "jazz", sites: RESIDUAL, strength: 1, gate }]), vectors);
    const { codes } = await model.generate({ text: TEXT, frames: FRAMES, seed: 7, steering });
    const rows = { batch: 1, roles: ["cond"] } as const;
    const plan: RunPlan = { frames: FRAMES, promptFrames: 0, frameRate: model.config.codec.frameRate, rows };
    const before = tf.memory().numTensors;
    const forced = withIntervention(steering, plan, (hooks) => model.runWithHooks({ text: TEXT, codes }, hooks));
    await expect(forced).rejects.toThrow("Generate instead, or leave the gate out");
    expect(tf.memory().numTensors).toBe(before);
    await model.dispose();
  });
});

describe("what a clip says about its steering", () => {
  it("is enough to make it again", async () => {
    const model = await MusicGen.load(fixtureDirectory("mono"), { backend: "cpu" });
    const vectors = { genre: randomVectors(model, SITES) };
    const spec = specOf([{ concept: "jazz", sites: RESIDUAL, strength: 0.9, probability: 0.5 }], { seed: 3 });
    const options = { text: TEXT, frames: FRAMES, seed: 7 };
    const first = await model.generate({ ...options, steering: steer(model, spec, vectors) });
    const record = JSON.parse(JSON.stringify(first.settings.steering)) as { readonly spec: unknown };
    const again = await model.generate({ ...options, steering: steer(model, record.spec, vectors) });
    expect(again.clips).toEqual(first.clips);
    expect(again.settings).toEqual(first.settings);
    expect((await model.generate(options)).settings.steering).toBeNull();
    await model.dispose();
  });
});
