// A clip from a text, the same with another text from its middle on, and a batch with a seed each.
//
//   node examples/generate.js [MODEL]
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { MusicGen, writeWav } from "tonearm";

import { modelDirectory } from "./model.js";

const model = await MusicGen.load(await modelDirectory(process.argv[2]));
const folder = await mkdtemp(join(tmpdir(), "tonearm-generate-"));
const text = "a flute playing a slow melody";

const one = await model.generate({ text, seconds: 4, seed: 1 });
await writeWav(join(folder, "flute.wav"), one.audio, { metadata: one.settings });

const turn = await model.generate({
  text: [{ text }, { text: "electronic dance music", from: 2 }],
  seconds: 4,
  seed: 1,
});
await writeWav(join(folder, "turn.wav"), turn.audio, { metadata: turn.settings });

const batch = await model.generate({ text: [text, "a piano melody"], seconds: 2, seed: [5, 9] });
for (const [index, clip] of batch.clips.entries()) await writeWav(join(folder, `batch-${index}.wav`), clip.audio);
console.log(`wrote ${2 + batch.clips.length} clips to ${folder}`);
await model.dispose();
