import { expect, it } from "vitest";

import { chroma, chromaFilters, CLASSES } from "../../src/audio/chroma.js";
import { fixtureJson } from "../support/fixtures.js";

// Goldens: librosa's filters and torch's short-time spectra, as transformers' melody feature extractor combines them.

interface Golden {
  readonly argmax: readonly number[];
  readonly raw_col2: readonly number[];
  readonly raw_col12: readonly number[];
  readonly filters: Readonly<Record<string, readonly number[]>>;
}

const golden = fixtureJson("chroma.json") as Golden;

/** A, C and G, a second each. */
function melody(): Float32Array {
  return Float32Array.from({ length: 96_000 }, (_, n) => {
    const [frequency = 0, level = 0] = n < 32_000 ? [440, 0.5] : n < 64_000 ? [261.6256, 0.5] : [392, 0.3];
    return level * Math.sin((2 * Math.PI * frequency * n) / 32_000);
  });
}

it("has the reference's filters", () => {
  const filters = chromaFilters(32_000, 16_384);
  for (const [bin, expected] of Object.entries(golden.filters)) {
    expect(filters.map((filter) => filter[Number(bin)] ?? NaN)).toBeAllClose(expected, { within: 1e-6 });
  }
});

it("finds the reference's chroma and its strongest pitch classes", () => {
  const found = chroma({ sampleRate: 32_000, channels: [melody()] });
  expect([...found.strongest]).toEqual(golden.argmax);
  for (const [column, expected] of [
    [2, golden.raw_col2],
    [12, golden.raw_col12],
  ] as const) {
    const raw = found.raw.subarray(column * CLASSES, (column + 1) * CLASSES);
    const largest = Math.max(...expected);
    expect(raw.map((value) => value / largest)).toBeAllClose(
      expected.map((value) => value / largest),
      { within: 1e-5 },
    );
  }
});

it("takes silence for C", () => {
  expect([...chroma({ sampleRate: 32_000, channels: [new Float32Array(20_000)] }).strongest]).toEqual([0, 0, 0, 0, 0]);
});
