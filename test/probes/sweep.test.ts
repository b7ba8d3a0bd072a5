import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";

import { probeReport } from "../../src/experiments/report.js";
import { compareEstimators } from "../../src/probes/compare.js";
import type { ActivationData, Label, SiteFeatures } from "../../src/probes/data.js";
import { headline } from "../../src/probes/metrics.js";
import { summarize, verdict } from "../../src/probes/summary.js";
import { ESTIMATORS, sweepProbes } from "../../src/probes/sweep.js";
import { directionOf } from "../../src/probes/vectors.js";
import { uniformStream } from "../../src/runtime/random.js";
import { describeOnEachBackend } from "../support/backends.js";

const [TRACKS, WINDOWS, WIDTH] = [24, 4, 8];
const ROWS = TRACKS * WINDOWS;
const track = (row: number): number => Math.floor(row / WINDOWS);
const genre = (row: number): string => (track(row) % 2 === 0 ? "jazz" : "rock");
const tempo = (row: number): number => 80 + 3 * track(row);

/** Features of noise, plus what `signal` adds to each entry. Windows of one track share half of their noise. */
function features(
  site: string,
  shape: readonly number[],
  seed: number,
  signal: (row: number, entry: number) => number,
): SiteFeatures {
  const size = shape.reduce((a, b) => a * b, 1);
  const uniforms = uniformStream(seed, 0);
  const shared = Array.from({ length: TRACKS * size }, () => uniforms() - 0.5);
  const values = Float32Array.from({ length: ROWS * size }, (_, index) => {
    const [row, entry] = [Math.floor(index / size), index % size];
    return 3 + (shared[track(row) * size + entry] ?? 0) + uniforms() - 0.5 + signal(row, entry);
  });
  return { site, shape, read: async () => values };
}

function dataOf(
  sites: readonly SiteFeatures[],
  extra: readonly (readonly [string, readonly Label[]])[] = [],
): ActivationData {
  const rows = Array.from({ length: ROWS }, (_, row) => row);
  return {
    model: "a".repeat(64),
    rows: ROWS,
    sites,
    columns: new Map<string, readonly Label[]>([
      ["genre", rows.map(genre)],
      ["tempo", rows.map(tempo)],
      ["track", rows.map((row) => `track ${String(track(row)).padStart(2, "0")}`)],
      ...extra,
    ]),
    clipColumn: "track",
  };
}

const noise = features("blocks.0.hook_resid_post", [WIDTH], 1, () => 0);
const knowing = features("blocks.1.hook_resid_post", [WIDTH], 2, (row, entry) =>
  entry === 3 ? (genre(row) === "rock" ? 1.5 : 0) : entry === 5 ? tempo(row) / 20 : 0,
);
const heads = features("blocks.1.attn.hook_z", [2, 4], 3, (row, entry) =>
  entry === 6 && genre(row) === "rock" ? 2 : 0,
);
const data = dataOf([noise, knowing, heads]);

describeOnEachBackend("a sweep of probes", () => {
  it("finds the layer and the head that know the genre, and along which direction", async () => {
    const tensors = tf.memory().numTensors;
    const { units, vectors } = await sweepProbes(data, { label: "genre", estimator: "ridge" });
    expect(tf.memory().numTensors).toBe(tensors);
    expect(units.map(({ site, head, aboveChance }) => [site, head, aboveChance])).toEqual([
      ["blocks.0.hook_resid_post", undefined, false],
      ["blocks.1.hook_resid_post", undefined, true],
      ["blocks.1.attn.hook_z", 0, false],
      ["blocks.1.attn.hook_z", 1, true],
    ]);
    const best = units[3];
    expect(best && headline(best.scores).value).toBeGreaterThan(0.85);
    expect(best?.selectivity).toBeGreaterThan(0.25);
    const direction = Array.from(directionOf(vectors, "blocks.1.attn.hook_z", "rock"));
    expect(direction.indexOf(Math.max(...direction))).toBe(6);
    const site = vectors.sites.get("blocks.1.attn.hook_z");
    expect(site?.shape).toEqual([2, 4]);
    expect((site?.mean[8 + 6] ?? 0) - (site?.mean[6] ?? 0)).toBeCloseTo(2, 0);
  });

  for (const estimator of ESTIMATORS.filter((name) => name !== "rfm")) {
    it(`runs with ${estimator}, which tells the genre from the signal and not from noise`, async () => {
      const { units } = await sweepProbes(dataOf([noise, heads]), { label: "genre", estimator, normalize: false });
      const [unknowing, , knowingHead] = units.map(({ scores }) => headline(scores));
      expect(unknowing?.low).toBeLessThan(0.5);
      if (estimator !== "random") expect(knowingHead?.low).toBeGreaterThan(0.5);
    });
  }

  it("takes numbers: R² of a tempo is high where it is known and none where it isn't", async () => {
    const { units } = await sweepProbes(dataOf([noise, knowing]), { label: "tempo", estimator: "ridge" });
    expect(
      headline((units[1] ?? units[0])?.scores ?? { kind: "value", r2: { value: 0, low: 0, high: 0 } }).value,
    ).toBeGreaterThan(0.8);
    expect(units.map(({ aboveChance }) => aboveChance)).toEqual([false, true]);
  });

  it("compares two estimators unit by unit on the same folds", async () => {
    const { units, wins } = await compareEstimators(dataOf([noise, heads]), ["ridge", "logistic"], { label: "genre" });
    expect(units).toHaveLength(3);
    expect(wins[0] + wins[1]).toBeLessThanOrEqual(1);
    expect(units[2]?.cosines[1]).toBeGreaterThan(0.9);
  });
});

