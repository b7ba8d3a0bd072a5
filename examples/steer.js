// Finds the direction of "high" in a few tones, steers a clip along it, and says what changed.
//
//   node examples/steer.js [MODEL]
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import {
  captureActivations,
  fromCapture,
  measureEffect,
  MusicGen,
  openCapture,
  presetSpec,
  steer,
  sweepProbes,
  writeWav,
} from "tonearm";

import { modelDirectory } from "./model.js";

const model = await MusicGen.load(await modelDirectory(process.argv[2]));
const folder = await mkdtemp(join(tmpdir(), "tonearm-steer-"));
const rate = model.config.codec.sampleRate;

/** One second of a tone. */
function tone(hertz) {
  const wave = (_, sample) => 0.3 * Math.sin((2 * Math.PI * hertz * sample) / rate);
  return { sampleRate: rate, channels: [Float32Array.from({ length: rate }, wave)] };
}

const items = Array.from({ length: 16 }, (_, index) => {
  const [pitch, hertz] = index % 2 === 0 ? ["low", 150 + 5 * index] : ["high", 1500 + 50 * index];
  return { id: `tone-${index}`, audio: tone(hertz), labels: { pitch } };
});
const sites = "blocks.*.hook_resid_post";
await captureActivations(model, { items, sites, output: folder, mode: "forced", rows: "null", reduction: "mean" });
const data = fromCapture(await openCapture(folder));
const { vectors } = await sweepProbes(data, { label: "pitch", estimator: "means" });

// A preset is a complete spec: change whatever you like before it is used.
const spec = presetSpec("seed-clean", model.config, { vectors: "in memory", concept: "high", strength: 0.4 });
const steering = steer(model, spec, { vectors });

const options = { text: "a slow trio", seconds: 3, seed: 1 };
const clean = await model.generate(options);
const steered = await model.generate({ ...options, steering });
const { text, guidance, promptFrames } = clean.settings;
const effect = await measureEffect({ model, steering, text, guidance, promptFrames, clean, steered });
console.log(`codes changed: ${Math.round(100 * effect.tokenChange)} %`);
console.log(`KL of the next-token distribution: ${effect.divergence?.toFixed(3)} nats`);
console.log(`spectral centroid: ${effect.cleanSound.centroid?.toFixed(0)} → ${effect.sound.centroid?.toFixed(0)} Hz`);

await writeWav(join(folder, "clean.wav"), clean.audio);
await writeWav(join(folder, "steered.wav"), steered.audio, { metadata: steered.settings });
console.log(`wrote clean.wav and steered.wav to ${folder}`);
await model.dispose();
