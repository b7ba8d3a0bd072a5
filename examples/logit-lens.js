// What does each layer expect next? Writes a table of layers × positions, and lets every layer be heard.
//
//   node examples/logit-lens.js [MODEL]
import { writeFile } from "node:fs/promises";

import { accumulatedSites, disposeCache, hearLens, heatMapSvg, lensTable, MusicGen, writeWav } from "tonearm";

import { modelDirectory } from "./model.js";

const model = await MusicGen.load(await modelDirectory(process.argv[2]));
const text = "slow jazz trio";
const { codes } = await model.generate({ text, seconds: 1, seed: 1 });
const { logits, cache } = await model.runWithCache({ text, codes }, { sites: accumulatedSites });

const table = await lensTable(model, cache, { codes, codebook: 0 });
await writeFile("lens.svg", heatMapSvg(table));
for (const [row, site] of table.rows.entries()) {
  const known = table.values[row]?.filter((value) => !Number.isNaN(value)) ?? [];
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  console.log(`  ${site}  ${mean.toFixed(3)} nats a code`);
}
for (let layer = 0; layer < model.config.decoder.layers; layer++) {
  await writeWav(`lens-${layer}.wav`, await hearLens(model, cache[`blocks.${layer}.hook_resid_post`]));
}
console.log(`wrote lens.svg and lens-0.wav … lens-${model.config.decoder.layers - 1}.wav`);
logits.dispose();
disposeCache(cache);
await model.dispose();
