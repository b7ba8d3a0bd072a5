// Follows a melody: a scale of tones, whose pitch classes the model reads before it begins.
//
//   node examples/melody.js [MELODY_MODEL]      (without one: random weights, which show that everything runs)
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { MusicGen, TINY_SHAPE, writeRandomCheckpoint, writeWav } from "tonearm";

const folder = await mkdtemp(join(tmpdir(), "tonearm-melody-"));
let directory = process.argv[2];
if (directory === undefined) {
  directory = join(folder, "model");
  await writeRandomCheckpoint(directory, { ...TINY_SHAPE, decoder: { ...TINY_SHAPE.decoder, melodyRows: 20 } }, 0);
}
const model = await MusicGen.load(directory);
const { sampleRate } = model.config.codec;
const NOTES = [262, 294, 330, 349]; // Hz
const melody = {
  sampleRate,
  channels: [
    Float32Array.from({ length: 2 * sampleRate }, (_, sample) => {
      const hertz = NOTES[Math.floor((2 * sample) / sampleRate)] ?? 0;
      return 0.3 * Math.sin((2 * Math.PI * hertz * sample) / sampleRate);
    }),
  ],
};
const { audio, settings } = await model.generate({ text: "a choir", melody, seconds: 2, seed: 1 });
await writeWav(join(folder, "choir.wav"), audio, { metadata: settings });
console.log(`wrote choir.wav to ${folder}`);
await model.dispose();
