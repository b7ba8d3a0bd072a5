// What steering costs a generation step: `node bench/steering.js [--model DIR | --shape tiny|musicgen-small] [--backend NAME]
// [--steps N] [--rounds N]`. Prints one JSON object. Plain and steered generations take turns, so that a slow spell of the machine hits
// both, and the quickest steps are compared. Needs `npm run build`.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { MUSICGEN_SMALL_SHAPE, TINY_SHAPE, writeRandomCheckpoint } from "../dist/model/random-checkpoint.js";
import { MusicGen } from "../dist/musicgen.js";
import { steer } from "../dist/steering/steering.js";

const SHAPES = { tiny: TINY_SHAPE, "musicgen-small": MUSICGEN_SMALL_SHAPE };

const { values: options } = parseArgs({
  options: {
    model: { type: "string" },
    shape: { type: "string", default: "tiny" },
    backend: { type: "string" },
    steps: { type: "string", default: "24" },
    rounds: { type: "string", default: "5" },
  },
});

const sorted = (numbers) => [...numbers].sort((a, b) => a - b);
const median = (numbers) => sorted(numbers)[Math.floor(numbers.length / 2)];
const round = (number, digits = 3) => Number(number.toFixed(digits));

/** Directions of ones and minus ones: what they are has no influence on the time. */
function vectorsFor(model, sites, shape) {
  const units = shape.length === 2 ? shape[0] : 1;
  const size = shape.reduce((product, one) => product * one, 1);
  const values = (count) => Float32Array.from({ length: count }, (_, index) => ((index * 7919) % 13) - 6);
  const ones = (count) => new Float32Array(count).fill(1);
  const at = (site) => ({
    site,
    shape,
    directions: values(size),
    gain: ones(units),
    bias: ones(units),
    score: values(units).map((value) => value / 12 + 0.5),
    deviation: ones(units),
    mean: values(size),
    norm: ones(units),
  });
  return {
    concepts: ["a"],
    label: "bench",
    target: "classes",
    estimator: "none",
    settings: {},
    scoring: "none",
    normalized: false,
    model: model.fingerprint,
    data: "none",
    seed: 0,
    tonearm: "bench",
    sites: new Map(sites.map((site) => [site, at(site)])),
  };
}

const folder = await mkdtemp(join(tmpdir(), "tonearm-bench-"));
try {
  const directory = options.model ?? folder;
  if (!options.model) await writeRandomCheckpoint(folder, SHAPES[options.shape], 0);
  const model = await MusicGen.load(directory, { backend: options.backend });
  const { layers, width, heads, headWidth } = model.config.decoder;
  const residuals = Array.from({ length: layers }, (_, layer) => `blocks.${layer}.hook_resid_post`);
  const perHead = Array.from({ length: layers }, (_, layer) => `blocks.${layer}.attn.hook_z`);
  const one = { concept: "a", strength: 0.01, rows: "cond" };
  const cases = [
    ["convex at every residual", residuals, { operator: "convex" }],
    ["add at every residual", residuals, { operator: "add", unit: "unit" }],
    ["clamp at every residual", residuals, { operator: "clamp", target: 0 }],
    ["convex at one residual", residuals.slice(-1), { operator: "convex" }],
    ["add at every head", perHead, { operator: "add", unit: "unit" }],
    ["convex at every residual, every 25th step", residuals, { operator: "convex", every: 25 }],
  ];

  // Steering with a watch: how long each step spends in its hooks. Unlike the difference of two step times, which a busy
  // machine drowns in noise, this leaves out only what a replaced activation costs outside of the hook.
  const timed = (steering, perStep) => ({
    ...steering,
    begin: (run) => {
      const begun = steering.begin(run);
      const watch = (hook) => (value, at) => {
        const start = performance.now();
        const result = hook.run(value, at);
        perStep[at.step] = (perStep[at.step] ?? 0) + performance.now() - start;
        return result;
      };
      return { hooks: begun.hooks.map((hook) => ({ ...hook, run: watch(hook) })), end: () => begun.end() };
    },
  });

  const stepTimes = async (steering) => {
    const times = [];
    let last;
    await model.generate({
      text: "90s rock song with loud guitars and heavy drums",
      frames: Number(options.steps),
      seed: 1,
      steering,
      onProgress: ({ stage }) => {
        const now = performance.now();
        if (stage === "tokens" && last !== undefined) times.push(now - last);
        if (stage === "tokens") last = now;
      },
    });
    return Math.min(...times.slice(2)); // the first steps still fill caches; the quickest one was disturbed least
  };

  await stepTimes(undefined);
  const results = [];
  for (const [name, sites, operator] of cases) {
    const shape = sites[0].endsWith("hook_z") ? [heads, headWidth] : [width];
    const vectors = { bench: vectorsFor(model, sites, shape) };
    const steering = steer(
      model,
      { vectors: { bench: "bench" }, segments: [{ steer: [{ ...one, ...operator, sites }] }] },
      vectors,
    );
    const pairs = [];
    for (let number = 0; number < Number(options.rounds); number++) {
      const plain = await stepTimes(undefined);
      const inHooks = [];
      const steered = await stepTimes(timed(steering, inHooks));
      pairs.push({ plain, steered, inHooks: median(inHooks.slice(3)) });
    }
    const plain = Math.min(...pairs.map((pair) => pair.plain));
    const steered = Math.min(...pairs.map((pair) => pair.steered));
    results.push({
      name,
      sites: sites.length,
      plainMs: round(plain),
      steeredMs: round(steered),
      addedMs: round(steered - plain),
      addedPercent: round(100 * (steered / plain - 1), 2),
      inHooksMs: round(Math.min(...pairs.map((pair) => pair.inHooks))),
      inHooksPercent: round((100 * Math.min(...pairs.map((pair) => pair.inHooks))) / plain, 2),
      medianOfRounds: {
        plainMs: round(median(pairs.map((pair) => pair.plain))),
        steeredMs: round(median(pairs.map((pair) => pair.steered))),
      },
    });
  }
  const shape = options.model ? undefined : options.shape;
  console.log(
    JSON.stringify({ backend: model.backend, shape, layers, width, steps: Number(options.steps), results }, null, 2),
  );
  await model.dispose();
} finally {
  await rm(folder, { recursive: true, force: true });
}
