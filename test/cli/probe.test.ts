import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";

import { captureCommand } from "../../src/cli/capture.js";
import { probeCommand } from "../../src/cli/probe.js";
import { reportCommand } from "../../src/cli/report.js";
import { writeRandomCheckpoint, type CheckpointShape } from "../../src/model/random-checkpoint.js";
import { readVectors } from "../../src/probes/vectors.js";

const SHAPE: CheckpointShape = {
  text: { layers: 1, width: 16, heads: 2, headWidth: 8, ffnWidth: 32, vocabulary: 40 },
  decoder: { layers: 2, width: 16, heads: 2, ffnWidth: 64, audioChannels: 1 },
  codec: { filters: 2, ratios: [8, 5, 4, 4], latentWidth: 8, codebooks: 4, codebookSize: 16 },
};
const RESID = "blocks.1.hook_resid_post";

describe("tonearm probe and report", () => {
  let folder: string;
  let capture: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "tonearm-probe-"));
    const model = join(folder, "model");
    capture = join(folder, "capture");
    await writeRandomCheckpoint(model, SHAPE, 1);
    const lines = Array.from({ length: 16 }, (_, index) => {
      const genre = index % 2 === 0 ? "jazz" : "rock";
      return JSON.stringify({ id: `clip-${index}`, text: genre, genre, tempo: 80 + index, key: "C" });
    });
    const data = join(folder, "texts.jsonl");
    await writeFile(data, lines.join("\n"));
    const common = ["--json", "--backend", "cpu", "-m", model, "--mode", "generated", "--seconds", "0.1"];
    const wanted = ["--data", data, "--sites", "blocks.*.hook_resid_post", "blocks.*.attn.hook_z", "--reduce", "mean"];
    await quietly(() => captureCommand().parseAsync([...common, ...wanted, "-o", capture], { from: "user" }));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  /** What a command prints. */
  async function quietly(run: () => Promise<unknown>): Promise<string> {
    const print = vi.spyOn(process.stdout, "write").mockReturnValue(true);
    try {
      await run();
      return print.mock.calls.map(([text]) => String(text)).join("");
    } finally {
      print.mockRestore();
    }
  }

  function probe(...args: readonly string[]): Promise<string> {
    return quietly(() =>
      probeCommand()
        .exitOverride()
        .parseAsync([capture, "--backend", "cpu", ...args], { from: "user" }),
    );
  }

  it("scores every layer and head, writes vectors that can be read back, and a page that shows the scores", async () => {
    const [vectors, results, page] = ["genre.safetensors", "genre.json", "genre.html"].map((name) =>
      join(folder, name),
    );
    const files = ["-o", vectors ?? "", "--results", results ?? ""];
    const printed = await probe("--label", "genre", "--json", ...files);
    const { units } = JSON.parse(printed) as { units: readonly { site: string; head: number | null }[] };
    expect(units.map(({ site, head }) => [site, head])).toEqual(
      ["0", "1"].flatMap((layer) => [
        [`blocks.${layer}.attn.hook_z`, 0],
        [`blocks.${layer}.attn.hook_z`, 1],
        [`blocks.${layer}.hook_resid_post`, null],
      ]),
    );
    const stored = await readVectors(vectors ?? "");
    expect([...stored.sites.keys()].toSorted()).toEqual([...new Set(units.map(({ site }) => site))].toSorted());
    expect(stored.concepts).toEqual(["jazz", "rock"]);
    await quietly(() => reportCommand().parseAsync([results ?? "", "-o", page ?? ""], { from: "user" }));
    const html = await readFile(page ?? "", "utf8");
    expect(html).toContain("blocks.1.attn.hook_z");
    expect(html).not.toMatch(/(src|href)="http/);
  });

  it("prints the comparison of squared error with cross-entropy", async () => {
    const printed = await probe("--label", "genre", "--compare", "logistic", "--sites", RESID, "--no-control");
    expect(printed).toMatch(/ridge against logistic, held out, on the same folds:/);
    expect(printed).toMatch(/ridge is better at \d of 1 units, logistic at \d, the rest can't be told apart/);
  });

  it("lets rfm draw its settings", async () => {
    const args = ["--estimator", "rfm", "--draws", "2", "--sites", RESID, "--no-control", "--json"];
    expect(JSON.parse(await probe("--label", "genre", ...args))).toMatchObject({ estimator: "rfm" });
  });

  it.each([
    ["a label that the capture has not", ["--label", "mood"], /genre.*tempo|tempo.*genre/s],
    ["one class only", ["--label", "key"], /one class|1 class|"key"/],
    ["a site that the capture has not", ["--label", "genre", "--sites", "blocks.7.*"], /no such site/],
    ["a penalty of nothing", ["--label", "genre", "--penalty", "0"], /above 0/],
    ["too few folds", ["--label", "genre", "--folds", "2"], /too few/],
  ])("refuses %s", async (_, args, message) => {
    await expect(probe(...args)).rejects.toThrow(message);
  });
});
