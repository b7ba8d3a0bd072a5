import { afterAll, beforeAll, expect, it } from "vitest";

import type { Site } from "../../src/activations/catalogue.js";
import { siteShape, type RunSizes } from "../../src/activations/shapes.js";
import { MusicGen } from "../../src/musicgen.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { fixtureCodes, fixtureText, fixtureTexts, listWalk } from "./support.js";

const NOTHING: RunSizes = {
  ...{ items: 0, rows: 0, readingRows: 0, positions: 0, logitPositions: 0, texts: 0, tokens: 0 },
  ...{ encodedSamples: 0, encodedChannels: 0, decodedSamples: 0, decodedChannels: 0 },
};
const FRAMES = 3;

describeOnEachBackend("the catalogue is what a run announces, in order and shape", (backend) => {
  for (const kind of ["mono-layers", "stereo-layers"]) {
    let model: MusicGen;
    let channels: number;

    beforeAll(async () => {
      model = await MusicGen.load(fixtureDirectory(kind), { backend });
      channels = model.config.decoder.audioChannels;
    });
    afterAll(() => model.dispose());

    /** The sites that a run of these sizes comes by, with their shapes, in the order of the catalogue. */
    const expected = (sizes: RunSizes, only: (site: Site) => boolean = () => true) =>
      model
        .sites()
        .filter(only)
        .flatMap((site) => {
          const shape = siteShape(site, model.config, sizes);
          return shape ? [{ site: site.site, shape: [...shape] }] : [];
        });

    it.each([
      ["with a text", ["cond"], 2, 2],
      ["without a text", ["null"], 2, 0],
      ["guided", ["cond", "null"], 4, 2],
    ] as const)(`teacher-forced ${kind}, %s`, async (_, rows, count, readingRows) => {
      const codes = fixtureCodes(kind);
      const texts = fixtureTexts(kind);
      const walk = model.walk({ text: readingRows > 0 ? texts : null, codes, rows });
      const tokens = { texts: readingRows > 0 ? texts.batch : 0, tokens: texts.length };
      const sizes = { ...NOTHING, ...tokens, rows: count, readingRows, positions: 11, logitPositions: 11 };
      expect(await listWalk(walk)).toEqual(expected(sizes));
    });

    it(`every pass of a guided generation from a sound, and the codec around it (${kind})`, async () => {
      const text = fixtureText(kind);
      const { hop } = model.config.codec;
      const samples = 2 * hop - 3; // not a whole number of frames: 2 of them
      const sound = Array.from({ length: channels }, () => new Float32Array(samples).fill(0.1));
      const promptAudio = { sampleRate: model.sampleRate, channels: sound };
      const seen: { site: string; shape: number[]; phase: string; step: number }[] = [];
      const settings = { text, negative: text, promptAudio, frames: 2 + FRAMES, count: 2, greedy: true };
      for await (const { site, value, phase, step } of model.walkGeneration(settings)) {
        seen.push({ site, shape: [...value.shape], phase, step });
      }
      const during = (phase: string, step: number) =>
        seen.filter((at) => at.phase === phase && at.step === step).map(({ site, shape }) => ({ site, shape }));

      const pass = { ...NOTHING, items: 2, rows: 4, readingRows: 4, tokens: text.length, logitPositions: 1 };
      expect(during("text", 0)).toEqual(expected({ ...NOTHING, texts: 2, tokens: text.length }));
      const encoding = expected({ ...NOTHING, encodedSamples: samples, encodedChannels: 1 });
      expect(during("encode", 0)).toEqual(Array.from({ length: channels }, () => encoding).flat());
      expect(during("prefill", 0)).toEqual(expected({ ...pass, positions: 3 }));
      const passes = FRAMES + 3;
      for (let step = 1; step < passes; step++) {
        const patterns = expected({ ...pass, positions: 1 }).map(({ site, shape }) => ({
          site,
          shape: /\.attn\.hook_(attn_scores|pattern)$/.test(site) ? [...shape.slice(0, 3), 3 + step] : shape,
        }));
        expect(during("decode", step)).toEqual(patterns);
      }
      expect(during("decode", passes)).toEqual([]);
      const decoding = expected({ ...NOTHING, decodedSamples: (2 + FRAMES) * hop, decodedChannels: 1 });
      expect(during("decode-audio", 0)).toEqual(Array.from({ length: 2 * channels }, () => decoding).flat());
    });

    it(`shows numbers where the model fixes them (${kind})`, () => {
      const sizes = (name: string) => model.sites().find(({ site }) => site === name)?.sizes;
      expect(sizes("blocks.0.attn.hook_z")).toEqual(["R", "T", "6", "8"]);
      expect(sizes("blocks.3.mlp.hook_post")).toEqual(["R", "T", `${model.config.decoder.ffnWidth}`]);
      expect(sizes("hook_logits")).toEqual(["R", `${4 * channels}`, "T", "32"]);
      expect(sizes("text.blocks.0.attn.hook_pattern")).toEqual(["B", `${model.config.text.heads}`, "S", "S"]);
      expect(sizes("codec.hook_latent")).toEqual([
        "1",
        `N/${model.config.codec.hop}`,
        `${model.config.codec.latentWidth}`,
      ]);
    });

    it(`names every site once (${kind})`, () => {
      const names = model.sites().map(({ site }) => site);
      expect(new Set(names).size).toBe(names.length);
    });
  }
});
