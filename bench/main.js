// How fast a model runs: `npm run bench -- [--model DIR | --shape tiny|musicgen-small] [--backend NAME] [--weights f32|f16|int8|int4]
// [--cache f32|f16] [--compute f32|bf16] [--residency together|staged] [--steps N] [--only NAME …]`. Prints one JSON object. Without a model, random
// weights of the chosen shape are made in a temporary folder. `tools/reference/bench_transformers.py` measures the same work in Python's transformers.
//
// Every time is a median, of the work's first run where that is what matters (load, first token) and of later ones elsewhere.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import * as tf from "@tensorflow/tfjs-core";

import { disposeCache } from "../dist/activations/cache.js";
import { MUSICGEN_SMALL_SHAPE, TINY_SHAPE, writeRandomCheckpoint } from "../dist/model/random-checkpoint.js";
import { MusicGen } from "../dist/musicgen.js";

const SHAPES = { tiny: TINY_SHAPE, "musicgen-small": MUSICGEN_SMALL_SHAPE };
const MEASUREMENTS = ["generation", "forward", "codec"];
const TEXT = "a slow jazz trio with brushed drums and a walking bass, late at night";

const { values: options } = parseArgs({
  options: {
    model: { type: "string" },
    shape: { type: "string", default: "tiny" },
    backend: { type: "string" },
    weights: { type: "string" },
    cache: { type: "string", default: "f32" },
    compute: { type: "string", default: "f32" },
    residency: { type: "string" },
    steps: { type: "string", default: "60" },
    seconds: { type: "string", default: "10" },
    repeats: { type: "string", default: "3" },
    only: { type: "string", multiple: true, default: MEASUREMENTS },
  },
});

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const round = (number, digits = 1) => Number(number.toFixed(digits));
const sinceStart = () => (Date.now() - performance.timeOrigin) / 1000;

/** Median seconds of `work`, after one run that is not counted. */
async function repeated(work) {
  const times = [];
  for (let run = 0; run <= Number(options.repeats); run++) {
    const start = performance.now();
    await work();
    if (run > 0) times.push((performance.now() - start) / 1000);
  }
  return median(times);
}

/** The native backend's kernels, if it is the one in use. */
async function nativeAddon(model) {
  if (model.backend !== "native") return undefined;
  const { registerNativeBackend } = await import("../dist/runtime/native/register.js");
  return registerNativeBackend().addon;
}

/** Guided generation: from the start of the process to the first token, and the steps after it. */
async function generation(model) {
  const addon = await nativeAddon(model);
  const times = [];
  let first, last;
  let bytes = 0;
  const linear = addon?.linear;
  await model.generate({
    text: TEXT,
    frames: Number(options.steps) + 1,
    seed: 1,
    onProgress: ({ stage, done }) => {
      if (stage !== "tokens") return;
      const now = performance.now();
      first ??= sinceStart();
      if (last !== undefined) times.push(now - last);
      last = now;
      if (!addon) return;
      // One step in the middle counts the bytes of the weights that it reads.
      if (done === 5) {
        addon.linear = (weight, ...rest) => {
          bytes += addon.weightBytes(weight);
          return linear(weight, ...rest);
        };
      }
      if (done === 6) addon.linear = linear;
    },
  });
  const step = median(times);
  const tenth = Math.ceil(times.length / 10);
  const [early, late] = [median(times.slice(0, tenth)), median(times.slice(-tenth))];
  // Between the middles of the first and the last tenth, each step reads so much more of keys and values.
  const { width, layers } = model.config.decoder;
  const valueBytes = options.cache === "f16" ? 2 : 4;
  const cacheBytes = 2 * layers * 2 * width * valueBytes * (times.length - tenth); // rows, layers, keys and values
  return {
    startToFirstTokenS: round(first, 2),
    guidedStepMs: round(step, 2),
    guidedStepFastestMs: round(Math.min(...times), 2),
    guidedSteps: times.length,
    growth: {
      firstTenthMs: round(early, 2),
      lastTenthMs: round(late, 2),
      moreCacheMB: round(cacheBytes / 1e6),
      // At the memory's speed or above, growth is the reading of the cache and no more. Null: the step did not get slower.
      cacheGBPerSecond: late > early ? round(cacheBytes / (late - early) / 1e6) : null,
    },
    ...(addon
      ? {
          weightsPerStepGB: round(bytes / 1e9, 3),
          weightsGBPerSecond: round(bytes / step / 1e6),
          memoryGBPerSecond: memoryBandwidth(addon),
          kernelSet: addon.kernelSet(),
          threads: addon.threads(),
        }
      : {}),
  };
}

