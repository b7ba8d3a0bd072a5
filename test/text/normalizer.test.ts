import { describe, expect, it } from "vitest";

import { CheckpointError } from "../../src/errors.js";
import { CharacterMap } from "../../src/text/normalizer.js";
import { fixtureJson } from "../support/fixtures.js";

interface TokenizerFile {
  readonly normalizer: { readonly normalizers: readonly { readonly precompiled_charsmap: string }[] };
}

function compiledMap(): Uint8Array {
  const file = fixtureJson("tokenizer/tokenizer.json") as TokenizerFile;
  return Buffer.from(file.normalizer.normalizers[0]?.precompiled_charsmap ?? "", "base64");
}

describe("CharacterMap", () => {
  it("normalises as Hugging Face's tokenizers do", () => {
    // `normalized` of tokenizers 0.23.2, before spaces are dropped.
    const cases = fixtureJson("tokenizer/cases.json") as readonly {
      readonly text: string;
      readonly normalized: string;
    }[];
    const map = new CharacterMap(compiledMap(), "memory");
    const wrong = cases.filter(({ text, normalized }) => map.normalize(text) !== normalized);
    expect(wrong).toEqual([]);
    expect(cases.filter(({ text, normalized }) => text !== normalized).length).toBeGreaterThan(100);
  });

  it("replaces a short cluster by its first match alone, and a long one character by character", () => {
    const map = new CharacterMap(compiledMap(), "memory");
    expect(map.normalize("e\u0301")).toBe("é");
    expect(map.normalize("e\u0301\u0323")).toBe("é"); // 5 bytes: the last mark is lost
    expect(map.normalize("e\u0301\u0323\u0302")).toBe("e\u0301\u0323\u0302"); // 7 bytes
    expect(map.normalize("ﬁ½™\u3000\u0007")).toBe("fi1⁄2TM ");
  });

  it("leaves text alone that it does not know", () => {
    const map = new CharacterMap(compiledMap(), "memory");
    expect(map.normalize("slow jazz trio, 90 BPM")).toBe("slow jazz trio, 90 BPM");
    expect(map.normalize("a\u0000b")).toBe("a\u0000b");
    expect(map.normalize("")).toBe("");
  });

  it("refuses a map whose lengths do not fit together", () => {
    const blob = compiledMap();
    for (const bytes of [0, 3, 4, 1000]) {
      expect(() => new CharacterMap(blob.subarray(0, bytes), "tokenizer.json")).toThrow(CheckpointError);
    }
    expect(() => new CharacterMap(new Uint8Array(8), "tokenizer.json")).toThrow(/8 bytes that announce a trie of 0/);
  });

  it("ends on a damaged trie, whatever is in it", () => {
    const blob = Uint8Array.from(compiledMap());
    for (let at = 4; at < blob.length; at += 7) blob[at] = (at * 31) & 255;
    expect(typeof new CharacterMap(blob, "memory").normalize("ﬁne ½ “quoted” 日本 e\u0301")).toBe("string");
  });
});
