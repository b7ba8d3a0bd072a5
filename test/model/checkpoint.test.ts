import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { expect, it, onTestFinished } from "vitest";

import { readMusicGenConfig } from "../../src/model/checkpoint.js";
import { configJson, MUSICGEN_SMALL_SHAPE } from "../../src/model/random-checkpoint.js";

const MELODY_SHAPE = { ...MUSICGEN_SMALL_SHAPE, decoder: { ...MUSICGEN_SMALL_SHAPE.decoder, melodyRows: 235 } };

/** Every released checkpoint: width, layers, heads, channels, whether it reads melodies, parameters of the decoder. */
const RELEASED = [
  ["musicgen-small", 1024, 24, 16, 1, false, 419_584_000],
  ["musicgen-medium", 1536, 48, 24, 1, false, 1_837_556_736],
  ["musicgen-large", 2048, 48, 32, 1, false, 3_255_382_016],
  ["musicgen-melody", 1536, 48, 24, 1, true, 1_384_424_448],
  ["musicgen-melody-large", 2048, 48, 32, 1, true, 2_449_879_040],
  ["musicgen-stereo-small", 1024, 24, 16, 2, false, 436_365_312],
  ["musicgen-stereo-medium", 1536, 48, 24, 2, false, 1_862_728_704],
  ["musicgen-stereo-large", 2048, 48, 32, 2, false, 3_288_944_640],
  ["musicgen-stereo-melody", 1536, 48, 24, 2, true, 1_409_596_416],
  ["musicgen-stereo-melody-large", 2048, 48, 32, 2, true, 2_483_441_664],
] as const;

it.each(RELEASED)(
  "reads %s from its config alone",
  async (_name, width, layers, heads, audioChannels, isMelody, size) => {
    const decoderShape = { width, layers, heads, ffnWidth: 4 * width, audioChannels };
    const kind = isMelody ? { melodyRows: 235 } : {};
    const json = configJson({ ...MUSICGEN_SMALL_SHAPE, decoder: { ...decoderShape, ...kind } });
    const directory = await directoryOf(json);
    const { decoder, codec, text, melody, generation } = await readMusicGenConfig(directory);
    expect(decoder).toMatchObject({ width, layers, heads, headWidth: 64, codebooks: 4 * audioChannels, audioChannels });
    expect(decoder.crossAttention).toBe(!isMelody);
    expect(melody).toEqual(isMelody ? { rows: 235 } : undefined);
    expect([codec.hop, codec.frameRate, codec.codebooks, text.width, generation.maxFrames]).toEqual([
      640, 50, 4, 768, 1500,
    ]);
    const { codebooks, codebookSize, ffnWidth } = decoder;
    const block = (decoder.crossAttention ? 8 : 4) * width ** 2 + 2 * width * ffnWidth + (isMelody ? 4 : 6) * width;
    expect(layers * block + codebooks * (2 * codebookSize + 1) * width + 2 * width).toBe(size);
  },
);

it.each([
  ["a kind it doesn't know", { model_type: "musicgen_style" }, "musicgen_style"],
  ["a melody model whose decoder is of the other kind", { model_type: "musicgen_melody" }, "cross-attention"],
  ["another number of pitch classes", { ...configJson(MELODY_SHAPE), num_chroma: 24 }, "24"],
])("refuses %s", async (_what, change, found) => {
  const directory = await directoryOf({ ...configJson(MUSICGEN_SMALL_SHAPE), ...change });
  await expect(readMusicGenConfig(directory)).rejects.toThrow(found);
});

async function directoryOf(json: object): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "tonearm-"));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  await writeFile(join(directory, "config.json"), JSON.stringify(json));
  return directory;
}