/** What a plain sum over 256 MiB reads: the speed that a step can reach at best. */
function memoryBandwidth(addon) {
  const [rows, length] = [64, 2 ** 20];
  const [x, y] = [new Float32Array(rows * length).fill(1), new Float32Array(rows)];
  const times = Array.from({ length: 9 }, () => {
    const start = performance.now();
    addon.reduce(0, x, y, rows, length, 1);
    return performance.now() - start;
  });
  return round((4 * x.length) / Math.min(...times) / 1e6);
}

/** Codes of a clip, whatever they sound like. */
function someCodes(model) {
  const { codebooks, codebookSize } = model.config.decoder;
  const frames = Math.round(Number(options.seconds) * model.config.codec.frameRate);
  const values = Int32Array.from({ length: codebooks * frames }, (_, index) => (index * 31) % codebookSize);
  return { values, codebooks, frames };
}

/** One teacher-forced pass over a clip that keeps the residual stream of every block, in float32. */
async function forward(model) {
  const codes = someCodes(model);
  const seconds = await repeated(async () => {
    const { logits, cache } = await model.runWithCache(
      { text: TEXT, codes },
      { sites: "blocks.*.hook_resid_post", budgetBytes: 2 ** 31 },
    );
    await logits.data();
    logits.dispose();
    disposeCache(cache);
  });
  return { teacherForcedS: round(seconds, 3), teacherForcedFramesPerSecond: round(codes.frames / seconds) };
}

async function codec(model) {
  const codes = someCodes(model);
  const { hop, sampleRate } = model.config.codec;
  let sound;
  const decode = await repeated(async () => {
    sound = await model.decodeCodes(codes);
  });
  const channels = sound.channels.map((channel) => channel.slice(0, codes.frames * hop));
  const encode = await repeated(() => model.encodeAudio({ sampleRate, channels }));
  return { codecSeconds: Number(options.seconds), codecDecodeS: round(decode, 2), codecEncodeS: round(encode, 2) };
}

const folder = await mkdtemp(join(tmpdir(), "tonearm-bench-"));
try {
  const directory = options.model ?? folder;
  if (!options.model) await writeRandomCheckpoint(folder, SHAPES[options.shape], 0);
  const start = performance.now();
  const { backend, weights, cache, compute, residency } = options;
  const model = await MusicGen.load(directory, { backend, weights, cache, compute, residency });
  const report = {
    backend: model.backend,
    weights: options.weights ?? "as the backend chooses",
    cache,
    compute,
    residency: residency ?? "as fits",
    model: options.model ?? `random weights, shape ${options.shape}`,
    width: model.config.decoder.width,
    layers: model.config.decoder.layers,
    loadS: round((performance.now() - start) / 1000, 2),
  };
  const measurements = { generation, forward, codec };
  for (const name of options.only) Object.assign(report, await measurements[name](model));
  report.peakMemoryMB = Math.round(process.resourceUsage().maxRSS / 1024);
  report.tensors = tf.memory().numTensors;
  report.node = process.version;
  process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  await model.dispose();
} finally {
  await rm(folder, { recursive: true, force: true });
}
