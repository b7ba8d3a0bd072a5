import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { peak, sampleCount, type Audio } from "../../src/audio/audio.js";
import { resample } from "../../src/audio/resample.js";
import { AudioError } from "../../src/errors.js";
import { fixtureJson } from "../support/fixtures.js";

/** test/fixtures/resampled.json, made by tools/reference/resampled.py with julius. */
interface GoldenResampling {
  readonly results: readonly { readonly from: number; readonly to: number; readonly samples: readonly number[] }[];
}

const { results } = fixtureJson("resampled.json") as GoldenResampling;

const someRate = fc.integer({ min: 1_000, max: 50_000 });

describe("resample", () => {
  it.each(results)("gives the samples of julius from $from to $to", ({ from, to, samples }) => {
    const chirp = Float32Array.from({ length: 300 }, (_, index) => 0.5 * Math.sin(0.002 * index * index) + 0.2);
    const { sampleRate, channels } = resample({ sampleRate: from, channels: [chirp] }, to);
    expect(sampleRate).toBe(to);
    expect(channels).toHaveLength(1);
    expect(channels[0]).toBeAllClose(samples, { within: 1e-6 });
  });

  it("gives ⌊N · to / from⌋ samples in every channel, at any two rates", () => {
    fc.assert(
      fc.property(someRate, someRate, fc.integer({ min: 50, max: 2_000 }), (from, to, samples) => {
        const channels = [new Float32Array(samples), new Float32Array(samples)];
        const resampled = resample({ sampleRate: from, channels }, to);
        const expected = from === to ? samples : Math.floor((samples * to) / from);
        expect(resampled.channels.map(({ length }) => length)).toEqual([expected, expected]);
      }),
      { numRuns: 50 },
    );
  });

  it("leaves a constant as it is", () => {
    fc.assert(
      fc.property(someRate, someRate, fc.double({ min: -1, max: 1, noNaN: true }), (from, to, level) => {
        const { channels } = resample({ sampleRate: from, channels: [new Float32Array(200).fill(level)] }, to);
        expect(channels[0]).toBeAllClose(new Float32Array(channels[0]?.length ?? 0).fill(level), { within: 1e-6 });
      }),
      { numRuns: 50 },
    );
  });

  it("keeps frequency, phase and amplitude of a sine below 80 % of the lower Nyquist frequency", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(8_000, 16_000, 22_050, 32_000, 44_100, 48_000),
        fc.constantFrom(8_000, 16_000, 22_050, 32_000, 44_100, 48_000),
        fc.double({ min: 0.01, max: 0.8, noNaN: true }),
        (from, to, part) => {
          const frequency = (part * Math.min(from, to)) / 2;
          const resampled = resample(sine(frequency, from, 0.1), to);
          const expected = sine(frequency, to, 0.1);
          const margin = Math.ceil((60 * to) / Math.min(from, to)); // the ends are continued as constants
          const inner = ({ channels }: Audio): Float32Array | undefined =>
            channels[0]?.subarray(margin, Math.floor(to * 0.1) - margin);
          expect(inner(resampled)).toBeAllClose(inner(expected) ?? [], { within: 2e-3 });
        },
      ),
      { numRuns: 100 },
    );
  });

  it("removes what the lower rate can't hold, by 60 dB and more", () => {
    for (const [from, to] of [
      [44_100, 32_000],
      [48_000, 16_000],
      [32_000, 8_000],
    ] as const) {
      const { channels } = resample(sine(0.56 * to, from, 0.2), to);
      const [samples] = channels;
      if (!samples) throw new Error("no channel");
      const margin = 100;
      const inner = { sampleRate: to, channels: [samples.subarray(margin, samples.length - margin)] };
      expect(20 * Math.log10(peak(inner))).toBeLessThan(-60);
    }
  });

  it("returns the very sound at its own rate", () => {
    const sound = sine(440, 32_000, 0.01);
    expect(resample(sound, 32_000)).toBe(sound);
  });

  it("handles sounds shorter than its kernel", () => {
    const { channels } = resample({ sampleRate: 32_000, channels: [Float32Array.of(0.5, 0.5)] }, 44_100);
    expect(channels[0]).toBeAllClose([0.5, 0.5], { within: 1e-6 });
    expect(sampleCount(resample({ sampleRate: 8_000, channels: [Float32Array.of(1)] }, 32_000))).toBe(4);
  });

  it("refuses what it can't resample", () => {
    const sound = sine(440, 32_000, 0.01);
    expect(() => resample({ sampleRate: 44_100, channels: [Float32Array.of(1)] }, 32_000)).toThrow(/less than one/);
    expect(() => resample(sound, 0)).toThrow(AudioError);
    expect(() => resample(sound, 32_000.5)).toThrow(AudioError);
    expect(() => resample({ sampleRate: 44_100, channels: [Float32Array.of(NaN, 1)] }, 32_000)).toThrow(/NaN/);
  });
});

function sine(frequency: number, sampleRate: number, seconds: number): Audio {
  const samples = Float32Array.from({ length: Math.floor(sampleRate * seconds) }, (_, index) =>
    Math.sin((2 * Math.PI * frequency * index) / sampleRate),
  );
  return { sampleRate, channels: [samples] };
}
