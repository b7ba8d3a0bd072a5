import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { CheckpointError } from "../../src/errors.js";
import { Unigram, type ScoredPiece } from "../../src/text/unigram.js";

const UNKNOWN: ScoredPiece = ["<unk>", 0];

describe("Unigram", () => {
  it("takes the split whose scores sum highest, not the longest pieces", () => {
    const model = new Unigram([UNKNOWN, ["a", -1], ["b", -1], ["ab", -5], ["abc", -9], ["c", -1]], 0, "memory");
    expect(model.encode("abc")).toEqual([1, 2, 5]);
  });

  it("gives a tie to the split whose last piece begins first", () => {
    const model = new Unigram([UNKNOWN, ["a", -1], ["b", -1], ["ab", -2]], 0, "memory");
    expect(model.encode("ab")).toEqual([3]);
  });

  it("makes one unknown token of a run of unknown characters", () => {
    const model = new Unigram([UNKNOWN, ["a", -1]], 0, "memory");
    expect(model.encode("xyaz🎵")).toEqual([0, 1, 0]);
    expect(model.encode("")).toEqual([]);
  });

  it("counts characters, not UTF-16 units", () => {
    const model = new Unigram([UNKNOWN, ["🎵", -1], ["🎵🎸", -1.5]], 0, "memory");
    expect(model.encode("🎵🎸🎵")).toEqual([2, 1]);
  });

  it("finds the best of all splits", () => {
    const pieces = fc.uniqueArray(
      fc.tuple(
        fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 3 }),
        fc.integer({ min: -20, max: -1 }),
      ),
      { selector: ([piece]) => piece, maxLength: 12 },
    );
    fc.assert(
      fc.property(pieces, fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 8 }), (vocabulary, text) => {
        const model = new Unigram([UNKNOWN, ...vocabulary], 0, "memory");
        const unknownScore = Math.min(0, ...vocabulary.map(([, score]) => score)) - 10;
        const score = new Map(vocabulary);
        const best = bestScore(text, score, unknownScore);
        const ids = model.encode(text);
        const spelled = ids.map((id) => vocabulary[id - 1]?.[0]);
        if (!ids.includes(0)) {
          expect(spelled.join("")).toBe(text);
          expect(spelled.reduce((sum, piece) => sum + (score.get(piece ?? "") ?? NaN), 0)).toBe(best);
        } else {
          expect(best).toBeLessThanOrEqual(unknownScore);
        }
      }),
    );
  });

  it("refuses a vocabulary without its unknown piece", () => {
    expect(() => new Unigram([], 0, "tokenizer.json")).toThrow(CheckpointError);
    expect(() => new Unigram([UNKNOWN], 2, "tokenizer.json")).toThrow(/1 pieces, with 2 as the id/);
  });
});

/** By trying every split. */
function bestScore(text: string, score: ReadonlyMap<string, number>, unknownScore: number): number {
  if (text === "") return 0;
  let best = -Infinity;
  for (let length = 1; length <= text.length; length++) {
    const here = score.get(text.slice(0, length)) ?? (length === 1 ? unknownScore : -Infinity);
    best = Math.max(best, here + bestScore(text.slice(length), score, unknownScore));
  }
  return best;
}