describe("what a sweep says", () => {
  it("of pure noise: no better than chance, its interval around chance", async () => {
    const sweep = await sweepProbes(dataOf([noise]), { label: "genre", estimator: "ridge" });
    const [unit] = sweep.units;
    const { low, high } = headline(unit?.scores ?? { kind: "value", r2: { value: 0, low: 0, high: 0 } });
    expect(low).toBeLessThanOrEqual(0.5);
    expect(high).toBeGreaterThanOrEqual(0.5);
    expect(verdict(summarize(sweep)).join(" ")).toMatch(/No better than chance/);
    expect(probeReport([summarize(sweep)])).toMatch(/no better than chance/);
  });

  it("is one page that fetches nothing, with every name escaped", async () => {
    const sweep = await sweepProbes(data, { label: "genre", estimator: "means" });
    const page = probeReport([{ ...summarize(sweep), label: "<script>alert(1)</script>" }]);
    expect(page).not.toMatch(/<script|https?:|src=|@import/);
    expect(page.match(/<svg/g)).toHaveLength(2);
    expect(page).toMatch(/blocks\.1\.attn\.hook_z, head 1/);
  });

  it("does not believe windows of one track: by row the track is recognised, by group nothing is", async () => {
    // Each track has its own fixed offset, and labels are dealt to tracks at random: there is nothing to know.
    const own = features("blocks.0.hook_resid_post", [32], 8, () => 0);
    const dealt = Array.from({ length: ROWS }, (_, row) => ["a", "b"][(track(row) * 7 + (track(row) % 5)) % 2] ?? "a");
    const set = dataOf(
      [own],
      [
        ["dealt", dealt],
        ["row", dealt.map((_, row) => row)],
      ],
    );
    const honest = await sweepProbes(set, { label: "dealt", estimator: "ridge", control: false });
    const leaking = await sweepProbes(set, { label: "dealt", group: "row", estimator: "ridge", control: false });
    expect(leaking.units[0]?.aboveChance).toBe(true);
    expect(honest.units[0]?.aboveChance).toBe(false);
  });

  it("refuses what can't carry a probe, and says which and why", async () => {
    const rows = Array.from({ length: ROWS }, (_, row) => row);
    const set = dataOf(
      [noise],
      [
        ["one", rows.map(() => "x")],
        ["gaps", rows.map((row) => (row === 5 ? null : genre(row)))],
        ["rare", rows.map((row) => (track(row) === 0 ? "rare" : "common"))],
      ],
    );
    const probe = (label: string, sites = set.sites) => sweepProbes({ ...set, sites }, { label, estimator: "ridge" });
    await expect(probe("one")).rejects.toThrow(/one class only, "x"/);
    await expect(probe("gaps")).rejects.toThrow(/1 of 96 rows without a label, the first at row 5/);
    await expect(probe("rare")).rejects.toThrow(/class "rare" with 1 group/);
    await expect(probe("style")).rejects.toThrow(/only genre, tempo, track/);
    await expect(probe("genre", [noise, noise])).rejects.toThrow(/hook_resid_post twice/);
    const withNaN: SiteFeatures = { ...noise, read: async () => new Float32Array(ROWS * WIDTH).fill(NaN, 9, 10) };
    await expect(probe("genre", [withNaN])).rejects.toThrow(/NaN in row 1/);
    const constant: SiteFeatures = { ...noise, read: async () => new Float32Array(ROWS * WIDTH).fill(1.1) };
    await expect(probe("genre", [constant])).rejects.toThrow(/the same activations in all of/);
    const short: SiteFeatures = { ...noise, read: async () => new Float32Array(7) };
    await expect(probe("genre", [short])).rejects.toThrow(/7 values for 96 rows/);
    await expect(sweepProbes(set, { label: "tempo", estimator: "logistic" })).rejects.toThrow(/numbers/);
  });
});
