// How long probing takes: ridge probes for every layer's residual stream and every attention head of a model of
// musicgen-small's size, cross-validated, with shuffled controls and intervals. Features are random; their values don't
// change the work. Prints JSON.
//
//   npm run build && node bench/probes.js [backend] [rows] [layers] [width] [heads]
import { sweepProbes, useBackend } from "tonearm";

const [backend, ...sizes] = process.argv.slice(2);
const [rows = 2000, layers = 24, width = 1024, heads = 16] = sizes.map(Number);
const used = await useBackend(backend);

/** Uniform noise: what it is does not matter here. */
function noise(count) {
  return Float32Array.from({ length: count }, () => Math.random() - 0.5);
}

const sites = Array.from({ length: layers }, (_, layer) => [
  { site: `blocks.${layer}.hook_resid_post`, shape: [width], read: async () => noise(rows * width) },
  { site: `blocks.${layer}.attn.hook_z`, shape: [heads, width / heads], read: async () => noise(rows * width) },
]).flat();
const genres = ["jazz", "rock", "classical", "electronic"];
const genre = Array.from({ length: rows }, (_, row) => genres[row % genres.length]);
const data = { model: "random", rows, sites, columns: new Map([["genre", genre]]) };
const start = performance.now();
const cpu = process.cpuUsage();
const { units } = await sweepProbes(data, { label: "genre", estimator: "ridge" });
const { user, system } = process.cpuUsage(cpu);
const round = (number) => Number(number.toFixed(1));
process.stdout.write(
  `${JSON.stringify(
    {
      backend: used,
      units: units.length,
      rows,
      seconds: round((performance.now() - start) / 1000),
      processorSeconds: round((user + system) / 1e6),
      peakMemoryMiB: Math.round(process.resourceUsage().maxRSS / 1024),
    },
    null,
    2,
  )}\n`,
);
