// What looking costs while generating: the time of a step without hooks, with hooks on sites that no step comes by, and
// with a cache of every layer's residual stream. Prints JSON.
//
//   node bench/activations.js [small|middle] [frames] [rounds]
//
// The three take turns within each round, and each round gives one ratio: what else the machine does then bears on all three
// alike. Where it does much, `quickTenth` says more: the tenth percentile of all steps, those that were disturbed least.
// Weights are random.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { disposeCache, MUSICGEN_SMALL_SHAPE, MusicGen, TINY_SHAPE, tf, writeRandomCheckpoint } from "tonearm";

const [size = "middle", frames = "40", rounds = "9"] = process.argv.slice(2);
const MIDDLE_SHAPE = {
  text: TINY_SHAPE.text,
  decoder: { layers: 12, width: 512, heads: 8, ffnWidth: 2048, audioChannels: 1 },
  codec: { ...TINY_SHAPE.codec, codebookSize: 2048 },
};
const SMALL_SHAPE = { ...MUSICGEN_SMALL_SHAPE, codec: { ...TINY_SHAPE.codec, codebookSize: 2048 } };
const shape = size === "small" ? SMALL_SHAPE : MIDDLE_SHAPE;

/** Milliseconds of each decoding step of one generation. */
async function steps(model, run) {
  const times = [];
  let last = 0;
  await run(model, {
    text: "a slow trio",
    frames: Number(frames),
    seed: 1,
    onProgress: ({ stage, done }) => {
      const now = performance.now();
      if (stage === "tokens" && done > 2) times.push(now - last);
      last = now;
    },
  });
  return times;
}

function percentile(values, share) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(share * (sorted.length - 1))];
}

function median(values) {
  return percentile(values, 0.5);
}

const modes = {
  plain: (model, options) => model.generate(options),
  idleHooks: (model, options) => {
    const hooks = Array.from({ length: 8 }, (_, index) => ({
      name: `idle ${index}`,
      sites: "codec.encoder.**",
      run: () => undefined,
      optional: true,
    }));
    return model.generate({ ...options, hooks });
  },
  residualCache: async (model, options) => {
    const { cache } = await model.generateWithCache(options, { sites: "blocks.*.hook_resid_post" });
    disposeCache(cache);
  },
};

const directory = await mkdtemp(join(tmpdir(), "tonearm-bench-"));
try {
  await writeRandomCheckpoint(directory, shape, 0);
  const model = await MusicGen.load(directory);
  await steps(model, modes.plain); // warm up
  const perRound = [];
  for (let round = 0; round < Number(rounds); round++) {
    const times = {};
    const order = Object.keys(modes);
    for (let turn = 0; turn < order.length; turn++) {
      const name = order[(turn + round) % order.length];
      times[name] = await steps(model, modes[name]);
    }
    perRound.push(times);
  }
  const pooled = (name) => perRound.flatMap((times) => times[name]);
  const over = (name) => perRound.map((times) => median(times[name]) / median(times.plain)).toSorted((a, b) => a - b);
  const summary = (name) => {
    const ratios = over(name);
    return { median: median(ratios), least: ratios[0], most: ratios.at(-1) };
  };
  console.log(
    JSON.stringify(
      {
        benchmark: "activations",
        backend: tf.getBackend(),
        shape: shape.decoder,
        frames: Number(frames),
        rounds: Number(rounds),
        stepMs: Object.fromEntries(Object.keys(modes).map((name) => [name, median(pooled(name))])),
        quickTenth: Object.fromEntries(
          Object.keys(modes).map((name) => [
            name,
            {
              ms: percentile(pooled(name), 0.1),
              ratio: percentile(pooled(name), 0.1) / percentile(pooled("plain"), 0.1),
            },
          ]),
        ),
        ratioToPlain: { idleHooks: summary("idleHooks"), residualCache: summary("residualCache") },
      },
      null,
      2,
    ),
  );
  await model.dispose();
} finally {
  await rm(directory, { recursive: true, force: true });
}
