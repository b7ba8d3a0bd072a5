import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { codesTensor, decodeCodes, encodeWave } from "../../src/encodec/encodec.js";
import { decoderLayout } from "../../src/encodec/layout.js";
import { PIECE_FRAMES } from "../../src/encodec/pieces.js";
import { decode as decodeLatent } from "../../src/encodec/seanet.js";
import { codecSites, codecSiteShape, layerSite, LATENT_SITE, QUANTIZED_SITE } from "../../src/encodec/sites.js";
import { UsageError } from "../../src/errors.js";
import { complete, NO_TAPS, type Taps, type Walk } from "../../src/runtime/announce.js";
import { disposeTree } from "../../src/runtime/owner.js";
import { describeOnEachBackend } from "../support/backends.js";
import { golden, type GoldenTensor } from "../support/fixtures.js";
import {
  clipWave,
  fixtureTensors,
  goldenClips,
  loadFixtureCodec,
  loadFromTensors,
  loadOddCodec,
  type GoldenClip,
  type LoadedCodec,
} from "./fixture.js";

const ALL_TAPS: Taps = { wants: () => true };

describeOnEachBackend("EnCodec", (backend) => {
  describe.each(["mono", "stereo", "melody"])("computes what transformers 5.18.0 computes: %s", (kind) => {
    const expected = golden(kind);
    let codec: LoadedCodec;
    beforeAll(async () => {
      codec = await loadFixtureCodec(kind);
    });
    afterAll(() => disposeTree(codec.weights));

    it("embeddings within 1e-5", async () => {
      const { shape, data } = expected("encodec_embeddings"); // [B, D, F]
      const { seen } = watch(encode(codec, waveOf(expected("wav")), ALL_TAPS));
      const latent = tf.transpose(at(seen, LATENT_SITE), [0, 2, 1]); // [B, D, F]
      expect(latent.shape).toEqual(shape);
      expect(await latent.data()).toBeAllClose(data, { within: 1e-5 });
    });

    it("every code, none of which is a close call", async () => {
      const { shape, data } = expected("encodec_codes"); // [1, B, K, F]
      const { result, seen } = watch(encode(codec, waveOf(expected("wav")), ALL_TAPS));
      expect([1, ...result.shape]).toEqual(shape);
      expect(await result.data()).toEqual(Int32Array.from(data));
      expect(await closestCall(codec, seen)).toBeGreaterThan(1e-4); // the latents agree within 1e-5
    });

    it("audio within 1e-5", async () => {
      const { shape, data } = expected("encodec_codes"); // [1, B, K, F]
      const [, batch, codebooks, frames] = shape;
      if (!batch || !codebooks || !frames) throw new Error("the golden codes have another rank");
      const codes = codesTensor(data, [batch, codebooks, frames], codec.config);
      const audio = complete(decode(codec, codes));
      expect(audio.shape).toEqual([batch, frames * codec.config.hop]);
      const golden = expected("encodec_decoded"); // [B, 1, N], cut to the waveform's length
      const cut = tf.slice(audio, [0, 0], [batch, golden.shape[2] ?? 0]);
      expect(await cut.data()).toBeAllClose(golden.data, { within: 1e-5 });
    });
  });

  describe("on clips shorter than its padding", () => {
    let codec: LoadedCodec;
    beforeAll(async () => {
      codec = await loadFixtureCodec("mono");
    });
    afterAll(() => disposeTree(codec.weights));

    it.each(goldenClips.mono)("encodes and decodes $samples samples as transformers does", async (clip) => {
      await expectClip(codec, clip);
    });

    it("has the reference's output at every layer", async () => {
      const clip = goldenClips.mono.find(({ layers }) => layers !== undefined);
      if (clip?.layers === undefined) throw new Error("the golden file has no clip with layers");
      const encoding = watch(encode(codec, clipWave(clip.samples), ALL_TAPS));
      const decoding = watch(decode(codec, encoding.result, ALL_TAPS));
      const seen = [...encoding.seen, ...decoding.seen].filter(([site]) => site.includes(".layers."));
      expect(seen.map(([site]) => site).toSorted()).toEqual(Object.keys(clip.layers).toSorted());
      for (const [site, tensor] of seen) {
        expect(tensor.shape, site).toEqual(clip.layers[site]?.shape);
        expect(await tensor.data(), site).toBeAllClose(clip.layers[site]?.data ?? [], { within: 1e-5 });
      }
    });
  });

  it("computes another geometry: two dilated residual units a stage, ratio 3, one LSTM layer, even kernels", async () => {
    const codec = await loadOddCodec();
    await expectClip(codec, goldenClips.odd.clip);
    const { codes, audio } = goldenClips.odd.decoded;
    const decoded = complete(decode(codec, codesOf(codes)));
    expect(decoded.shape).toEqual(audio.shape);
    expect(await decoded.data()).toBeAllClose(audio.data, { within: 1e-5 });
    disposeTree(codec.weights);
  });

  it("gives the same bits for weights spelled weight_g and weight_v", async () => {
    const codec = await loadFixtureCodec("mono");
    const renamed = (await fixtureTensors("mono")).map((tensor) => ({
      ...tensor,
      name: tensor.name
        .replace("parametrizations.weight.original0", "weight_g")
        .replace("parametrizations.weight.original1", "weight_v"),
    }));
    expect(renamed.filter(({ name }) => name.endsWith("weight_v"))).toHaveLength(22);
    const old = { config: codec.config, weights: await loadFromTensors(renamed, codec.config, "audio_encoder") };
    const now = complete(encode(codec, clipWave(213)));
    const then = complete(encode(old, clipWave(213)));
    expect(await then.data()).toEqual(await now.data());
    const audio = complete(decode(codec, now));
    expect(await complete(decode(old, then)).data()).toEqual(await audio.data());
    disposeTree(codec.weights);
    disposeTree(old.weights);
  });

  describe("announces its activations", () => {
    let codec: LoadedCodec;
    beforeAll(async () => {
      codec = await loadFixtureCodec("mono");
    });
    afterAll(() => disposeTree(codec.weights));

    it("at exactly the sites and in the shapes of codecSites, in that order", () => {
      const [batch, samples] = [2, 213];
      const wave = tf.zeros<tf.Rank.R2>([batch, samples]);
      const frames = Math.ceil(samples / codec.config.hop);
      const codes = tf.zeros<tf.Rank.R3>([batch, codec.config.codebooks, frames], "int32");
      const seen: [string, number[]][] = [];
      for (const { site, value } of encode(codec, wave, ALL_TAPS)) seen.push([site, value.shape]);
      for (const { site, value } of decode(codec, codes, ALL_TAPS)) seen.push([site, value.shape]);
      const expected = codecSites(codec.config).map((site): [string, number[]] => [
        site.site,
        codecSiteShape(site, batch, site.walk === "encode" ? samples : frames * codec.config.hop),
      ]);
      expect(seen).toEqual(expected);
    });

    it("only where they are wanted", () => {
      const wanted = "codec.quantizer.2.hook_residual";
      const walk = encode(codec, clipWave(213), { wants: (site) => site === wanted });
      expect([...walk].map(({ site }) => site)).toEqual([wanted]);
    });

    it("so that the residuals and the entries they were given add up", async () => {
      const { result: codes, seen } = watch(encode(codec, clipWave(213), ALL_TAPS));
      const firstCodes = tf.squeeze(tf.slice(codes, [0, 0, 0], [1, 1, codes.shape[2]]), [1]); // [1, F]
      const entries = codec.weights.quantizer[0]?.entries;
      if (!entries) throw new Error("no codebook");
      const sum = tf.add(at(seen, "codec.quantizer.1.hook_residual"), tf.gather<tf.Tensor>(entries, firstCodes));
      const first = at(seen, "codec.quantizer.0.hook_residual");
      expect(await sum.data()).toBeAllClose(await first.data(), { within: 1e-6 });
    });

    it("and goes on with what the consumer leaves there", async () => {
      const codes = complete(encode(codec, clipWave(213)));
      const { result, seen } = watch(decode(codec, codes.clone(), ALL_TAPS), { [QUANTIZED_SITE]: tf.zerosLike });
      expect(at(seen, QUANTIZED_SITE).shape).toEqual([1, 6, 16]);
      const latent = tf.zeros<tf.Rank.R3>([1, 6, 16]);
      const silence = complete(decodeLatent(codec.weights.decoder, codec.config, latent, NO_TAPS)); // [1, 240, 1]
      expect(await result.data()).toEqual(await silence.data());
      expect(await result.data()).not.toEqual(await complete(decode(codec, codes)).data());
    });

    it("and changes not one bit where the consumer puts back what it saw", async () => {
      const plain = complete(encode(codec, clipWave(213)));
      const same = Object.fromEntries(codecSites(codec.config).map(({ site }) => [site, tf.clone]));
      const { result } = watch(encode(codec, clipWave(213), ALL_TAPS), same);
      expect(await result.data()).toEqual(await plain.data());
      const audio = complete(decode(codec, plain));
      expect(await watch(decode(codec, result, ALL_TAPS), same).result.data()).toEqual(await audio.data());
    });
  });

  describe("computes long signals in pieces, with the result of the whole, bit for bit on our own backends", () => {
    // TensorFlow may sum in another order for another length.
    const rounding = backend.startsWith("tensorflow") ? 1e-6 : 0;
    const geometries: [string, () => Promise<LoadedCodec>][] = [
      ["a fixture's", () => loadFixtureCodec("mono")],
      ["one with wide dilations", loadOddCodec],
    ];
    it.each(geometries)("in %s geometry", async (_, load) => {
      const codec = await load();
      const { hop, filters } = codec.config;
      const samples = 3 * PIECE_FRAMES * hop + 1;
      const first = layerSite("encoder", 0); // watched, it makes the encoder compute the whole
      const last = layerSite("decoder", decoderLayout(codec.config).last); // and so for the decoder
      const pieced = watch(encode(codec, clipWave(samples), { wants: (site) => site === LATENT_SITE }));
      const whole = watch(encode(codec, clipWave(samples), { wants: (site) => [first, LATENT_SITE].includes(site) }));
      expect([...pieced.seen.keys()]).toEqual([LATENT_SITE]);
      expect(at(whole.seen, first).shape).toEqual([1, samples, filters]);
      const latent = at(whole.seen, LATENT_SITE);
      expect(await at(pieced.seen, LATENT_SITE).data()).toBeAllClose(await latent.data(), { within: rounding });

      const audio = watch(decode(codec, whole.result, { wants: (site) => site === last })).result;
      const joined = complete(decode(codec, pieced.result));
      expect(joined.shape).toEqual([1, (3 * PIECE_FRAMES + 1) * hop]);
      expect(await joined.data()).toBeAllClose(await audio.data(), { within: rounding });
      disposeTree(codec.weights);
    });
  });

  it("codes every item of a batch as it would alone", async () => {
    const codec = await loadFixtureCodec("mono");
    const clips = [clipWave(213), tf.mul<tf.Tensor2D>(clipWave(213), -0.5)];
    const together = complete(encode(codec, tf.concat(clips, 0)));
    const apart = tf.concat(
      clips.map((clip) => complete(encode(codec, clip))),
      0,
    );
    expect(await together.data()).toEqual(await apart.data());
    const audio = complete(decode(codec, together.clone()));
    const audioApart = tf.concat(tf.split<tf.Tensor3D>(together, 2).map((codes) => complete(decode(codec, codes))));
    expect(await audio.data()).toBeAllClose(await audioApart.data(), { within: 1e-6 });
    disposeTree(codec.weights);
  });

  describe("leaves no tensor behind", () => {
    let codec: LoadedCodec;
    beforeAll(async () => {
      codec = await loadFixtureCodec("mono");
    });
    afterAll(() => disposeTree(codec.weights));

    const samples = 2 * PIECE_FRAMES * 40 + 1;
    it.each([
      ["nothing is watched", NO_TAPS],
      ["everything is watched", ALL_TAPS],
    ])("when %s", (_, taps) => {
      const wave = clipWave(samples);
      const before = tf.memory().numTensors;
      const codes = complete(encodeWave(codec.weights, codec.config, wave, taps));
      expect(tf.memory().numTensors).toBe(before + 1);
      const audio = complete(decodeCodes(codec.weights, codec.config, codes, taps));
      expect(tf.memory().numTensors).toBe(before + 2);
      tf.dispose([wave, codes, audio]);
    });

    it("when the consumer breaks off, throws or replaces at any site", () => {
      const wave = clipWave(213);
      const codes = complete(encodeWave(codec.weights, codec.config, wave, NO_TAPS));
      const before = tf.memory().numTensors;
      for (const { site, walk: name } of codecSites(codec.config)) {
        const taps: Taps = { wants: (wanted) => wanted === site };
        const start = (): Walk<tf.Tensor> =>
          name === "encode"
            ? encodeWave(codec.weights, codec.config, wave, taps)
            : decodeCodes(codec.weights, codec.config, codes, taps);
        for (const at of start()) {
          expect(at.site).toBe(site);
          break;
        }
        expect(tf.memory().numTensors, `break at ${site}`).toBe(before);
        const walk = start();
        walk.next();
        expect(() => walk.throw(new Error("consumer"))).toThrow("consumer");
        expect(tf.memory().numTensors, `throw at ${site}`).toBe(before);
        const replacing = start();
        for (let step = replacing.next(); ; step = replacing.next()) {
          if (step.done) {
            step.value.dispose();
            break;
          }
          step.value.replace(tf.zerosLike(step.value.value));
        }
        expect(tf.memory().numTensors, `replace at ${site}`).toBe(before);
      }
      tf.dispose([wave, codes]);
    });

    it("when loading fails halfway, and says which tensor it missed", async () => {
      const tensors = (await fixtureTensors("mono")).filter(
        ({ name }) => name !== "audio_encoder.decoder.layers.12.conv.bias",
      );
      const before = tf.memory().numTensors;
      await expect(loadFromTensors(tensors, codec.config, "audio_encoder")).rejects.toThrow(
        "audio_encoder.decoder.layers.12.conv.bias",
      );
      expect(tf.memory().numTensors).toBe(before);
    });
  });

  describe("refuses", () => {
    let codec: LoadedCodec;
    beforeAll(async () => {
      codec = await loadFixtureCodec("mono");
    });
    afterAll(() => disposeTree(codec.weights));

    it("a waveform without samples", () => {
      expect(() => complete(encode(codec, tf.zeros<tf.Rank.R2>([1, 0])))).toThrow(UsageError);
    });

    it("codes of another number of codebooks, without frames or of floats", () => {
      for (const codes of [
        tf.zeros<tf.Rank.R3>([1, 3, 5], "int32"),
        tf.zeros<tf.Rank.R3>([1, 4, 0], "int32"),
        tf.zeros<tf.Rank.R3>([1, 4, 5]),
      ]) {
        expect(() => complete(decode(codec, codes))).toThrow(UsageError);
      }
    });

    it("codes from elsewhere that lie outside the codebook, are no whole numbers or do not fill their shape", async () => {
      const { config } = codec;
      expect(() => codesTensor([0, 1, 2, 64], [1, 4, 1], config)).toThrow(/64 at position 3/);
      expect(() => codesTensor([0, -1, 2, 3], [1, 4, 1], config)).toThrow(/-1 at position 1/);
      expect(() => codesTensor([0, 1.5, 2, 3], [1, 4, 1], config)).toThrow(/1\.5 at position 1/);
      expect(() => codesTensor([0, NaN, 2, 3], [1, 4, 1], config)).toThrow(/NaN at position 1/);
      expect(() => codesTensor([0, 1, 2], [1, 4, 1], config)).toThrow(/3 values/);
      expect(() => codesTensor([0, 1, 2], [1, 3, 1], config)).toThrow(/3 codebooks/);
      const codes = codesTensor([0, 1, 2, 63], [1, 4, 1], config);
      expect(await codes.data()).toEqual(Int32Array.of(0, 1, 2, 63));
    });
  });
});

