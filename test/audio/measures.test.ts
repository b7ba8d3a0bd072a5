import { describe, expect, it } from "vitest";

import type { Audio } from "../../src/audio/audio.js";
import { chroma, chromaFilters, chromaSimilarity } from "../../src/audio/chroma.js";
import { measureSound } from "../../src/audio/measures.js";
import { powerSpectra } from "../../src/audio/spectrum.js";
import { fixtureJson } from "../support/fixtures.js";
import { noise } from "../steering/support.js";

const RATE = 32_000;

function sound(seconds: number, at: (t: number) => number): Audio {
  return { sampleRate: RATE, channels: [Float32Array.from({ length: seconds * RATE }, (_, n) => at(n / RATE))] };
}

const tone = (frequency: number, seconds = 2): Audio =>
  sound(seconds, (t) => 0.5 * Math.sin(2 * Math.PI * frequency * t));

/** Clicks that ring for 30 ms, `bpm` a minute. */
const clicks = (bpm: number): Audio =>
  sound(8, (t) => {
    const since = t % (60 / bpm);
    return since < 0.03 ? 0.8 * Math.exp(-since * 150) * Math.sin(2 * Math.PI * 1500 * since) : 0;
  });

describe("power spectra", () => {
  it("are the discrete Fourier transform's", () => {
    const samples = noise(64, 4);
    const size = 16;
    const frames = [...powerSpectra(samples, { size, hop: 8 })].length;
    expect(frames).toBe(9);
    let index = 0;
    for (const power of powerSpectra(samples, { size, hop: 8 })) {
      const centre = 8 * index++;
      if (centre < 8 || centre > 56) continue; // no reflection: the frame is the sound's own
      const expected = Array.from({ length: size / 2 + 1 }, (_, bin) => {
        let [real, imaginary] = [0, 0];
        for (let n = 0; n < size; n++) {
          const value = (samples[centre - 8 + n] ?? 0) * (0.5 - 0.5 * Math.cos((2 * Math.PI * n) / size));
          real += value * Math.cos((2 * Math.PI * bin * n) / size);
          imaginary -= value * Math.sin((2 * Math.PI * bin * n) / size);
        }
        return real ** 2 + imaginary ** 2;
      });
      expect(power).toBeAllClose(expected, { within: 1e-12 });
    }
    expect(() => [...powerSpectra(samples, { size: 12, hop: 4 })]).toThrow("no power of two");
  });
});

describe("chroma", () => {
  it("has the filters of the melody conditioning", () => {
    // librosa.filters.chroma(sr=32000, n_fft=16384, tuning=0), as float32.
    const filters = chromaFilters(RATE, 16_384);
    const at = (row: number, column: number): number => filters[row]?.[column] ?? NaN;
    expect([at(9, 225), at(8, 225), at(10, 225)]).toBeAllClose([0.866148, 0.127763, 0.107547], { within: 1e-6 });
    expect([at(0, 134), at(1, 134), at(11, 134)]).toBeAllClose([0.66992, 0.0929274, 0.0884553], { within: 1e-6 });
    expect([at(11, 512), at(0, 512), at(9, 451)]).toBeAllClose([0.947666, 0.300781, 0.982014], { within: 1e-6 });
    const sum = filters.reduce((total, filter) => total + filter.reduce((one, value) => one + value, 0), 0);
    expect(sum).toBeCloseTo(4159.9428, 2);
  });

  it("is the reference's, frame by frame", () => {
    // torchaudio's spectrogram and librosa's filters on three tones; the fixture says how it was made.
    const golden = fixtureJson("chroma.json") as { readonly argmax: number[]; readonly raw_col2: number[] };
    const three = sound(3, (t) => {
      if (t < 1) return 0.5 * Math.sin(2 * Math.PI * 440 * t);
      return t < 2 ? 0.5 * Math.sin(2 * Math.PI * 261.6256 * t) : 0.3 * Math.sin(2 * Math.PI * 392 * t);
    });
    const { frames, raw, strongest } = chroma(three);
    expect(frames).toBe(24);
    expect([...strongest]).toEqual(golden.argmax);
    expect(raw.subarray(2 * 12, 3 * 12)).toBeAllClose(golden.raw_col2, { within: 1e-2 }); // of 886
  });

  it("tells the same notes from other notes, in any octave and timbre", () => {
    const melody = (octave: number, harmonics: number): Audio =>
      sound(4, (t) => {
        const note = [0, 4, 7, 2][Math.floor(t)] ?? 0;
        const frequency = 261.6256 * octave * 2 ** (note / 12);
        return (
          Array.from(
            { length: harmonics },
            (_, k) => Math.sin(2 * Math.PI * frequency * (k + 1) * t) / (k + 1) ** 2,
          ).reduce((a, b) => a + b, 0) / 3
        );
      });
    const own = chroma(melody(1, 1));
    expect(chromaSimilarity(own, own)).toBeCloseTo(1, 12);
    expect(chromaSimilarity(own, chroma(melody(2, 3)))).toBeGreaterThan(0.9);
    expect(chromaSimilarity(own, chroma(tone(277.18 * 2, 4)))).toBeLessThan(0.4);
    const silence = chroma(sound(4, () => 0));
    expect(chromaSimilarity(silence, silence)).toBeNull();
    expect(chromaSimilarity(own, silence)).toBe(0);
    expect(chroma({ sampleRate: RATE, channels: [new Float32Array(10)] }).frames).toBe(5);
  });
});

describe("the measures of a sound", () => {
  it("find a tone's frequency, and noise flat", () => {
    const low = measureSound(tone(500));
    expect(low.centroid).toBeCloseTo(500, -1);
    expect(Math.abs((low.rolloff ?? NaN) - 500)).toBeLessThan(2 * (RATE / 2048));
    expect(low.flatness).toBeLessThan(0.001);
    const white = measureSound({ sampleRate: RATE, channels: [noise(2 * RATE, 8)] });
    expect(Math.abs((white.centroid ?? NaN) - RATE / 4)).toBeLessThan(200);
    expect(Math.abs((white.rolloff ?? NaN) - 0.85 * (RATE / 2))).toBeLessThan(300);
    expect(white.flatness).toBeGreaterThan(0.5); // exp(−γ) = 0.56 for the power of Gaussian noise
  });

  it.each([75, 96, 120, 150])("count onsets and find the tempo of clicks at %i a minute", (bpm) => {
    const { onsetRate, tempo } = measureSound(clicks(bpm));
    expect(Math.abs((onsetRate ?? NaN) - bpm / 60)).toBeLessThan(0.3);
    expect(Math.abs((tempo ?? NaN) - bpm)).toBeLessThan(0.02 * bpm);
  });

  it("have nothing to say of silence", () => {
    const nothing = { centroid: null, rolloff: null, flatness: null, onsetRate: null, tempo: null };
    expect(measureSound(sound(1, () => 0))).toEqual(nothing);
    expect(measureSound({ sampleRate: RATE, channels: [Float32Array.of(0.5)] }).tempo).toBeNull();
  });
});
