// Which layer and position carries the text? Runs the same codes under two texts, patches the residual stream of one into
// the other place by place, and writes a heat map.
//
//   node examples/patch.js [MODEL]
import { writeFile } from "node:fs/promises";

import { divergenceFromClean, heatMapSvg, MusicGen, patchSweep } from "tonearm";

import { modelDirectory } from "./model.js";

const model = await MusicGen.load(await modelDirectory(process.argv[2]));
const { codes } = await model.generate({ text: "slow jazz trio", frames: 12, seed: 1 });
const { table, corrupted } = await patchSweep(model, {
  clean: { text: "slow jazz trio", codes },
  corrupted: { text: "hard techno", codes },
  sites: "blocks.*.hook_resid_post",
  over: "positions",
  metric: divergenceFromClean(),
});
await writeFile("patch.svg", heatMapSvg({ ...table, title: "KL to the clean run after patching, nats" }));
console.log(`unpatched: ${corrupted.toFixed(4)} nats from the clean run`);
for (const [row, site] of table.rows.entries()) {
  console.log(`  ${site}  ${table.values[row]?.map((value) => value.toFixed(4)).join(" ")}`);
}
console.log("wrote patch.svg");
await model.dispose();
