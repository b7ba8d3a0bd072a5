import { CheckpointError } from "../errors.js";

/** A vocabulary piece and its log-probability. */
export type ScoredPiece = readonly [piece: string, score: number];

const UNKNOWN_PENALTY = 10; // how far below the rarest piece an unknown character scores, as SentencePiece

/**
 * SentencePiece's unigram model (Kudo 2018, https://arxiv.org/abs/1804.10959): splits a text into the pieces whose
 * log-probabilities sum highest. Ties go to the longest first piece, runs of unknown characters become one token; both
 * as in Hugging Face's tokenizers.
 */
export class Unigram {
  readonly size: number;
  readonly unknownId: number;
  readonly #pieces: ReadonlyMap<string, { readonly id: number; readonly score: number }>;
  readonly #longest: number; // in characters
  readonly #unknownScore: number;

  /**
   * @param vocabulary every piece; its index is its id.
   * @param file named in errors.
   * @throws {CheckpointError} if the vocabulary is empty or lacks the unknown id.
   */
  constructor(vocabulary: readonly ScoredPiece[], unknownId: number, file: string) {
    if (vocabulary[unknownId] === undefined) {
      throw new CheckpointError({
        asked: `read the vocabulary of ${file}`,
        found: `${vocabulary.length} pieces, with ${unknownId} as the id of unknown ones`,
        todo: "Fetch the file again: it is damaged",
      });
    }
    this.size = vocabulary.length;
    this.unknownId = unknownId;
    this.#pieces = new Map(vocabulary.map(([piece, score], id) => [piece, { id, score }]));
    this.#longest = vocabulary.reduce((longest, [piece]) => Math.max(longest, Array.from(piece).length), 0);
    this.#unknownScore = vocabulary.reduce((least, [, score]) => Math.min(least, score), 0) - UNKNOWN_PENALTY;
  }

  /** The ids of the best split of `text`, which is normalised already. Empty text has none. */
  encode(text: string): number[] {
    const best = this.#bestSteps(Array.from(text));
    const ids: number[] = [];
    for (let step = best.at(-1); step && step.end > 0; step = best[step.start]) {
      const continuesUnknown = step.id === this.unknownId && ids.at(-1) === this.unknownId;
      if (!continuesUnknown) ids.push(step.id);
    }
    return ids.toReversed();
  }

  /** For each position between characters, the last piece of the best split of what lies before it (Viterbi). */
  #bestSteps(characters: readonly string[]): readonly (Step | undefined)[] {
    const best: (Step | undefined)[] = [{ start: 0, end: 0, id: -1, score: 0 }];
    for (let start = 0; start < characters.length; start++) {
      const scoreBefore = best[start]?.score ?? -Infinity;
      let piece = "";
      let hasSingle = false;
      for (let end = start + 1; end <= Math.min(start + this.#longest, characters.length); end++) {
        piece += characters[end - 1] ?? "";
        const known = this.#pieces.get(piece);
        if (known === undefined) continue;
        improve(best, { start, end, id: known.id, score: scoreBefore + known.score });
        if (end === start + 1) hasSingle = true;
      }
      if (!hasSingle) {
        improve(best, { start, end: start + 1, id: this.unknownId, score: scoreBefore + this.#unknownScore });
      }
    }
    return best;
  }
}

/** The last piece of a split: characters `start` to `end`, and the score of the whole split. */
interface Step {
  readonly start: number;
  readonly end: number;
  readonly id: number;
  readonly score: number;
}

function improve(best: (Step | undefined)[], step: Step): void {
  const present = best[step.end];
  if (present === undefined || step.score > present.score) best[step.end] = step;
}
