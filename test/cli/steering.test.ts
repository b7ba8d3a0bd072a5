import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Command, CommanderError } from "commander";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";

import { openCapture } from "../../src/activations/store.js";
import { readWav, readWavMetadata, writeWav } from "../../src/audio/wav.js";
import { writeSafetensors } from "../../src/checkpoint/safetensors.js";
import { captureCommand } from "../../src/cli/capture.js";
import { generateCommand } from "../../src/cli/generate.js";
import { reportError } from "../../src/cli/output.js";
import { recipeCommand } from "../../src/cli/recipe.js";
import { steerSpecCommand } from "../../src/cli/steer-spec.js";
import { sweepCommand } from "../../src/cli/sweep.js";
import { writeRandomCheckpoint, type CheckpointShape } from "../../src/model/random-checkpoint.js";
import { MusicGen } from "../../src/musicgen.js";
import { writeVectors } from "../../src/probes/vectors.js";
import { noise, randomVectors } from "../steering/support.js";

const SHAPE: CheckpointShape = {
  text: { layers: 1, width: 16, heads: 2, headWidth: 8, ffnWidth: 32, vocabulary: 40 },
  decoder: { layers: 2, width: 16, heads: 2, ffnWidth: 64, audioChannels: 1 },
  codec: { filters: 2, ratios: [8, 5, 4, 4], latentWidth: 8, codebooks: 4, codebookSize: 16 },
};
const SITE = "blocks.1.hook_resid_post";
const SITES = ["blocks.0.hook_resid_post", SITE, "blocks.0.attn.hook_z", "blocks.1.attn.hook_z"];
const JAZZ = { concept: "jazz", sites: SITE, strength: 0.5 };

interface Ran {
  readonly exitCode: number;
  readonly out: string;
  readonly error: string;
}

