import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { parseYaml, yamlValue } from "../../../src/checkpoint/audiocraft/yaml.js";
import { CheckpointError } from "../../../src/errors.js";

describe("parseYaml", () => {
  it("reads what PyYAML writes in block style", () => {
    const text = [
      "# a comment",
      "a: 1",
      "b: -2.5",
      "c: 1.0e-05",
      "d: null",
      "e: true",
      "f: text with spaces: and a colon",
      "g: 'it''s quoted'",
      'h: "tab\\t"',
      "i: {}",
      "j: []",
      "k: [8, 5, x]",
      "l:",
      "- 1",
      "m:",
      "  n:",
      "    - deep",
      "    - 'x'",
      "  o: 3",
      "p: long text",
      "  goes on here",
      "q: |-",
      "  first",
      "  second",
      "r:",
      "s: 5",
      "'t u': 6",
      "1: 7",
    ].join("\n");
    expect(parseYaml(text, "a file")).toEqual({
      ...{ a: 1, b: -2.5, c: 1e-5, d: null, e: true, f: "text with spaces: and a colon", g: "it's quoted", h: "tab\t" },
      ...{ i: {}, j: [], k: [8, 5, "x"], l: [1], m: { n: ["deep", "x"], o: 3 }, p: "long text goes on here" },
      ...{ q: "first\nsecond", r: null, s: 5, "t u": 6, 1: 7 },
    });
  });

  it.each([
    "a: !!python/object:x.Y {}",
    "a: &x 1",
    "a: *x",
    "a: {b: 1}",
    "- a: 1",
    "a:\n- - 1",
    "a: 1\n- b",
    "a: 1\na: 2",
    "a: 'x",
    "  a",
    "a: 1\n  b: 2\n c",
  ])("refuses %j", (text) => {
    expect(() => parseYaml(text, "a file")).toThrow(CheckpointError);
  });

  it("follows references, and refuses those that lead nowhere or in circles", () => {
    const root = parseYaml("rate: 5\na:\n  b: ${rate}\n  c: ${a.b}\n  d: ${a.e}\n  e: ${a.d}\n  f: ${x}\n", "a file");
    expect([yamlValue(root, "a.b", "f"), yamlValue(root, "a.c", "f"), yamlValue(root, "a.z", "f")]).toEqual([
      5,
      5,
      undefined,
    ]);
    expect(() => yamlValue(root, "a.d", "a file")).toThrow(/refers to itself/);
    expect(() => yamlValue(root, "a.f", "a file")).toThrow(/refers to x, which is not there/);
    expect(yamlValue(root, "constructor", "f")).toBeUndefined();
  });

  it("throws nothing else on any text", () => {
    const line = fc.stringMatching(/^ {0,4}(- )?[a-c]{0,2}:? ?[\w'"{}[\]&!|>-]{0,5}$/);
    fc.assert(
      fc.property(fc.array(line, { maxLength: 12 }), (lines) => {
        try {
          parseYaml(lines.join("\n"), "a file");
        } catch (error) {
          expect(error).toBeInstanceOf(CheckpointError);
        }
      }),
      { numRuns: 2000, seed: 5 },
    );
    expect(() => parseYaml(Array.from({ length: 90 }, (_, depth) => `${" ".repeat(depth)}a:`).join("\n"), "f")).toThrow(
      CheckpointError,
    );
  });
});