/** {@link encodeWave}, which frees the wave at its end. */
function* encode({ weights, config }: LoadedCodec, wave: tf.Tensor2D, taps: Taps = NO_TAPS): Walk<tf.Tensor3D> {
  try {
    return yield* encodeWave(weights, config, wave, taps);
  } finally {
    wave.dispose();
  }
}

/** {@link decodeCodes}, which frees the codes at its end. */
function* decode({ weights, config }: LoadedCodec, codes: tf.Tensor3D, taps: Taps = NO_TAPS): Walk<tf.Tensor2D> {
  try {
    return yield* decodeCodes(weights, config, codes, taps);
  } finally {
    codes.dispose();
  }
}

/** Runs a walk to its end: its result and a clone of every activation, some of which `edits` replaces. */
function watch<Result>(
  walk: Walk<Result>,
  edits: Readonly<Record<string, (value: tf.Tensor) => tf.Tensor>> = {},
): { readonly result: Result; readonly seen: ReadonlyMap<string, tf.Tensor> } {
  const seen = new Map<string, tf.Tensor>();
  for (;;) {
    const { done, value } = walk.next();
    if (done) return { result: value, seen };
    seen.set(value.site, value.value.clone());
    const edit = edits[value.site];
    if (edit) value.replace(edit(value.value));
  }
}

