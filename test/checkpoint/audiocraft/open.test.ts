import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it, onTestFinished } from "vitest";

import { missingModels } from "../../../src/checkpoint/audiocraft/open.js";
import { openCheckpoint } from "../../../src/checkpoint/checkpoint.js";
import { CheckpointError, type TonearmError } from "../../../src/errors.js";
import { readMusicGenConfig } from "../../../src/model/checkpoint.js";
import { MusicGen } from "../../../src/musicgen.js";
import { describeOnEachBackend } from "../../support/backends.js";
import { fixtureDirectory } from "../../support/fixtures.js";
import { temporaryDirectory } from "../../support/temporary.js";

// The same random weights in both layouts: tools/reference/make_audiocraft.py.
const KINDS = ["mono", "stereo", "melody"] as const;

function fixture(kind: string, layout: "audiocraft" | "hugging-face"): string {
  return join(fixtureDirectory("audiocraft"), kind, layout);
}

/** A copy of audiocraft's files that a test may change. */
async function copied(kind = "mono"): Promise<string> {
  const directory = await temporaryDirectory();
  await cp(fixture(kind, "audiocraft"), directory, { recursive: true });
  return directory;
}

/** Replaces a text of the same length in a file. */
async function patch(path: string, from: string, to: string): Promise<void> {
  expect(to).toHaveLength(from.length);
  const bytes = await readFile(path);
  let at = bytes.indexOf(from);
  expect(at).toBeGreaterThan(0);
  for (; at >= 0; at = bytes.indexOf(from, at + 1)) bytes.write(to, at, "latin1");
  await writeFile(path, bytes);
}

async function refusal(directory: string): Promise<TonearmError> {
  const read = async (): Promise<void> => {
    await readMusicGenConfig(directory);
    await (await openCheckpoint(directory)).close();
  };
  const error: unknown = await read().catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(CheckpointError);
  return error as TonearmError;
}

