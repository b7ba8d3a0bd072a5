import { describe, expect, it } from "vitest";

import { soundingWindows, WINDOW_SECONDS } from "../../src/experiments/seed-sources.js";

const RATE = 1000;
const SIZE = WINDOW_SECONDS * RATE;

function sound(levels: readonly number[]): Float32Array {
  return Float32Array.from({ length: levels.length * SIZE }, (_, index) => {
    return (levels[Math.floor(index / SIZE)] ?? 0) * (index % 2 === 0 ? 1 : -1);
  });
}

describe("the windows of a clip in which there is sound", () => {
  it("are those within 26 dB of the loudest, at any volume", () => {
    const levels = [0.5, 0.03, 0.02, 0, 0.5];
    const expected = [true, true, false, false, true];
    for (const volume of [1, 0.01]) {
      const channels = [sound(levels.map((level) => level * volume))];
      expect(soundingWindows({ sampleRate: RATE, channels })).toEqual(expected);
    }
  });

  it("are none in silence, and leave out what is left at the end", () => {
    const channels = [new Float32Array(2 * SIZE + 5)];
    expect(soundingWindows({ sampleRate: RATE, channels })).toEqual([false, false]);
  });
});
