// How long probing takes: ridge probes for every layer's residual stream and every attention head of a model of
// musicgen-small's size, cross-validated, with shuffled controls and intervals. Features are noise with a trace of the
// label. Prints JSON.
//
//   npm run build && node bench/probes.js [backend] [rows] [layers] [width] [heads]
import { sweepProbes, useBackend } from "tonearm";

const [backend, ...sizes] = process.argv.slice(2);
const [rows = 2000, layers = 24, width = 1024, heads = 16] = sizes.map(Number);
const used = await useBackend(backend);

const genres = ["jazz", "rock", "classical", "electronic"];
// Made before the clock starts. Every 37th feature of a row knows its genre a little.
const features = Float32Array.from({ length: rows * width }, (_, index) => {
  const [row, feature] = [Math.floor(index / width), index % width];
  return Math.random() - 0.5 + (feature % 37 === row % genres.length ? 0.1 : 0);
});

const sites = Array.from({ length: layers }, (_, layer) => [
  { site: `blocks.${layer}.hook_resid_post`, shape: [width], read: async () => features.slice() },
  { site: `blocks.${layer}.attn.hook_z`, shape: [heads, width / heads], read: async () => features.slice() },
]).flat();
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
      penalties: [...new Set(units.map(({ probe }) => probe.settings.penalty))],
      rows,
      seconds: round((performance.now() - start) / 1000),
      processorSeconds: round((user + system) / 1e6),
      peakMemoryMiB: Math.round(process.resourceUsage().maxRSS / 1024),
    },
    null,
    2,
  )}\n`,
);
