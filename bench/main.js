// How fast a model runs: `npm run bench -- [--model DIR | --shape tiny|musicgen-small] [--backend NAME] [--steps N]`.
// Prints one JSON object. Without a model, random weights of the chosen shape are made in a temporary folder.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import * as tf from "@tensorflow/tfjs-core";

import { MUSICGEN_SMALL_SHAPE, TINY_SHAPE, writeRandomCheckpoint } from "../dist/model/random-checkpoint.js";
import { MusicGen } from "../dist/musicgen.js";

const SHAPES = { tiny: TINY_SHAPE, "musicgen-small": MUSICGEN_SMALL_SHAPE };

const { values: options } = parseArgs({
  options: {
    model: { type: "string" },
    shape: { type: "string", default: "tiny" },
    backend: { type: "string" },
    steps: { type: "string", default: "40" },
    seconds: { type: "string", default: "10" },
  },
});

/** Milliseconds that `work` takes, and its result. */
async function timed(work) {
  const start = performance.now();
  const result = await work();
  return { milliseconds: performance.now() - start, result };
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const round = (number, digits = 1) => Number(number.toFixed(digits));

const steps = Number(options.steps);
const seconds = Number(options.seconds);
const folder = await mkdtemp(join(tmpdir(), "tonearm-bench-"));
try {
  const directory = options.model ?? folder;
  if (!options.model) await writeRandomCheckpoint(folder, SHAPES[options.shape], 0);
  const load = await timed(() => MusicGen.load(directory, { backend: options.backend }));
  const model = load.result;
  const text = "90s rock song with loud guitars and heavy drums";

  const first = await timed(() => model.generate({ text, frames: 1, seed: 1 }));

  const stepTimes = [];
  let last;
  await model.generate({
    text,
    frames: steps,
    seed: 1,
    onProgress: ({ stage }) => {
      if (stage !== "tokens") return;
      const now = performance.now();
      if (last !== undefined) stepTimes.push(now - last);
      last = now;
    },
  });

  const { frameRate, hop, sampleRate } = model.config.codec;
  const { codebooks, codebookSize } = model.config.decoder;
  const frames = Math.round(seconds * frameRate);
  const codes = {
    values: Int32Array.from({ length: codebooks * frames }, (_, index) => (index * 31) % codebookSize),
    codebooks,
    frames,
  };
  const decode = await timed(() => model.decodeCodes(codes));
  const encode = await timed(() =>
    model.encodeAudio({ sampleRate, channels: [decode.result.channels[0].slice(0, frames * hop)] }),
  );
  const forward = await timed(async () => {
    const logits = await model.forward({ text, codes });
    await logits.data();
    logits.dispose();
  });

  const report = {
    backend: model.backend,
    model: options.model ?? `random weights, shape ${options.shape}`,
    width: model.config.decoder.width,
    layers: model.config.decoder.layers,
    guidedStepMs: round(median(stepTimes), 2),
    guidedSteps: stepTimes.length,
    codecSeconds: seconds,
    codecDecodeS: round(decode.milliseconds / 1000, 2),
    codecEncodeS: round(encode.milliseconds / 1000, 2),
    teacherForcedFramesPerSecond: round(frames / (forward.milliseconds / 1000)),
    loadS: round(load.milliseconds / 1000, 2),
    firstClipOfOneFrameS: round(first.milliseconds / 1000, 2),
    peakMemoryMiB: Math.round(process.resourceUsage().maxRSS / 1024),
    tensors: tf.memory().numTensors,
    node: process.version,
  };
  process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  await model.dispose();
} finally {
  await rm(folder, { recursive: true, force: true });
}