describe("audiocraft's files", () => {
  it.each(KINDS)("say the same of a %s model as config.json does", async (kind) => {
    const ours = await readMusicGenConfig(fixture(kind, "audiocraft"));
    expect(ours).toEqual(await readMusicGenConfig(fixture(kind, "hugging-face")));
  });

  it.each(KINDS)("give a %s model's tensors the names, shapes and values of Hugging Face", async (kind) => {
    const ours = await openCheckpoint(fixture(kind, "audiocraft"));
    onTestFinished(() => ours.close());
    const theirs = await openCheckpoint(fixture(kind, "hugging-face"));
    onTestFinished(() => theirs.close());
    expect([...ours.tensors.keys()].toSorted()).toEqual([...theirs.tensors.keys()].toSorted());
    for (const [name, entry] of theirs.tensors) {
      const own = ours.tensors.get(name);
      expect(own?.shape, name).toEqual(entry.shape);
      expect(await own?.file.floats(name), name).toEqual(await entry.file.floats(name));
      const range = { first: 1, count: entry.size - 1 };
      expect(await own?.file.floats(name, range), name).toEqual(await entry.file.floats(name, range));
    }
    expect(await ours.fingerprint()).toMatch(/^[0-9a-f]{64}$/);
  });

  it("name the models that are not there", async () => {
    const directory = await copied();
    await rm(join(directory, "t5-base"), { recursive: true });
    expect(await missingModels(directory)).toEqual(["google-t5/t5-base"]);
    expect(await refusal(directory)).toMatchObject({
      found: "no google-t5/t5-base, which audiocraft's files refer to",
      todo: expect.stringContaining("tonearm fetch google-t5/t5-base") as string,
    });
    await rm(join(directory, "compression_state_dict.bin"));
    expect((await refusal(directory)).message).toMatch(/compression_state_dict\.bin: no such file/);
  });

  it("may leave the codec to a folder with Hugging Face's files of it", async () => {
    const directory = await copied();
    const whole = await openCheckpoint(fixture("mono", "hugging-face"));
    onTestFinished(() => whole.close());
    const codec = join(directory, "encodec_32khz");
    await mkdir(codec);
    const { audio_encoder: block } = JSON.parse(
      await readFile(join(fixture("mono", "hugging-face"), "config.json"), "utf8"),
    ) as { readonly audio_encoder: object };
    await writeFile(join(codec, "config.json"), JSON.stringify(block));
    const { writeSafetensors } = await import("../../../src/checkpoint/safetensors.js");
    const tensors = [...whole.tensors.values()].filter(({ name }) => name.startsWith("audio_encoder."));
    await writeSafetensors(
      join(codec, "model.safetensors"),
      await Promise.all(
        tensors.map(async ({ name, shape, file }) => ({
          name: name.slice("audio_encoder.".length),
          shape,
          dtype: "F32" as const,
          values: await file.floats(name),
        })),
      ),
    );
    await rm(join(directory, "compression_state_dict.bin"));
    expect(await readMusicGenConfig(directory)).toEqual(await readMusicGenConfig(fixture("mono", "hugging-face")));
    const opened = await openCheckpoint(directory);
    onTestFinished(() => opened.close());
    expect([...opened.tensors.keys()].toSorted()).toEqual([...whole.tensors.keys()].toSorted());
  });

  it.each([
    ["lm_model: transformer_lm", "lm_model: transformer_xy", "lm_model"],
    ["bias_attn: false", "bias_attn: true ", "transformer_lm.bias_attn"],
    ["positional_embedding: sin", "positional_embedding: rop", "transformer_lm.positional_embedding"],
    ["modeling: delay", "modeling: other", "codebooks_pattern.modeling"],
    ["    - 3\n", "    - 4\n", "codebooks_pattern.delay.delays"],
    ["name: t5-base", "namE: t5-base", "conditioners.description.t5.name"],
    ["  dim: 16", "  dim: 1x", "transformer_lm.dim"],
    ["n_q: 4", "n_q: 5", "codebooks_pattern.delay.delays"],
    ["device: cuda", "device: !udf", "line 1 of its configuration"],
  ])("are refused where %j reads %j, naming %s", async (from, to, named) => {
    const directory = await copied();
    await patch(join(directory, "state_dict.bin"), from, to);
    expect((await refusal(directory)).message).toContain(named);
  });

  it("are refused where tensors are missing or unknown, naming them", async () => {
    const directory = await copied();
    await patch(join(directory, "state_dict.bin"), "linears.2.weight", "linears.2.weigth");
    expect((await refusal(directory)).found).toBe(
      "no linears.2.weight; tensors that no part of it uses: linears.2.weigth",
    );
    const codec = await copied();
    await patch(join(codec, "compression_state_dict.bin"), "quantizer.vq.layers.1.", "quantizer.vq.lairs.01.");
    expect((await refusal(codec)).found).toContain("quantizer.vq.lairs.01._codebook.embed");
    const layers = await copied();
    await patch(join(layers, "state_dict.bin"), "num_layers: 2", "num_layers: 3");
    expect((await refusal(layers)).found).toContain("no transformer.layers.2.self_attn.in_proj_weight");
    const width = await copied();
    await patch(join(width, "state_dict.bin"), "  dim: 16", "  dim: 32");
    expect((await refusal(width)).message).toMatch(/in_proj_weight.*shape \[48,16\]/);
  });

  it("are refused without their configuration", async () => {
    const directory = await copied();
    await patch(join(directory, "state_dict.bin"), "xp.cfg", "xp.cfh");
    expect((await refusal(directory)).found).toContain("no configuration (xp.cfg)");
  });
});

describeOnEachBackend("A model in audiocraft's layout", (backend) => {
  it.each(KINDS)(
    "computes the logits, codes and sound that the same %s model computes in Hugging Face's",
    async (kind) => {
      const before = tf.memory().numTensors;
      const results = [];
      for (const layout of ["audiocraft", "hugging-face"] as const) {
        const model = await MusicGen.load(fixture(kind, layout), { backend });
        const { codebooks } = model.config.decoder;
        const codes = {
          codebooks,
          frames: 5,
          values: Int32Array.from({ length: 5 * codebooks }, (_, at) => (at * 7) % 16),
        };
        const text = { ids: Int32Array.of(3, 9, 14, 1), mask: Int32Array.of(1, 1, 1, 1), batch: 1, length: 4 };
        const logits = await model.forward({ text, codes, rows: ["cond", "null"] });
        const channels = [Float32Array.from({ length: 803 }, (_, n) => Math.sin(n / 5) * Math.cos(n / 91))];
        results.push({
          logits: await logits.data(),
          sound: (await model.decodeCodes(codes)).channels,
          codes: (await model.encodeAudio({ sampleRate: 32_000, channels })).values,
        });
        logits.dispose();
        await model.dispose();
      }
      const [ours, theirs] = results;
      expect(ours?.logits.some((value) => Math.abs(value) > 0.1)).toBe(true);
      expect(new Set(ours?.codes).size).toBeGreaterThan(4);
      expect(ours).toEqual(theirs);
      expect(tf.memory().numTensors).toBe(before);
    },
  );
});
