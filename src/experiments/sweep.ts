import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { writeWav } from "../audio/wav.js";
import { UsageError } from "../errors.js";
import type { Generation, HookedGenerateOptions, MusicGen } from "../musicgen.js";
import type { SteeringVectors } from "../probes/vectors.js";
import { withSites, withStrength, type SteeringSpec } from "../steering/spec.js";
import { steer } from "../steering/steering.js";
import { measureEffect, type Effect, type Judge } from "./effect.js";
import { randomized } from "./randomized.js";
import { sweepReport } from "./sweep-report.js";

/** Which strengths and layers to try. */
export interface SteeringSweepOptions {
  readonly spec: SteeringSpec;
  readonly vectors: Readonly<Record<string, SteeringVectors>>;
  readonly strengths: readonly number[];
  readonly layers: readonly number[]; // the spec's sites are moved to each of them in turn
  /** Also steer by a random direction of the same norm in each place: what the direction's own effect is measured by. */
  readonly control: boolean;
  /** One clip each; `seed` must be given, so that clean and steered clips are of one seed. */
  readonly generate: Omit<HookedGenerateOptions, "steering" | "count" | "onProgress"> & { readonly seed: number };
  readonly judge?: Judge | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** One clip of a sweep. */
export interface SteeringSweepRow {
  readonly layer: number;
  readonly strength: number;
  readonly direction: "concept" | "random";
  readonly file: string; // in the sweep's folder
  readonly effect: Effect;
}

/** What a sweep found; all of it is in the folder too. */
export interface SteeringSweep {
  readonly clean: string; // file
  readonly rows: readonly SteeringSweepRow[];
  readonly files: readonly string[];
}

/**
 * Steers one clip at every layer and strength, and measures each against the clean clip of the same seed. Writes clips,
 * `sweep.json`, `sweep.csv` and `report.html` into a folder, which is made.
 *
 * @throws {UsageError} before any work, if a layer or strength can't be used.
 */
export async function sweepSteering(
  model: MusicGen,
  folder: string,
  options: SteeringSweepOptions,
): Promise<SteeringSweep> {
  const { strengths, layers, control, generate, onProgress, judge } = options;
  if (strengths.length === 0 || layers.length === 0) {
    throw new UsageError({
      asked: `sweep ${strengths.length} strengths over ${layers.length} layers`,
      found: "nothing to try",
      todo: "Give at least one strength and one layer",
    });
  }
  const directions = control ? (["concept", "random"] as const) : (["concept"] as const);
  const random = Object.fromEntries(Object.entries(options.vectors).map(([name, one]) => [name, randomized(one)]));
  const cells = layers.flatMap((layer) =>
    strengths.flatMap((strength) =>
      directions.map((direction) => {
        const spec = withStrength(atLayer(options.spec, layer), strength);
        const steering = steer(model, spec, direction === "random" ? random : options.vectors);
        return { layer, strength, direction, steering };
      }),
    ),
  );
  await mkdir(folder, { recursive: true });
  const total = cells.length + 1;
  const clean = await model.generate({ ...generate, count: 1 });
  await save(folder, "clean.wav", clean);
  onProgress?.(1, total);
  const rows: SteeringSweepRow[] = [];
  for (const [index, { layer, strength, direction, steering }] of cells.entries()) {
    const steered = await model.generate({ ...generate, count: 1, steering });
    const file = `layer-${layer}-strength-${strength}${direction === "random" ? "-random" : ""}.wav`;
    await save(folder, file, steered);
    const { guidance, promptFrames } = clean.settings;
    const text = generate.text ?? null;
    const effect = await measureEffect({ model, steering, text, guidance, promptFrames, clean, steered, judge });
    rows.push({ layer, strength, direction, file, effect });
    onProgress?.(index + 2, total);
  }
  const tables = {
    "sweep.json": `${JSON.stringify({ settings: clean.settings, spec: options.spec, clean: "clean.wav", rows }, null, 2)}\n`,
    "sweep.csv": csv(rows),
    "report.html": sweepReport(clean.settings, options.spec, rows),
  };
  for (const [name, text] of Object.entries(tables)) await writeFile(join(folder, name), text);
  return { clean: "clean.wav", rows, files: ["clean.wav", ...rows.map(({ file }) => file), ...Object.keys(tables)] };
}

/** The spec with every intervention's sites moved to one layer. */
export function atLayer(spec: SteeringSpec, layer: number): SteeringSpec {
  const sites = spec.segments.flatMap(({ steer: all }) => all.flatMap((one) => one.sites));
  const moved = [...new Set(sites.map((site) => site.replace(/^blocks\.[^.]+\./, `blocks.${layer}.`)))];
  return withSites(spec, moved);
}

async function save(folder: string, file: string, { audio, settings }: Generation): Promise<void> {
  await writeWav(join(folder, file), audio, { metadata: { ...settings } });
}

/** The numbers of a row by name, as tables show them. */
export function columnsOf({ effect }: SteeringSweepRow): Readonly<Record<string, number | null>> {
  const { sound, tokenChange, divergence, normRatio, content, judged } = effect;
  const named = Object.entries(judged).map(([name, value]) => [`judge: ${name}`, value] as const);
  return { tokenChange, divergence, normRatio, content, ...sound, ...Object.fromEntries(named) };
}

function csv(rows: readonly SteeringSweepRow[]): string {
  const names = Object.keys(rows[0] ? columnsOf(rows[0]) : {});
  const lines = rows.map((row) => {
    const numbers = Object.values(columnsOf(row)).map((value) => value ?? "");
    return [row.layer, row.strength, row.direction, row.file, ...numbers].join(",");
  });
  return `${[["layer", "strength", "direction", "file", ...names].join(","), ...lines].join("\n")}\n`;
}
