import { describe, expect, it } from "vitest";

import {
  checkAudio,
  duration,
  mixDown,
  peak,
  rootMeanSquare,
  sampleCount,
  toChannels,
  type Audio,
} from "../../src/audio/audio.js";
import { AudioError } from "../../src/errors.js";

const left = Float32Array.of(1, 0, -0.5, 0.25);
const right = Float32Array.of(0, 0, -0.25, 0.75);
const stereo: Audio = { sampleRate: 8_000, channels: [left, right] };
const mono: Audio = { sampleRate: 8_000, channels: [left] };

describe("a sound", () => {
  it("knows its length, peak and root mean square", () => {
    expect(sampleCount(stereo)).toBe(4);
    expect(duration(stereo)).toBe(0.0005);
    expect(peak(stereo)).toBe(1);
    expect(peak({ sampleRate: 8_000, channels: [Float32Array.of(-0.5, 0.25)] })).toBe(0.5);
    expect(rootMeanSquare(mono)).toBeCloseTo(Math.sqrt((1 + 0.25 + 0.0625) / 4), 12);
  });

  it("is mixed down to the mean of its channels", () => {
    expect(mixDown(stereo)).toEqual({ sampleRate: 8_000, channels: [Float32Array.of(0.5, 0, -0.375, 0.5)] });
    expect(mixDown(mono)).toBe(mono);
  });

  it("goes from one channel to many, from many to one, and drops channels beyond those wanted", () => {
    expect(toChannels(mono, 2)).toEqual({ sampleRate: 8_000, channels: [left, left] });
    expect(toChannels(stereo, 1)).toEqual(mixDown(stereo));
    expect(toChannels(stereo, 2)).toBe(stereo);
    expect(toChannels({ sampleRate: 8_000, channels: [left, right, right] }, 2)).toEqual(stereo);
    expect(() => toChannels(stereo, 3)).toThrow(AudioError);
  });

  it.each<[string, Audio]>([
    ["sample rate", { sampleRate: 0, channels: [left] }],
    ["sample rate", { sampleRate: 10_000_000, channels: [left] }],
    ["sample rate", { sampleRate: NaN, channels: [left] }],
    ["no channels", { sampleRate: 8_000, channels: [] }],
    ["no samples", { sampleRate: 8_000, channels: [new Float32Array(0)] }],
    ["3 samples in channel 1", { sampleRate: 8_000, channels: [left, left.subarray(1)] }],
    ["NaN at position 1 of channel 0", { sampleRate: 8_000, channels: [Float32Array.of(0, NaN)] }],
    ["Infinity at position 0", { sampleRate: 8_000, channels: [Float32Array.of(Infinity)] }],
  ])("is refused for its %s", (found, audio) => {
    expect(() => checkAudio(audio, "play it")).toThrow(AudioError);
    expect(() => checkAudio(audio, "play it")).toThrow(found);
  });

  it("is accepted otherwise", () => {
    expect(() => checkAudio(stereo, "play it")).not.toThrow();
  });
});
