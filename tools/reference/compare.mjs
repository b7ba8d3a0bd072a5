// Holds the built tonearm against what make_real_shapes.py --expected wrote, and prints the largest differences as JSON.
//
//   node tools/reference/compare.mjs DIR [BACKEND]
//
// Exits with 1 where a tolerance of the project is broken.
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import * as tf from "@tensorflow/tfjs-core";

import { MusicGen } from "../../dist/index.js";

const TOLERANCES = {
  textResiduals: 1e-4,
  residuals: 1e-4,
  nullResiduals: 1e-4,
  patterns: 1e-5,
  crossPatterns: 1e-5,
  logits: 1e-4,
};
TOLERANCES.guidedLogits = 1e-4;
TOLERANCES.audio = 1e-4;

const [directory, backend] = process.argv.slice(2);
if (!directory) throw new Error("Name the directory that make_real_shapes.py wrote");
const expected = await readSafetensors(join(directory, "expected.safetensors"));
const { texts } = JSON.parse(await readFile(join(directory, "expected.json"), "utf8"));

const seconds = {};
const model = await timed("load", () => MusicGen.load(directory, backend ? { backend } : {}));
const layers = model.config.decoder.layers;
const differences = {};
const counts = {};

// 1. Teacher-forced: both texts at once, with and without them, every layer watched.
const [, codebooks, frames] = expected.codes.shape;
const codes = texts.map((_, item) => ({
  codebooks,
  frames,
  values: expected.codes.values.slice(item * codebooks * frames, (item + 1) * codebooks * frames),
}));
const sites = ["blocks.0.hook_resid_pre", "blocks.*.hook_resid_post", "blocks.*.attn.hook_pattern"];
const conditional = await timed("forward", () =>
  model.runWithCache(
    { text: texts, codes, rows: ["cond"] },
    { sites: [...sites, "blocks.*.cross_attn.hook_pattern", "text.blocks.*.hook_resid_post"] },
  ),
);
const unconditional = await model.runWithCache({ text: null, codes, rows: ["null"] }, { sites: sites.slice(0, 2) });

// The reference has no last position: nothing is predicted there that anybody reads.
const positions = expected.decoder_input_ids.shape[1];
const cut = async (tensor, axis, length = positions) => {
  const size = tensor.shape.map((full, index) => (index === axis ? length : full));
  return tf
    .tidy(() =>
      tf.slice(
        tensor,
        tensor.shape.map(() => 0),
        size,
      ),
    )
    .data();
};
for (let layer = 0; layer < model.config.text.layers; layer++) {
  const residual = await conditional.cache[`text.blocks.${layer}.hook_resid_post`].data(); // [B, S, D]
  note("textResiduals", residual, expected[`t5_hidden_states.${layer + 1}`]);
}
for (let layer = 0; layer <= layers; layer++) {
  const site = layer === 0 ? "blocks.0.hook_resid_pre" : `blocks.${layer - 1}.hook_resid_post`;
  note("residuals", await cut(conditional.cache[site], 1), expected[`decoder_hidden_states.${layer}`]);
  note("nullResiduals", await cut(unconditional.cache[site], 1), expected[`null_decoder_hidden_states.${layer}`]);
}
for (let layer = 0; layer < layers; layer++) {
  const pattern = conditional.cache[`blocks.${layer}.attn.hook_pattern`]; // [R, H, T, T]
  const square = tf.slice(pattern, [0, 0, 0, 0], [pattern.shape[0], pattern.shape[1], positions, positions]);
  note("patterns", await square.data(), expected[`self_attentions.${layer}`]);
  const cross = conditional.cache[`blocks.${layer}.cross_attn.hook_pattern`]; // [R, H, T, S]
  note("crossPatterns", await cut(cross, 2), expected[`cross_attentions.${layer}`]);
}
const logits = await cut(conditional.logits, 2); // [R, K, T, V]
const nullLogits = await cut(unconditional.logits, 2);
note("logits", logits, expected.logits);
note("logits", nullLogits, expected.null_logits);
note(
  "guidedLogits",
  logits.map((value, index) => nullLogits[index] + 3 * (value - nullLogits[index])),
  expected.guided_logits,
);
tf.dispose([
  conditional.logits,
  unconditional.logits,
  ...Object.values(conditional.cache),
  ...Object.values(unconditional.cache),
]);

