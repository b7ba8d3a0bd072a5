// Sound while it is generated: how soon the first block comes, and how long the rest takes.
//
//   node examples/stream.js [MODEL]
import { MusicGen } from "tonearm";

import { modelDirectory } from "./model.js";

const model = await MusicGen.load(await modelDirectory(process.argv[2]));
const started = performance.now();
const seconds = () => ((performance.now() - started) / 1000).toFixed(2);

for await (const block of model.stream({ text: "a slow melody", seconds: 4, seed: 1, blockSeconds: 1 })) {
  const [samples = new Float32Array()] = block.channels; // a player would take these
  console.log(`after ${seconds()} s: samples ${block.start} … ${block.start + samples.length - 1}`);
}
await model.dispose();
