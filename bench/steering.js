// What steering costs a generation step: `node bench/steering.js [--model DIR | --shape tiny|musicgen-small] [--backend NAME]
// [--steps N] [--rounds N]`. Prints one JSON object. Needs `npm run build`.
//
// A plain and a steered generation run at once, so that their steps take turns: each steered step is compared with the
// plain ones before and after it, which a slow spell of the machine hits alike. What is reported is the median of these
// differences, with the range that holds it in 95 of 100 repetitions (by the ranks of the binomial distribution).
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
    steps: { type: "string", default: "100" },
    rounds: { type: "string", default: "1" },
  },
});

const sorted = (numbers) => [...numbers].sort((a, b) => a - b);
const median = (numbers) => sorted(numbers)[Math.floor(numbers.length / 2)];
const round = (number, digits = 3) => Number(number.toFixed(digits));

const CONCEPTS = ["a", "b", "c", "d"];

/** Directions of ones and minus ones: what they are has no influence on the time. */
function vectorsFor(model, sites, shape) {
  const units = shape.length === 2 ? shape[0] : 1;
  const size = shape.reduce((product, one) => product * one, 1);
  const values = (count) => Float32Array.from({ length: count }, (_, index) => ((index * 7919) % 13) - 6);
  const ones = (count) => new Float32Array(count).fill(1);
  const at = (site) => ({
    site,
    shape,
    directions: values(CONCEPTS.length * size),
    gain: ones(CONCEPTS.length * units),
    bias: ones(CONCEPTS.length * units),
    score: values(units).map((value) => value / 12 + 0.5),
    deviation: ones(CONCEPTS.length * units),
    mean: values(CONCEPTS.length * size),
    norm: ones(units),
  });
  return {
    concepts: CONCEPTS,
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
    ["convex at every residual, on a ramp", residuals, { operator: "convex", ramp: { from: 0.5, to: 1 } }],
    ["clamp at every residual", residuals, { operator: "clamp", target: 0 }],
    ["span of four classes at every residual", residuals, { operator: "span" }],
    ["span of four classes at one residual", residuals.slice(-1), { operator: "span" }],
    ["convex at one residual", residuals.slice(-1), { operator: "convex" }],
    ["add at every head", perHead, { operator: "add", unit: "unit" }],
    ["convex at every residual, every 25th step", residuals, { operator: "convex", every: 25 }],
  ];

  // Steering with a watch: how long each step spends in its hooks.
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

  /** Step times of a plain and a steered generation that take turns. */
  const takeTurns = async (steering) => {
    let last = performance.now();
    const generate = async (steered) => {
      const times = [];
      await model.generate({
        text: "90s rock song with loud guitars and heavy drums",
        frames: Number(options.steps),
        seed: 1,
        ...(steered ? { steering } : {}),
        onProgress: ({ stage }) => {
          if (stage !== "tokens") return;
          const now = performance.now();
          times.push(now - last);
          last = performance.now();
        },
      });
      return times;
    };
    const [plain, steered] = await Promise.all([generate(false), generate(true)]);
    return { plain, steered };
  };

  const WARM_UP = 4; // the first steps fill caches
  const results = [];
  for (const [name, sites, operator] of cases) {
    const shape = sites[0].endsWith("hook_z") ? [heads, headWidth] : [width];
    const vectors = { bench: vectorsFor(model, sites, shape) };
    const steering = steer(
      model,
      { vectors: { bench: "bench" }, segments: [{ steer: [{ ...one, ...operator, sites }] }] },
      vectors,
    );
    const all = { plain: [], added: [], inHooks: [] };
    for (let number = 0; number < Number(options.rounds); number++) {
      const inHooks = [];
      const { plain, steered } = await takeTurns(timed(steering, inHooks));
      all.plain.push(...plain.slice(WARM_UP));
      all.inHooks.push(...inHooks.slice(WARM_UP));
      for (let step = WARM_UP; step + 1 < plain.length; step++)
        all.added.push(steered[step] - (plain[step] + plain[step + 1]) / 2);
    }
    const plainMs = median(all.plain);
    const added = sorted(all.added);
    const half = 0.98 * Math.sqrt(added.length); // 1.96 · √(n / 4) ranks from the middle
    const rank = (offset) => added[Math.min(added.length - 1, Math.max(0, Math.round(added.length / 2 + offset)))];
    const percent = (ms) => round((100 * ms) / plainMs, 2);
    results.push({
      name,
      sites: sites.length,
      steps: added.length,
      plainMs: round(plainMs),
      addedMs: round(median(added)),
      addedPercent: percent(median(added)),
      addedPercent95: [percent(rank(-half)), percent(rank(half))],
      inHooksMs: round(median(all.inHooks)),
    });
  }
  const shape = options.model ? undefined : options.shape;
  console.log(JSON.stringify({ backend: model.backend, shape, layers, width, results }, null, 2));
  await model.dispose();
} finally {
  await rm(folder, { recursive: true, force: true });
}
