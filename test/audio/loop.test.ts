import { describe, expect, it } from "vitest";

import { mixStems, type Audio } from "../../src/audio/audio.js";
import { cutLoop, loopMaterial, type Loop } from "../../src/audio/loop.js";

const RATE = 32_000;

/** Notes of 0.25 s with an attack, from a list that begins anew; each sounds a little different every time. */
function tune(notes: readonly number[], seconds: number): Audio {
  let noise = 1;
  const samples = Float32Array.from({ length: seconds * RATE }, (_, n) => {
    const place = Math.floor(n / (RATE / 4));
    const since = (n % (RATE / 4)) / RATE;
    const frequency = notes[place % notes.length] ?? 0;
    noise = (Math.imul(noise, 1664525) + 1013904223) | 0;
    return 0.5 * Math.exp(-6 * since) * Math.sin(2 * Math.PI * frequency * since) + noise / 2 ** 38;
  });
  return { sampleRate: RATE, channels: [samples] };
}

const NOTES = [262, 330, 392, 523, 440, 349, 294, 247]; // a bar of 2 s

/** The largest step between two samples that the loop takes anywhere, and the one at its seam. */
function steps({ audio }: Loop): { readonly largest: number; readonly seam: number } {
  const [samples = new Float32Array()] = audio.channels;
  const at = (n: number): number => Math.abs((samples[n] ?? 0) - (samples[n - 1] ?? 0));
  const inside = Array.from({ length: samples.length - 1 }, (_, n) => at(n + 1));
  return { largest: Math.max(...inside), seam: Math.abs((samples[0] ?? 0) - (samples.at(-1) ?? 0)) };
}

describe("a loop", () => {
  it("is cut to whole bars where the music has them", () => {
    const loop = cutLoop(tune(NOTES, 10), { seconds: 4.2 });
    expect(loop.end - loop.start).toBe(4 * RATE);
    expect(loop.likeness).toBeGreaterThan(0.99);
    expect(loop.audio.channels[0]).toHaveLength(4 * RATE);
  });

  it("goes on from its last sample to its first as the piece does", () => {
    const piece = tune(NOTES, 10);
    const [samples = new Float32Array()] = piece.channels;
    for (const seconds of [1.3, 2, 3.1]) {
      const loop = cutLoop(piece, { seconds });
      const [own = new Float32Array()] = loop.audio.channels;
      expect(own[0]).toBe(samples[loop.start]);
      expect(Math.abs((own.at(-1) ?? 0) - (samples[loop.start - 1] ?? 0))).toBeLessThan(2e-3);
      const { seam, largest } = steps(loop);
      expect(seam).toBeLessThanOrEqual(largest);
    }
  });

  it("has no louder step at its seam than inside, in noise that never repeats", () => {
    let state = 1;
    const brown = Float32Array.from({ length: 6 * RATE }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) | 0;
      return state / 2 ** 31;
    });
    for (let n = 1; n < brown.length; n++) brown[n] = 0.995 * (brown[n - 1] ?? 0) + 0.05 * (brown[n] ?? 0);
    const loop = cutLoop({ sampleRate: RATE, channels: [brown, brown.map((value) => -value)] }, { seconds: 3 });
    const { seam, largest } = steps(loop);
    expect(seam).toBeLessThanOrEqual(largest);
    // The fade of unrelated signals keeps their power.
    const power = (from: number, to: number): number => {
      const part = loop.audio.channels[0]?.subarray(from, to) ?? new Float32Array();
      return part.reduce((sum, value) => sum + value * value, 0) / part.length;
    };
    const length = loop.end - loop.start;
    expect(power(length - 1600, length) / power(0, length)).toBeGreaterThan(0.2);
    expect(loop.audio.channels[1]?.[7]).toBe(-(loop.audio.channels[0]?.[7] ?? NaN));
  });

  it("of the exact length asked for is cut where that fits best", () => {
    const loop = cutLoop(tune(NOTES, 9), { seconds: 4, tolerance: 0 });
    expect(loop.end - loop.start).toBe(4 * RATE);
    expect(loop.likeness).toBeGreaterThan(0.99);
    const odd = cutLoop(tune(NOTES, 9), { seconds: 64_001 / RATE, tolerance: 0 });
    expect(odd.end - odd.start).toBe(64_001);
    expect(odd.likeness).toBeGreaterThan(0.99);
  });

  it("tells when a piece does not come by the same place again", () => {
    const rising = Array.from({ length: 40 }, (_, index) => 110 * 2 ** (index / 7));
    expect(cutLoop(tune(rising, 10), { seconds: 4 }).likeness).toBeLessThan(0.8);
  });

  it("needs a piece that is longer than it, and numbers in range", () => {
    const piece = tune(NOTES, 4);
    expect(() => cutLoop(piece, { seconds: 5 })).toThrow("4.00 s");
    expect(() => cutLoop(piece, { seconds: -1 })).toThrow("-1 seconds");
    expect(() => cutLoop(piece, { seconds: 2, tolerance: 1 })).toThrow("tolerance of 1");
    expect(() => cutLoop(piece, { seconds: 2, crossfade: 1.5 })).toThrow("crossfade of 1.5");
    expect(loopMaterial({ seconds: 8 })).toBeCloseTo(10.8, 9);
  });
});

describe("stems", () => {
  it("are summed on one channel, the shorter ones continued by silence", () => {
    const [left, right] = [Float32Array.of(1, 0), Float32Array.of(0, 1)];
    const stems = [
      { sampleRate: RATE, channels: [left, right] },
      { sampleRate: RATE, channels: [Float32Array.of(1, 1, 1)] },
    ];
    expect(mixStems(stems)).toEqual({ sampleRate: RATE, channels: [Float32Array.of(1.5, 1.5, 1)] });
    expect(() => mixStems([])).toThrow("none");
    expect(() => mixStems([...stems, { sampleRate: 8000, channels: [left] }])).toThrow("32000 and 8000");
  });
});
