import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, expect, it } from "vitest";

import { disposeCache } from "../../src/activations/cache.js";
import type { Hook } from "../../src/activations/hooks.js";
import { MusicGen } from "../../src/musicgen.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory } from "../support/fixtures.js";
import { shortText, largestDifference, nudge, someCodes, valuesOf } from "./support.js";

const FRAMES = 1;

/** A hook that puts a copy in the place of every chosen activation. */
function copying(sites: Hook["sites"], copy: (value: tf.Tensor) => tf.Tensor = tf.clone): Hook {
  return { sites, run: (value) => copy(value), optional: true };
}

/** Sites of the decoder that a teacher-forced pass with a text comes by. */
function passedBy(site: string): boolean {
  return !/^(codec\.|hook_guided_logits)/.test(site);
}

describeOnEachBackend("what changes nothing changes not one bit, and what changes something shows", (backend) => {
  let model: MusicGen;
  const text = shortText();

  beforeAll(async () => {
    model = await MusicGen.load(fixtureDirectory("mono"), { backend });
  });
  afterAll(() => model.dispose());

  const forced = () => ({ text, codes: someCodes(model, FRAMES), rows: ["cond", "null"] as const });
  /** The decoder's sites outside blocks and in block 1; the text encoder's have a test of their own. */
  const someSites = () =>
    model
      .sites()
      .filter(({ site, network, layer }) => network === "decoder" && passedBy(site) && (layer ?? 1) === 1)
      .map(({ site }) => site);
  const logits = async (...hooks: Hook[]) => valuesOf((await model.runWithHooks(forced(), hooks)).logits);

  it("no hooks at all", async () => {
    expect(await logits()).toEqual(await valuesOf(await model.forward(forced())));
  });

  it("a copy at every site, alone and at all at once", async () => {
    const clean = await logits();
    for (const site of someSites()) {
      expect(largestDifference(await logits(copying(site)), clean), site).toBe(0);
    }
    expect(await logits(copying("**"))).toEqual(clean);
    expect(await logits(copying("**", (value) => tf.mul(value, 1)))).toEqual(clean);
  });

  it("a run patched with its own activations", async () => {
    const clean = await logits();
    const { logits: first, cache } = await model.runWithCache(forced(), { sites: passedBy });
    first.dispose();
    const patched = await logits({
      sites: passedBy,
      run: (_, { site }) => {
        const own = cache[site];
        return own && tf.clone(own);
      },
    });
    disposeCache(cache);
    expect(patched).toEqual(clean);
  });

  it("a generation with a copy at every site", async () => {
    const settings = { text, frames: FRAMES, seed: 4 };
    const { clips } = await model.generate(settings);
    expect((await model.generate({ ...settings, hooks: [copying("**")] })).clips).toEqual(clips);
    expect((await model.generate({ ...settings, hooks: [] })).clips).toEqual(clips);
  });

  it("an edit at any site of the decoder changes the logits", async () => {
    const clean = await logits();
    for (const site of someSites()) {
      const changed = await logits({ sites: site, run: (value) => nudge(value, 0.3) });
      expect(changed.every(Number.isFinite), site).toBe(true);
      expect(largestDifference(changed, clean), site).toBeGreaterThan(1e-4);
    }
  });

  it("an edit of the codec changes the sound, or the codes", async () => {
    const codes = someCodes(model, FRAMES);
    const sound = await model.decodeCodes(codes);
    const edit = (sites: string): Hook => ({ sites, run: (value) => tf.mul(value, -2) });
    const edited = await model.decodeCodes(codes, [edit("codec.hook_quantized")]);
    expect(edited.channels).not.toEqual(sound.channels);
    expect((await model.decodeCodes(codes, [copying("codec.**")])).channels).toEqual(sound.channels);
    const clean = await model.encodeAudio(sound);
    expect(await model.encodeAudio(sound, [copying("codec.**")])).toEqual(clean);
    expect(await model.encodeAudio(sound, [edit("codec.quantizer.0.hook_residual")])).not.toEqual(clean);
  });

  it("an edit acts from its layer and position on, and on no row but its own", async () => {
    const position = 3;
    const edit: Hook = {
      sites: "blocks.2.hook_resid_pre",
      run: (value) =>
        tf.tidy(() => {
          const mask = tf.buffer(value.shape);
          for (let d = 0; d < 32; d++) mask.set(d % 5, 1, position, d); // row 1: null
          return tf.add(value, mask.toTensor());
        }),
    };
    const clean = await logits();
    const changed = await logits(edit);
    const perPosition = model.config.decoder.codebookSize;
    const positions = FRAMES + 4;
    const places = new Set<string>();
    clean.forEach((value, index) => {
      const row = Math.floor(index / (4 * positions * perPosition));
      const place = Math.floor(index / perPosition) % positions;
      if (value !== changed[index]) places.add(`${row}:${place}`);
    });
    expect([...places].toSorted()).toEqual([3, 4].map((place) => `1:${place}`));
  });
});
