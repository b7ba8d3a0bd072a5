import { CheckpointError } from "../errors.js";

/**
 * SentencePiece's compiled Unicode normalisation (`nmt_nfkc` for T5), applied the way Hugging Face's tokenizers do:
 * https://github.com/huggingface/spm_precompiled.
 *
 * The compiled form is a map from byte strings to replacements: a double-array trie (Aoe 1989, in the layout of the
 * darts-clone library) whose leaves point into a list of NUL-terminated UTF-8 texts.
 */
export class CharacterMap {
  readonly #trie: Uint32Array;
  readonly #replacements: Uint8Array;
  readonly #graphemes = new Intl.Segmenter("und", { granularity: "grapheme" });

  /**
   * @param blob the compiled map: the trie's length in bytes (32 bits), its 32-bit units, the replacements; all
   *   little-endian.
   * @param file named in errors.
   * @throws {CheckpointError} if the lengths do not fit together.
   */
  constructor(blob: Uint8Array, file: string) {
    const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
    const trieBytes = blob.byteLength >= 4 ? view.getUint32(0, true) : 0;
    if (trieBytes === 0 || trieBytes % 4 !== 0 || 4 + trieBytes > blob.byteLength) {
      throw new CheckpointError({
        asked: `read normalizer.precompiled_charsmap of ${file}`,
        found: `${blob.byteLength} bytes that announce a trie of ${trieBytes}`,
        todo: "Fetch the file again: it is damaged",
      });
    }
    this.#trie = Uint32Array.from({ length: trieBytes / 4 }, (_, unit) => view.getUint32(4 + 4 * unit, true));
    this.#replacements = blob.subarray(4 + trieBytes);
  }

  /**
   * The normalised text. Whole grapheme clusters are looked up first where they are short, then code points; the first,
   * shortest match of a cluster replaces all of it, so that e + U+0301 + U+0323 loses its last mark. That is how
   * Hugging Face's ids come about; SentencePiece itself takes the longest match and keeps the rest.
   */
  normalize(text: string): string {
    let normalized = "";
    for (const { segment } of this.#graphemes.segment(text)) {
      const whole = this.#replacement(segment);
      if (whole !== undefined) normalized += whole;
      else for (const character of segment) normalized += this.#replacement(character) ?? character;
    }
    return normalized;
  }

  /** What stands in for a cluster or code point; undefined if it stays, or is too long for the map. */
  #replacement(characters: string): string | undefined {
    const bytes = new TextEncoder().encode(characters);
    return bytes.length < MAX_MATCHED_BYTES ? this.#search(bytes) : undefined;
  }

  /** The replacement of the shortest prefix of `bytes` that the trie holds. */
  #search(bytes: Uint8Array): string | undefined {
    let position = offsetOf(this.#unit(0));
    for (const byte of bytes) {
      position ^= byte;
      const unit = this.#unit(position);
      if (byte === 0 || labelOf(unit) !== byte) return undefined;
      position ^= offsetOf(unit);
      if (hasLeaf(unit)) return this.#textAt(valueOf(this.#unit(position)));
    }
    return undefined;
  }

  #unit(position: number): number {
    return this.#trie[position] ?? 0;
  }

  #textAt(start: number): string {
    const end = this.#replacements.indexOf(0, start);
    return new TextDecoder().decode(this.#replacements.subarray(start, end < 0 ? undefined : end));
  }
}

const MAX_MATCHED_BYTES = 6; // a grapheme cluster of this many UTF-8 bytes or more is taken apart unseen

// The fields of a double-array unit.
const hasLeaf = (unit: number): boolean => ((unit >>> 8) & 1) === 1;
const valueOf = (unit: number): number => unit & 0x7fffffff;
const labelOf = (unit: number): number => (unit & 0x800000ff) >>> 0;
const offsetOf = (unit: number): number => ((unit >>> 10) << ((unit & 512) >>> 6)) >>> 0;
