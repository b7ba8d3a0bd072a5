import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";

import { describe, expect, it } from "vitest";

import type { Outcome } from "../../src/experiments/seed-steering.js";
import { exportVectors } from "../../src/experiments/seed-vectors.js";
import { seedSettings, type SeedResult } from "../../src/experiments/seed.js";
import { readVectors, writeVectors } from "../../src/probes/vectors.js";
import { readSteering } from "../../src/steering/files.js";
import { bareModel, randomVectors } from "../steering/support.js";
import { temporaryDirectory } from "../support/temporary.js";

const CLIPS = 20;
const PAIR = { from: "piano", to: "violin" };

/** An experiment in which steering reached the class so often, and a random direction so often. */
function resultOf(steered: number, random: number): SeedResult {
  const outcomes = (hits: number): readonly Outcome[] =>
    Array.from({ length: CLIPS }, (_, index) => ({
      source: String(index),
      heard: index < hits ? "violin" : "piano",
      target: 0,
      content: 1,
      faults: [],
      divergence: null,
      normRatio: null,
      push: null,
      file: null,
    }));
  return {
    model: "m",
    material: "own clips",
    settings: seedSettings({}),
    tasks: [
      {
        task: "instrument",
        classes: [],
        probes: null,
        candidates: [],
        choice: { move: "add", at: "residual", layers: [0], strength: 0.5, rows: "all" },
        second: null,
        added: null,
        matrix: [],
        pairs: [
          { pair: PAIR, condition: "steered 0.5", outcomes: outcomes(steered) },
          { pair: PAIR, condition: "random direction 0.5", outcomes: outcomes(random) },
        ],
      },
    ],
    fusion: [],
    overhead: [],
    notes: [],
  };
}

async function folderWithVectors(): Promise<string> {
  const folder = await temporaryDirectory();
  await mkdir(join(folder, "vectors"));
  const sites = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"];
  const vectors = randomVectors(bareModel("residual"), sites, ["piano", "violin"]);
  await writeVectors(join(folder, "vectors", "instrument-means.safetensors"), vectors);
  return folder;
}

describe("what is shipped of an experiment", () => {
  it("are the chosen layer's directions, and a spec by name for each class where they beat random ones", async () => {
    const folder = await folderWithVectors();
    const target = join(folder, "shipped");
    const files = await exportVectors(resultOf(15, 2), folder, target);
    expect(files).toEqual(["instrument.safetensors", "violin.json"]);
    const vectors = await readVectors(join(target, "instrument.safetensors"));
    expect([...vectors.sites.keys()]).toEqual(["blocks.0.hook_resid_post"]);
    const { spec } = await readSteering(join(target, "violin.json"));
    expect(spec.segments[0]?.steer[0]).toMatchObject({
      concept: "violin",
      operator: "add",
      strength: 0.5,
      rows: "all",
    });
  });

  it("are every head's directions where those beat random ones and the chosen layer's don't", async () => {
    const folder = await temporaryDirectory();
    await mkdir(join(folder, "vectors"));
    const site = "blocks.0.attn.hook_z";
    const vectors = randomVectors(bareModel("heads"), [site], ["piano", "violin"]);
    await writeVectors(join(folder, "vectors", "instrument-means.safetensors"), vectors);
    const [chosen, heads] = [resultOf(8, 5), resultOf(15, 2)];
    const named = (heads.tasks[0]?.pairs ?? []).map((pair, index) => ({
      ...pair,
      condition: index === 0 ? "heads" : "heads, random direction",
    }));
    const tasks = chosen.tasks.map((task) => ({
      ...task,
      second: { move: "span" as const, at: "heads" as const, layers: [0], strength: 1.5, rows: "all" as const },
      pairs: [...task.pairs, ...named],
    }));
    const target = join(folder, "shipped");
    expect(await exportVectors({ ...chosen, tasks }, folder, target)).toEqual([
      "instrument.safetensors",
      "violin.json",
    ]);
    expect([...(await readVectors(join(target, "instrument.safetensors"))).sites.keys()]).toEqual([site]);
    const { spec } = await readSteering(join(target, "violin.json"));
    expect(spec.segments[0]?.steer[0]).toMatchObject({
      sites: "blocks.*.attn.hook_z",
      operator: "span",
      beyond: 1.5,
      minus: null,
      strength: 1,
    });
  });

  it("is nothing where the intervals overlap", async () => {
    const folder = await folderWithVectors();
    expect(await exportVectors(resultOf(8, 5), folder, join(folder, "shipped"))).toEqual([]);
    expect(await readdir(folder)).not.toContain("shipped");
  });
});
