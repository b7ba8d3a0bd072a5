// Which layers and heads tell high sounds from low ones, and along which direction?
//
//   node examples/probe.js [MODEL]
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { captureActivations, fromCapture, MusicGen, openCapture, sweepProbes, writeVectors } from "tonearm";

import { modelDirectory } from "./model.js";

const model = await MusicGen.load(await modelDirectory(process.argv[2]));
const folder = await mkdtemp(join(tmpdir(), "tonearm-probe-"));
const rate = model.config.codec.sampleRate;

/** One second of a tone with some noise. */
function tone(hertz, seed) {
  const noise = (sample) => Math.sin(sample * sample * 1e-4 * (seed + 1));
  const wave = (sample) => 0.3 * Math.sin((2 * Math.PI * hertz * sample) / rate) + 0.05 * noise(sample);
  return { sampleRate: rate, channels: [Float32Array.from({ length: rate }, (_, sample) => wave(sample))] };
}

// 24 sounds, run teacher-forced without a text: a label in the prompt would be read from the prompt.
const items = Array.from({ length: 24 }, (_, index) => {
  const [pitch, hertz] = index % 2 === 0 ? ["low", 150 + 5 * index] : ["high", 1500 + 50 * index];
  return { id: `tone-${index}`, audio: tone(hertz, index), labels: { pitch, hertz } };
});
const sites = ["blocks.*.hook_resid_post", "blocks.*.attn.hook_z"];
await captureActivations(model, { items, sites, output: folder, mode: "forced", rows: "null", reduction: "mean" });

const data = fromCapture(await openCapture(folder));
const { units, vectors } = await sweepProbes(data, { label: "pitch", estimator: "ridge" });
for (const { site, head, scores, aboveChance } of units) {
  const { value, low, high } = scores.balancedAccuracy;
  const name = head === undefined ? site : `${site} head ${head}`;
  const [accuracy, from, to] = [value, low, high].map((share) => `${(100 * share).toFixed(0)} %`);
  console.log(`  ${name}: ${accuracy} [${from}, ${to}]${aboveChance ? "" : ", no better than chance"}`);
}
await writeVectors(join(folder, "pitch.safetensors"), vectors);
console.log(
  `wrote ${join(folder, "pitch.safetensors")}: steer with it in a spec, or read it with Python's safetensors`,
);
await model.dispose();