describe("the commands that steer", () => {
  let folder: string;
  let model: string;
  const at = (name: string): string => join(folder, name);

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "tonearm-steering-"));
    model = at("model");
    await writeRandomCheckpoint(model, SHAPE, 1);
    const loaded = await MusicGen.load(model, { backend: "cpu" });
    await writeVectors(at("genre.safetensors"), randomVectors(loaded, SITES));
    await loaded.dispose();
    await writeWav(at("prompt.wav"), { sampleRate: 32_000, channels: [noise(10 * 640, 1).map((value) => value / 4)] });
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  /** Runs a command as the command line does. */
  async function run(...args: readonly string[]): Promise<Ran> {
    const program = new Command("tonearm").exitOverride().configureOutput({ writeErr: () => undefined });
    for (const command of [steerSpecCommand(), generateCommand(), sweepCommand(), recipeCommand(), captureCommand()]) {
      program.addCommand(command.copyInheritedSettings(program));
    }
    const [out, error] = [process.stdout, process.stderr].map((stream) =>
      vi.spyOn(stream, "write").mockReturnValue(true),
    );
    const printed = (spy: typeof out): string => spy?.mock.calls.map(([text]) => String(text)).join("") ?? "";
    let exitCode = 0;
    try {
      await program.parseAsync([...args], { from: "user" });
    } catch (thrown) {
      exitCode = thrown instanceof CommanderError ? 2 : reportError(thrown, args.includes("--json"));
    }
    const ran = { exitCode, out: printed(out), error: printed(error) };
    vi.restoreAllMocks();
    return ran;
  }

  const withModel = (): string[] => ["-m", model, "--backend", "cpu"];

  async function specFile(name: string, spec: object): Promise<string> {
    await writeFile(at(name), JSON.stringify({ vectors: { genre: "genre.safetensors" }, ...spec }));
    return at(name);
  }

  it("steer-spec prints a preset as a complete spec, which generate takes", async () => {
    const options = ["--vectors", "genre.safetensors", "--concept", "jazz", "-m", model];
    const shown = await run("steer-spec", "seed-clean", ...options);
    expect(shown.exitCode).toBe(0);
    expect(JSON.parse(shown.out)).toMatchObject({ segments: [{ steer: [{ concept: "jazz", strength: 0.15 }] }] });
    const written = await run(
      "steer-spec",
      "musicrfm",
      ...options,
      "--strength",
      "0.4",
      "-o",
      at("rfm.json"),
      "--json",
    );
    expect(JSON.parse(written.out)).toMatchObject({ file: at("rfm.json"), spec: { prompt: true } });
    const made = await run(
      "generate",
      "a tune",
      "--steer",
      at("rfm.json"),
      "--frames",
      "6",
      "-o",
      at("rfm.wav"),
      ...withModel(),
    );
    expect(made).toMatchObject({ exitCode: 0, error: "" });
    expect(await readWavMetadata(at("rfm.wav"))).toMatchObject({
      steering: { spec: { segments: [{ steer: [{ strength: 0.4, probability: 0.3 }] }] } },
    });
  });

  it("generate --steer changes the clip, --strength 0 does not, and the clip says how it was made", async () => {
    const spec = await specFile("jazz.json", { segments: [{ steer: [JAZZ] }] });
    const common = ["generate", "a tune", "--frames", "8", "--seed", "3", ...withModel(), "--json", "-o"];
    await run(...common, at("clean.wav"));
    const steered = await run(...common, at("steered.wav"), "--steer", spec);
    const nothing = await run(...common, at("nothing.wav"), "--steer", spec, "--strength", "0");
    expect([steered.exitCode, nothing.exitCode]).toEqual([0, 0]);
    const [clean, changed, same] = await Promise.all(
      ["clean.wav", "steered.wav", "nothing.wav"].map((f) => readWav(at(f))),
    );
    expect(changed?.channels).not.toEqual(clean?.channels);
    expect(same?.channels).toEqual(clean?.channels);
    expect(JSON.parse(steered.out)).toMatchObject({
      settings: {
        steering: { spec: { segments: [{ steer: [{ strength: 0.5 }] }] }, vectors: { genre: { label: "genre" } } },
      },
    });
    const two = await run(...common, at("two.wav"), "--steer", spec, spec);
    expect(JSON.parse(two.out)).toMatchObject({ settings: { steering: { joined: [{}, {}] } } });
  });

  it("generate lets the text change over time, by --text-at and by a spec", async () => {
    const common = ["generate", "a tune", "--frames", "8", "--seed", "3", ...withModel(), "--json", "-o"];
    const byOption = await run(...common, at("option.wav"), "--text-at", "0.06", "drums", "--text-at", "0.1", "bass");
    expect(JSON.parse(byOption.out)).toMatchObject({
      settings: {
        text: [
          { fromFrame: 0, text: "a tune" },
          { fromFrame: 3, text: "drums" },
          { fromFrame: 5, text: "bass" },
        ],
      },
    });
    const segments = [
      { from: 0.06, until: 0.1, text: "drums" },
      { from: 0.1, text: "bass", steer: [{ ...JAZZ, strength: 0 }] },
    ];
    const bySpec = await run(...common, at("spec.wav"), "--steer", await specFile("texts.json", { segments }));
    expect(bySpec.exitCode).toBe(0);
    expect((await readWav(at("spec.wav"))).channels).toEqual((await readWav(at("option.wav"))).channels);
    const odd = await run(...common, at("odd.wav"), "--text-at", "0.06");
    expect([odd.exitCode, odd.error]).toEqual([2, expect.stringContaining("pairs")]);
    const late = await run(...common, at("late.wav"), "--text-at", "3", "bass");
    expect([late.exitCode, late.error]).toEqual([
      2,
      expect.stringContaining("text[1].from: 3, while the clip ends at 0.16"),
    ]);
    const unsorted = await run(...common, at("unsorted.wav"), "--text-at", "0.1", "bass", "0.06", "drums");
    expect([unsorted.exitCode, unsorted.error]).toEqual([
      2,
      expect.stringContaining("text[2].from: 0.06, no later than"),
    ]);
  });

  it.each<[string, object, string]>([
    [
      "overlapping segments",
      {
        segments: [
          { until: 0.1, steer: [JAZZ] },
          { from: 0.05, steer: [JAZZ] },
        ],
      },
      "segments[1].from: 0.05",
    ],
    ["an empty segment", { segments: [{ from: 0.1, until: 0.1, steer: [JAZZ] }] }, "segments[0].until: 0.1"],
    [
      "a time beyond the clip",
      { segments: [{ from: 3, steer: [JAZZ] }] },
      "segments[0].from: 3, while the clip ends at 0.16",
    ],
    [
      "a text beyond the clip",
      { segments: [{ from: 3, text: "bass" }] },
      "segments[0].from: 3, while the clip ends at 0.16",
    ],
    [
      "a strength that is no number",
      { segments: [{ steer: [{ ...JAZZ, strength: null }] }] },
      "segments[0].steer[0].strength",
    ],
    [
      "a strength out of range",
      { segments: [{ steer: [{ ...JAZZ, strength: 1e9 }] }] },
      "strength: 1000000000. Give a finite number from -10000 to 10000",
    ],
    [
      "a layer that doesn't exist",
      { segments: [{ steer: [{ ...JAZZ, sites: "blocks.9.hook_resid_post" }] }] },
      "segments[0].steer[0].sites: a layer out of range. This network has layers 0 … 1",
    ],
    [
      "a head that doesn't exist",
      { segments: [{ steer: [{ ...JAZZ, sites: "blocks.0.attn.hook_z", weighting: { heads: [[0, 7]] } }] }] },
      "segments[0].steer[0].weighting.heads[0]: head 7 of 2. Give 0 … 1",
    ],
    [
      "contradictory options",
      { segments: [{ steer: [{ ...JAZZ, unit: "norm" }] }] },
      'segments[0].steer[0].unit: "norm"',
    ],
  ])("generate refuses %s with exit code 2 and the field's path, in lines and in JSON", async (_, spec, message) => {
    const file = await specFile("bad.json", spec);
    const common = ["generate", "a tune", "--steer", file, "--frames", "8", "-o", at("bad.wav"), ...withModel()];
    const lines = await run(...common);
    expect([lines.exitCode, lines.out]).toEqual([2, ""]);
    expect(lines.error).toContain(message);
    const json = await run(...common, "--json");
    expect(json.exitCode).toBe(2);
    expect(JSON.parse(json.error)).toMatchObject({
      error: { code: "usage", found: expect.stringContaining("segments[") as string },
    });
    expect(await readdir(folder)).not.toContain("bad.wav");
  });

  it("exits with 1 for damaged vectors and with 2 for a spec that is no JSON or isn't there", async () => {
    await writeFile(at("broken.safetensors"), "no vectors");
    const damaged = await specFile("damaged.json", {
      vectors: { genre: "broken.safetensors" },
      segments: [{ steer: [JAZZ] }],
    });
    await writeFile(at("no.json"), "{");
    const steered = (file: string): Promise<Ran> =>
      run("generate", "a", "--steer", file, "-o", at("x.wav"), ...withModel());
    expect((await steered(damaged)).exitCode).toBe(1);
    expect(await steered(at("no.json"))).toMatchObject({
      exitCode: 2,
      error: expect.stringContaining("no.json") as string,
    });
    expect((await steered(at("nowhere.json"))).exitCode).toBe(2);
    expect((await run("generate", "a", "--strength", "1", "-o", at("x.wav"), ...withModel())).exitCode).toBe(2);
    expect((await run("steer-spec", "seed-clear", "--vectors", "v", "--concept", "c", "-m", model)).error).toContain(
      "seed-clean",
    );
    expect((await run("steer-spec", "seed-clean")).exitCode).toBe(2);
  });

  it("sweep writes clips, a table and a report, and prints the rows", async () => {
    const spec = await specFile("sweep.json", { segments: [{ steer: [JAZZ] }] });
    const common = ["sweep", "a tune", "--steer", spec, "--frames", "6", ...withModel()];
    const ran = await run(...common, "--strengths", "0.2,0.8", "--layers", "0,1", "-o", at("swept"), "--json");
    expect(ran.exitCode).toBe(0);
    expect(JSON.parse(ran.out)).toMatchObject({ folder: at("swept"), rows: Array<object>(8).fill({ effect: {} }) });
    expect(await readdir(at("swept"))).toEqual(
      expect.arrayContaining(["clean.wav", "sweep.csv", "sweep.json", "report.html"]),
    );
    const lines = await run(...common, "--strengths", "0.2", "--layers", "1", "--no-control", "-o", at("swept-2"));
    expect(lines.out.split("\n").filter((line) => line.includes("\tconcept\t"))).toHaveLength(1);
    const nowhere = await run(...common, "--strengths", "0.2", "--layers", "5", "-o", at("nowhere"));
    expect([nowhere.exitCode, nowhere.error]).toEqual([2, expect.stringContaining("layers 0 … 1")]);
    expect((await run(...common, "--strengths", "a", "--layers", "1", "-o", at("nowhere"))).exitCode).toBe(2);
    expect(await readdir(folder)).not.toContain("nowhere");
  });

  it.each<[string, readonly string[]]>([
    ["timbre-transfer", ["--from", "rock", "--to", "jazz", "--fade", "0.04"]],
    ["style-transfer", ["--from", "rock", "--to", "jazz", "--text", "a tune"]],
    ["genre-fusion", ["--fuse", "jazz=0.4>0,rock=0>0.4", "--text", "a tune"]],
  ])("recipe %s writes both clips, the spec and the effect", async (name, options) => {
    const output = at(name);
    const shared = ["--vectors", at("genre.safetensors"), "--sites", SITE, "--seconds", "0.4", "-o", output];
    const prompt = name === "genre-fusion" ? [] : ["--prompt-audio", at("prompt.wav")];
    const ran = await run("recipe", name, ...shared, ...prompt, ...options, ...withModel(), "--json");
    expect(ran).toMatchObject({ exitCode: 0, error: "" });
    expect(JSON.parse(ran.out)).toMatchObject({
      folder: output,
      effect: { tokenChange: expect.any(Number) as number },
    });
    expect((await readdir(output)).toSorted()).toEqual(["clean.wav", "effect.json", "spec.json", "steered.wav"]);
    // The spec beside the clips makes the clip again.
    const text = options.includes("--text") ? ["a tune"] : [];
    const again = ["--steer", join(output, "spec.json"), "--seconds", "0.4", "--seed", "0", "-o", at("again.wav")];
    expect((await run("generate", ...text, ...prompt, ...again, ...withModel())).exitCode).toBe(0);
    expect((await readWav(at("again.wav"))).channels).toEqual((await readWav(join(output, "steered.wav"))).channels);
    expect(await readFile(join(output, "effect.json"), "utf8")).toContain("divergence");
  });

  it.each<[string, readonly string[], string]>([
    ["an unknown recipe", ["jazzify"], "Choose one of timbre-transfer"],
    ["a transfer without a prompt", ["style-transfer", "--from", "rock", "--to", "jazz"], "--prompt-audio"],
    ["a fusion of one", ["genre-fusion", "--fuse", "jazz=0.4"], "two or more"],
    ["weights that are none", ["genre-fusion", "--fuse", "jazz,rock"], '"jazz", which is no weight'],
    ["a concept that doesn't exist", ["genre-fusion", "--fuse", "jazz=0.4,polka=0.2"], '"polka", a concept that'],
  ])("recipe refuses %s with exit code 2", async (_, args, message) => {
    const shared = ["--vectors", at("genre.safetensors"), "--sites", SITE, "-o", at("refused"), ...withModel()];
    const ran = await run("recipe", ...args, ...shared);
    expect(ran.exitCode).toBe(2);
    expect(ran.error).toContain(message);
    expect(await readdir(folder)).not.toContain("refused");
  });

  it("capture --steer keeps what steering left, and its record", async () => {
    const values = Int32Array.from({ length: 4 * 6 }, (_, index) => (index * 5) % 16);
    await writeSafetensors(at("codes.safetensors"), [{ name: "codes", shape: [1, 4, 6], dtype: "I32", values }]);
    const spec = await specFile("ablate.json", {
      segments: [{ steer: [{ ...JAZZ, operator: "ablate", strength: 1 }] }],
    });
    const common = ["capture", "--text", "a tune", "--codes", at("codes.safetensors"), "--sites", SITE, ...withModel()];
    expect((await run(...common, "-o", at("plain-capture"))).exitCode).toBe(0);
    expect((await run(...common, "--steer", spec, "-o", at("steered-capture"))).exitCode).toBe(0);
    const loaded = await MusicGen.load(model, { backend: "cpu" });
    const direction = randomVectors(loaded, SITES).sites.get(SITE)?.directions.subarray(0, 16) ?? new Float32Array(0);
    await loaded.dispose();
    const alongJazz = async (name: string): Promise<number> => {
      const stored = await openCapture(at(name));
      const { values: kept } = await stored.read(SITE);
      const projections = Array.from({ length: kept.length / 16 }, (_, row) =>
        Math.abs(direction.reduce((sum, value, index) => sum + value * (kept[16 * row + index] ?? NaN), 0)),
      );
      return Math.max(...projections);
    };
    expect(await alongJazz("plain-capture")).toBeGreaterThan(0.1);
    expect(await alongJazz("steered-capture")).toBeLessThan(1e-4);
    expect((await openCapture(at("steered-capture"))).settings).toMatchObject({
      steering: { spec: { segments: [{}] } },
    });
    const texts = await specFile("capture-texts.json", { segments: [{ from: 0.04, text: "bass" }] });
    const refused = await run(...common, "--steer", texts, "-o", at("texts-capture"));
    expect([refused.exitCode, refused.error]).toEqual([2, expect.stringContaining("segments[0].text")]);
  });
});