// 2. The codec on its own: a mono sound, which a stereo model hears on both channels.
const channels = model.config.decoder.audioChannels ?? 1;
const wav = { sampleRate: 32000, channels: [expected.wav.values] };
const encoded = await timed("encode half a second", () => model.encodeAudio(wav));
const perChannel = codebooks / channels;
const left = Int32Array.from(expected.encodec_codes.values, (_, index) => {
  const [codebook, frame] = [Math.floor(index / encoded.frames), index % encoded.frames];
  return encoded.values[codebook * channels * encoded.frames + frame];
});
noteCount("codes", left, expected.encodec_codes.values, perChannel * encoded.frames);
const decoded = await timed("decode half a second", () => model.decodeCodes(encoded));
note("audio", decoded.channels[0], expected.encodec_decoded);

// 3. Greedy generation of the first text. A stereo clip's reference has one call of the codec for each channel.
const greedyFrames = expected["greedy_cfg3_new12.codes.0"].shape[3];
const generation = await timed("generate 12 steps", () =>
  model.generate({ text: texts[0], frames: greedyFrames, guidance: 3, greedy: true }),
);
for (let channel = 0; channel < channels; channel++) {
  const reference = expected[`greedy_cfg3_new12.codes.${channel}`].values;
  const own = Int32Array.from(reference, (_, index) => {
    const [codebook, frame] = [Math.floor(index / greedyFrames), index % greedyFrames];
    return generation.codes.values[(codebook * channels + channel) * greedyFrames + frame];
  });
  noteCount("greedyCodes", own, reference, reference.length);
}
const sound = generation.audio.channels.flatMap((values) => [...values]);
note("audio", sound, expected["greedy_cfg3_new12.audio"]);
await model.dispose();

const broken = Object.keys(differences).filter((name) => !(differences[name] <= TOLERANCES[name]));
broken.push(...Object.keys(counts).filter((name) => counts[name] > 0));
const peakMegabytes = Math.round(process.resourceUsage().maxRSS / 1024);
console.log(
  JSON.stringify(
    { backend: model.backend, node: process.version, differences, differing: counts, broken, seconds, peakMegabytes },
    null,
    2,
  ),
);
process.exitCode = broken.length > 0 ? 1 : 0;

/** Keeps the largest absolute difference seen under a name; NaN and a wrong length count as infinite. */
function note(name, received, reference) {
  let worst = received.length === reference.values.length ? 0 : Infinity;
  for (let index = 0; index < received.length; index++) {
    const difference = Math.abs(received[index] - reference.values[index]);
    if (!(difference <= worst)) worst = Number.isNaN(difference) ? Infinity : difference;
  }
  differences[name] = Math.max(differences[name] ?? 0, worst);
}

/** Counts the whole numbers that differ. */
function noteCount(name, received, reference, length) {
  if (reference.length !== length || received.length !== length)
    throw new Error(`${name}: ${received.length} values, not ${length}`);
  counts[name] =
    (counts[name] ?? 0) + received.reduce((sum, value, index) => sum + (value === reference[index] ? 0 : 1), 0);
}

async function timed(name, run) {
  const start = performance.now();
  const result = await run();
  seconds[name] = Number(((performance.now() - start) / 1000).toFixed(2));
  return result;
}

/** A safetensors file of F32 and I32 tensors, by name. */
async function readSafetensors(path) {
  const file = await readFile(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const { __metadata__, ...tensors } = JSON.parse(file.toString("utf8", 8, start));
  return Object.fromEntries(
    Object.entries(tensors).map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [begin, end],
        },
      ]) => {
        const bytes = file.buffer.slice(file.byteOffset + start + begin, file.byteOffset + start + end);
        return [name, { shape, values: dtype === "I32" ? new Int32Array(bytes) : new Float32Array(bytes) }];
      },
    ),
  );
}
