import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";

import { readEncodecConfig } from "../../src/encodec/config.js";
import { codesTensor, decodeCodes } from "../../src/encodec/encodec.js";
import { finalSamples, rightReach } from "../../src/encodec/pieces.js";
import { WaveStream } from "../../src/encodec/stream.js";
import { complete, NO_TAPS } from "../../src/runtime/announce.js";
import { disposeTree } from "../../src/runtime/owner.js";
import { describeOnEachBackend } from "../support/backends.js";
import { changedBlock, loadFixtureCodec, loadOddCodec, type LoadedCodec } from "./fixture.js";

/** Codes without a pattern, [B, K, F]. */
function someCodes({ config }: LoadedCodec, batch: number, frames: number): Int32Array {
  return Int32Array.from({ length: batch * config.codebooks * frames }, (_, index) =>
    Math.floor(config.codebookSize * ((Math.sin(index * 12.9898) * 43758.5453) % 1) ** 2),
  );
}

/** Frames `first` … `end − 1` of [rows, F]. */
function columns(codes: Int32Array, frames: number, first: number, end: number): Int32Array {
  const rows = codes.length / frames;
  return Int32Array.from(
    Array.from({ length: rows }, (_, row) => [...codes.subarray(row * frames + first, row * frames + end)]).flat(),
  );
}

async function decodedInOneGo({ config, weights }: LoadedCodec, codes: Int32Array, batch: number, frames: number) {
  const ids = codesTensor(codes, [batch, config.codebooks, frames], config);
  const wave = complete(decodeCodes(weights, config, ids, NO_TAPS));
  const values = await wave.data<"float32">();
  tf.dispose([ids, wave]);
  return Array.from({ length: batch }, (_, row) =>
    values.subarray((row * values.length) / batch, ((row + 1) * values.length) / batch),
  );
}

/** Feeds `step` frames at a time, and takes what is ready. */
async function streamed(
  { config, weights }: LoadedCodec,
  codes: Int32Array,
  batch: number,
  frames: number,
  step: number,
) {
  const stream = new WaveStream(weights, config, batch);
  const blocks: (readonly Float32Array[])[] = [];
  for (let frame = 0; frame < frames; frame += step) {
    const end = Math.min(frames, frame + step);
    stream.feed(columns(codes, frames, frame, end), end - frame);
    if (stream.ready > 0) blocks.push(await stream.take(stream.ready));
  }
  stream.end();
  blocks.push(await stream.take(stream.ready));
  stream.dispose();
  return Array.from({ length: batch }, (_, row) =>
    Float32Array.from(blocks.flatMap((block) => [...(block[row] ?? [])])),
  );
}

describeOnEachBackend("a stream of samples", () => {
  it.each([
    [1, 1, 1],
    [2, 1, 1],
    [23, 1, 1],
    [23, 5, 2],
    [230, 7, 1],
    [230, 230, 1],
  ])("is what decoding in one go gives: %i frames, %i at a time, %i at once", async (frames, step, batch) => {
    const codec = await loadFixtureCodec("mono");
    const codes = someCodes(codec, batch, frames);
    const before = tf.memory().numTensors;
    const expected = await decodedInOneGo(codec, codes, batch, frames);
    const found = await streamed(codec, codes, batch, frames, step);
    found.forEach((wave, row) => {
      expect(wave).toHaveLength(frames * codec.config.hop);
      expect(wave).toBeAllClose(expected[row] ?? [], { within: 1e-5 });
    });
    expect(tf.memory().numTensors).toBe(before);
    disposeTree(codec.weights);
  });

  it("is it in a codec of another geometry, too", async () => {
    const codec = await loadOddCodec();
    const codes = someCodes(codec, 1, 17);
    const [expected = []] = await decodedInOneGo(codec, codes, 1, 17);
    const [found = []] = await streamed(codec, codes, 1, 17, 1);
    expect(found).toBeAllClose(expected, { within: 1e-5 });
    disposeTree(codec.weights);
  });
});

describe("a stream of samples", () => {
  it("runs 2,402 samples behind the frames in the official codec, and not a sample more", async () => {
    const config = readEncodecConfig(
      await changedBlock({ upsampling_ratios: [8, 5, 4, 4], target_bandwidths: [2.2], codebook_size: 2048 }),
    );
    for (const frames of [4, 5, 50, 1500]) {
      expect(finalSamples(config, frames - rightReach(config.kernel))).toBe(640 * frames - 2402);
    }
  });

  it.each(["fixture", "odd"])("gives a sample as soon as it is final, and no sooner (%s)", async (which) => {
    const codec = which === "odd" ? await loadOddCodec() : await loadFixtureCodec("mono");
    const { config, weights } = codec;
    const frames = 12;
    const codes = someCodes(codec, 1, frames);
    const changed = codes.map((code, index) =>
      index % frames === frames - 1 ? (code + 7) % config.codebookSize : code,
    );
    const [one = new Float32Array(), other = new Float32Array()] = [
      (await decodedInOneGo(codec, codes, 1, frames))[0],
      (await decodedInOneGo(codec, changed, 1, frames))[0],
    ];
    const stream = new WaveStream(weights, config, 1);
    stream.feed(columns(codes, frames, 0, frames - 1), frames - 1);
    const final = stream.ready;
    expect(one.subarray(0, final)).toEqual(other.subarray(0, final));
    // In the odd codec the sample that comes next passes an ELU that has gone flat, and stays as it was by chance.
    if (which === "fixture") expect(one[final]).not.toBe(other[final]);
    stream.dispose();
    disposeTree(weights);
  });

  it("refuses frames that don't fit and frames after the end", async () => {
    const { config, weights } = await loadFixtureCodec("mono");
    const stream = new WaveStream(weights, config, 2);
    expect(() => stream.feed(new Int32Array(7), 1)).toThrow("7 codes");
    stream.end();
    expect(() => stream.feed(new Int32Array(8), 1)).toThrow("ended");
    expect(stream.ready).toBe(0);
    await expect(stream.take(1)).rejects.toThrow("1 samples, of 0");
    disposeTree(weights);
  });
});
