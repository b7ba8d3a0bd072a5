import { describe, expect, it } from "vitest";

import { peak, rootMeanSquare, type Audio } from "../../src/audio/audio.js";
import { kWeighting, loudness } from "../../src/audio/loudness.js";
import { normalizeAudio } from "../../src/audio/normalize.js";

function sine(decibels: number, seconds = 5, sampleRate = 48_000, frequency = 997): Float32Array {
  const level = 10 ** (decibels / 20);
  return Float32Array.from(
    { length: seconds * sampleRate },
    (_, n) => level * Math.sin((2 * Math.PI * frequency * n) / sampleRate),
  );
}

function join(...parts: readonly Float32Array[]): Float32Array {
  return Float32Array.from(parts.flatMap((part) => [...part]));
}

describe("loudness", () => {
  it("has the standard's filters at 48 kHz", () => {
    // ITU-R BS.1770-4, tables 1 and 2.
    const [first, second] = kWeighting(48_000);
    expect([...(first?.b ?? []), ...(first?.a ?? [])]).toBeAllClose(
      [1.53512485958697, -2.69169618940638, 1.19839281085285, -1.69065929318241, 0.73248077421585],
      { within: 1e-9 },
    );
    expect([...(second?.b ?? []), ...(second?.a ?? [])]).toBeAllClose([1, -2, 1, -1.99004745483398, 0.99007225036621], {
      within: 1e-9,
    });
  });

  it("is what the standard says of 997 Hz: -3.01 LUFS at full scale in one channel, 3 dB more in two", () => {
    for (const sampleRate of [32_000, 44_100, 48_000]) {
      const tone = sine(0, 5, sampleRate);
      expect(loudness({ sampleRate, channels: [tone] })).toBeCloseTo(-3.01, 1);
      expect(loudness({ sampleRate, channels: [tone, tone] })).toBeCloseTo(0, 1);
      const quiet = sine(-23, 5, sampleRate);
      expect(loudness({ sampleRate, channels: [quiet, quiet] })).toBeCloseTo(-23, 1); // EBU Tech 3341, case 1
    }
  });

  it("leaves out what is silent or far below the rest", () => {
    // EBU Tech 3341, case 3, shortened: what lies 13 dB below is gated.
    const [loud, low] = [sine(-23, 6, 48_000, 1000), sine(-36, 2, 48_000, 1000)];
    const channel = join(low, loud, low, new Float32Array(96_000));
    expect(loudness({ sampleRate: 48_000, channels: [channel, channel] })).toBeCloseTo(-23, 0);
    expect(loudness({ sampleRate: 48_000, channels: [new Float32Array(48_000)] })).toBe(-Infinity);
    expect(loudness({ sampleRate: 32_000, channels: [sine(-20, 1, 32_000).subarray(0, 900)] })).toBeLessThan(-15);
  });
});

describe("normalising", () => {
  const rate = 32_000;
  const stereo: Audio = { sampleRate: rate, channels: [sine(-30, 2, rate), sine(-24, 2, rate)] };

  it.each([-14, -23, -40])("brings loudness to %i LUFS", (target) => {
    const { audio, gain, clipped } = normalizeAudio(stereo, { strategy: "loudness", target });
    expect(loudness(audio)).toBeCloseTo(target, 3);
    expect(gain).toBeCloseTo(target - loudness(stereo), 3);
    expect(clipped).toBe(0);
  });

  it("brings the peak to -1 dB, the root mean square of the mix to -18 dB, and cuts above -1 dB", () => {
    expect(20 * Math.log10(peak(normalizeAudio(stereo, { strategy: "peak" }).audio))).toBeCloseTo(-1, 3);
    const { audio } = normalizeAudio(stereo, { strategy: "rms" });
    const mix = (audio.channels[0] ?? []).map((value, n) => (value + (audio.channels[1]?.[n] ?? 0)) / 2);
    expect(20 * Math.log10(rootMeanSquare({ sampleRate: rate, channels: [Float32Array.from(mix)] }))).toBeCloseTo(
      -18,
      3,
    );
    const loud = { sampleRate: rate, channels: [Float32Array.of(0.5, -2, 0.95)] };
    const cut = normalizeAudio(loud, { strategy: "clip" });
    expect([...(cut.audio.channels[0] ?? [])]).toEqual([0.5, Math.fround(-(10 ** -0.05)), Math.fround(10 ** -0.05)]);
    expect(cut).toMatchObject({ gain: 0, clipped: 2 });
  });

  it("cuts what a louder sound has beyond full scale, or bends it", () => {
    const peaky = { sampleRate: rate, channels: [join(sine(-40, 2, rate), Float32Array.of(0.9, -0.9))] };
    const cut = normalizeAudio(peaky, { strategy: "loudness", target: -14 });
    expect(peak(cut.audio)).toBe(1);
    expect(cut.clipped).toBe(2);
    const bent = normalizeAudio(peaky, { strategy: "loudness", target: -14, compress: true });
    expect(peak(bent.audio)).toBeLessThanOrEqual(1);
    expect(bent.clipped).toBe(0);
  });

  it("leaves silence, and for loudness what is nearly silent, as it is", () => {
    for (const strategy of ["loudness", "peak", "rms", "clip"] as const) {
      const silence = { sampleRate: rate, channels: [new Float32Array(100)] };
      expect(normalizeAudio(silence, { strategy })).toEqual({ audio: silence, gain: 0, clipped: 0 });
    }
    const faint = { sampleRate: rate, channels: [sine(-57, 1, rate)] };
    expect(normalizeAudio(faint, { strategy: "loudness" }).audio).toEqual(faint);
  });

  it("refuses targets above full scale and compression without loudness", () => {
    expect(() => normalizeAudio(stereo, { strategy: "loudness", target: 3 })).toThrow("3 dB");
    expect(() => normalizeAudio(stereo, { strategy: "peak", target: NaN })).toThrow("NaN dB");
    expect(() => normalizeAudio(stereo, { strategy: "peak", compress: true })).toThrow("belongs to loudness");
  });
});
