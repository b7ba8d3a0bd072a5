// Continues a clip from its last second, and makes a loop of the result.
//
//   node examples/continue.js [MODEL]
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { cutLoop, MusicGen, writeWav } from "tonearm";

import { modelDirectory } from "./model.js";

const model = await MusicGen.load(await modelDirectory(process.argv[2]));
const folder = await mkdtemp(join(tmpdir(), "tonearm-continue-"));

const first = await model.generate({ text: "a piano melody", seconds: 3, seed: 1 });
const more = await model.generate({
  text: "a piano melody",
  promptAudio: first.audio,
  promptSeconds: 1,
  seconds: 5,
  seed: 2,
});
await writeWav(join(folder, "more.wav"), more.audio, { metadata: more.settings });

const { audio } = cutLoop(more.audio, { seconds: 4 });
await writeWav(join(folder, "loop.wav"), audio);
console.log(
  `wrote more.wav and a loop of ${((audio.channels[0]?.length ?? 0) / audio.sampleRate).toFixed(2)} s to ${folder}`,
);
await model.dispose();
