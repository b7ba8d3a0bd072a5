import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { UsageError } from "../../src/errors.js";
import {
  checkSampling,
  DEFAULT_SAMPLING,
  filteredProbabilities,
  sampleToken,
  type SamplingOptions,
} from "../../src/model/sampling.js";
import { uniformStream } from "../../src/runtime/random.js";

const all: SamplingOptions = { greedy: false, temperature: 1, topK: 0, topP: 1 };
const logitLists = fc
  .array(fc.float({ min: -20, max: 20, noNaN: true }), { minLength: 1, maxLength: 40 })
  .map((values) => Float32Array.from(values));

describe("sampling", () => {
  it("keeps the k most likely tokens, and all that tie with the last of them", () => {
    const logits = Float32Array.of(1, 3, 2, 2, 0);
    const kept = [...filteredProbabilities(logits, { ...all, topK: 2 }).keys()].filter(
      (token) => filteredProbabilities(logits, { ...all, topK: 2 })[token] !== 0,
    );
    expect(kept).toEqual([1, 2, 3]);
  });

  it("keeps the fewest likely tokens that reach top-p, never none", () => {
    const logits = Float32Array.from([0.5, 0.3, 0.15, 0.05], Math.log);
    const nucleus = (topP: number) => [...filteredProbabilities(logits, { ...all, topP })].map((p) => p > 0);
    expect(nucleus(0.9)).toEqual([true, true, true, false]);
    expect(nucleus(0.6)).toEqual([true, true, false, false]);
    expect(nucleus(1e-9)).toEqual([true, false, false, false]);
  });

  it("gives probabilities that sum to one whatever the filters", () => {
    fc.assert(
      fc.property(
        logitLists,
        fc.integer({ min: 0, max: 50 }),
        fc.double({ min: 0.01, max: 1, noNaN: true }),
        fc.double({ min: 0.1, max: 5, noNaN: true }),
        (logits, topK, topP, temperature) => {
          const probabilities = filteredProbabilities(logits, { greedy: false, temperature, topK, topP });
          expect(probabilities.reduce((sum, p) => sum + p, 0)).toBeCloseTo(1, 9);
        },
      ),
    );
  });

  it("draws each token as often as its probability says", () => {
    const logits = Float32Array.from([0.1, 0.2, 0.3, 0.4], Math.log);
    const uniforms = uniformStream(1, 0);
    const counts = [0, 0, 0, 0];
    const draws = 20_000;
    for (let draw = 0; draw < draws; draw++) {
      const token = sampleToken(logits, all, uniforms());
      counts[token] = (counts[token] ?? 0) + 1;
    }
    // Five standard deviations of a binomial proportion at p = 0.4 are 0.0173.
    expect(counts.map((count) => count / draws)).toBeAllClose([0.1, 0.2, 0.3, 0.4], { within: 0.0175 });
  });

  it("never draws a token that was filtered out, at either end of the unit interval", () => {
    fc.assert(
      fc.property(logitLists, fc.constantFrom(0, 0.5, 1 - 2 ** -53), (logits, uniform) => {
        const options = { ...all, topK: 3 };
        const token = sampleToken(logits, options, uniform);
        expect(filteredProbabilities(logits, options)[token]).toBeGreaterThan(0);
      }),
    );
  });

  it("takes the first of the largest logits when greedy", () => {
    expect(sampleToken(Float32Array.of(1, 4, 4, 2), { ...DEFAULT_SAMPLING, greedy: true }, 0.99)).toBe(1);
  });

  it("refuses logits that are not finite", () => {
    expect(() => sampleToken(Float32Array.of(0, NaN), DEFAULT_SAMPLING, 0.5)).toThrow("NaN or infinity");
  });

  it("refuses options outside their range, naming them", () => {
    expect(() => checkSampling({ ...all, temperature: 0 })).toThrow(UsageError);
    expect(() => checkSampling({ ...all, topK: 2.5 })).toThrow("top-k 2.5");
    expect(() => checkSampling({ ...all, topP: 1.2 })).toThrow("top-p 1.2");
  });
});