function at(seen: ReadonlyMap<string, tf.Tensor>, site: string): tf.Tensor {
  const found = seen.get(site);
  if (!found) throw new Error(`${site} was not announced`);
  return found;
}

/** How much farther the second nearest entry is than the nearest, in squared distance, over all frames and codebooks. */
async function closestCall({ weights }: LoadedCodec, seen: ReadonlyMap<string, tf.Tensor>): Promise<number> {
  let closest = Infinity;
  for (const [index, { entries }] of weights.quantizer.entries()) {
    const residuals = tf.expandDims(at(seen, `codec.quantizer.${index}.hook_residual`), 2); // [B, F, 1, D]
    const distances = tf.sum(tf.squaredDifference(residuals, entries), -1); // [B, F, V]
    const { values } = tf.topk(tf.neg(distances), 2); // [B, F, 2]
    const [nearest, second] = tf.unstack(values, -1); // [B, F]
    if (nearest && second) closest = Math.min(closest, ...(await tf.sub(nearest, second).data()));
  }
  return closest;
}

async function expectClip(codec: LoadedCodec, clip: GoldenClip): Promise<void> {
  const { result: codes, seen } = watch(
    encode(codec, clipWave(clip.samples), { wants: (site) => site === LATENT_SITE }),
  );
  const latent = at(seen, LATENT_SITE);
  expect(latent.shape).toEqual(clip.latent.shape);
  expect(await latent.data()).toBeAllClose(clip.latent.data, { within: 1e-5 });
  expect(clip.margin).toBeGreaterThan(1e-4);
  expect(codes.shape).toEqual(clip.codes.shape);
  expect(await codes.data()).toEqual(Int32Array.from(clip.codes.data));
  const audio = complete(decode(codec, codes));
  expect(audio.shape).toEqual(clip.audio.shape);
  expect(await audio.data()).toBeAllClose(clip.audio.data, { within: 1e-5 });
}

/** A golden waveform [B, 1, N] as [B, N]. */
function waveOf({ shape, data }: GoldenTensor): tf.Tensor2D {
  return tf.tensor2d([...data], [shape[0] ?? 0, shape[2] ?? 0]);
}

/** Golden codes [B, K, F]. */
function codesOf({ shape, data }: GoldenTensor): tf.Tensor3D {
  return tf.tensor3d([...data], [shape[0] ?? 0, shape[1] ?? 0, shape[2] ?? 0], "int32");
}
