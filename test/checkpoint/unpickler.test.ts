import fc from "fast-check";
import { describe, expect, it } from "vitest";

import {
  PickledDict,
  PickledList,
  PickledTensor,
  PickledTuple,
  type PickleValue,
} from "../../src/checkpoint/pickle.js";
import { UnfinishedPickle, unpickle } from "../../src/checkpoint/unpickler.js";
import { PickleError } from "../../src/errors.js";

/** Instructions as bytes: texts stand for their characters. */
function pickle(...parts: readonly (string | number)[]): Uint8Array {
  return Uint8Array.from(
    parts.flatMap((part) => (typeof part === "number" ? [part] : [...Buffer.from(part, "latin1")])),
  );
}

/** BINUNICODE */
function text(value: string): string {
  return `X${String.fromCharCode(value.length)}\0\0\0${value}`;
}

function valueOf(...parts: readonly (string | number)[]): PickleValue {
  return unpickle(pickle(0x80, 2, ...parts, "."), "a file").value;
}

function refusal(...parts: readonly (string | number)[]): string {
  try {
    valueOf(...parts);
  } catch (error) {
    expect(error).toBeInstanceOf(PickleError);
    expect(error).toMatchObject({ code: "pickle" });
    return String(error);
  }
  throw new Error("nothing was refused");
}

const STORAGE = ["(", text("storage"), "ctorch\nFloatStorage\n", text("0"), text("cpu"), "K\x06", "tQ"];
/** A tensor of 6 stored values: offset, shape and strides are instructions. */
function tensor(offset: string, shape: string, strides: string): (string | number)[] {
  return ["ctorch._utils\n_rebuild_tensor_v2\n", "(", ...STORAGE, offset, shape, strides, 0x89, "N", "tR"];
}

describe("unpickle", () => {
  it("gives numbers, texts, truth values and None", () => {
    expect(valueOf("K\xff")).toBe(255);
    expect(valueOf("M\x01\x02")).toBe(513);
    expect(valueOf("J\xff\xff\xff\xff")).toBe(-1);
    expect(valueOf(0x8a, "\x01\x80")).toBe(-128);
    expect(valueOf(0x8a, "\x00")).toBe(0);
    expect(valueOf(0x8a, "\x08\0\0\0\0\0\0\0\x80")).toBe(-(2n ** 63n));
    expect(valueOf("G\x3f\xf8\0\0\0\0\0\0")).toBe(1.5);
    expect(valueOf(text("café".normalize("NFC").replace("é", "\xc3\xa9")))).toBe("café");
    expect([valueOf(0x88), valueOf(0x89), valueOf("N")]).toEqual([true, false, null]);
  });

  it("gives lists, tuples and dicts, and the same object where one is referred to twice", () => {
    const pair = valueOf("]q\0(K\x01K\x02eh\0", 0x86);
    const [first, second] = pair instanceof PickledTuple ? pair.items : [];
    expect(first).toBe(second);
    expect(first instanceof PickledList && first.items).toEqual([1, 2]);
    const dict = valueOf("}(", text("a"), "K\x01", text("b"), ")u");
    expect(dict instanceof PickledDict && [...dict.entries.keys()]).toEqual(["a", "b"]);
    const ordered = valueOf("ccollections\nOrderedDict\n)R", text("a"), "K\x01s}b");
    expect(ordered instanceof PickledDict && ordered.entries.get("a")).toBe(1);
  });

  it("gives tensors as views of storages", () => {
    const value = valueOf(...tensor("K\x00", "K\x02K\x03\x86", "K\x03K\x01\x86"));
    expect(value).toBeInstanceOf(PickledTensor);
    expect(value).toMatchObject({
      offset: 0,
      shape: [2, 3],
      strides: [3, 1],
      storage: { key: "0", dtype: "F32", size: 6 },
    });
  });

  it("refuses every global but those of tensors, by name", () => {
    for (const name of ["os system", "posix system", "builtins eval", "torch.jit load", "collections Counter"]) {
      const [module = "", member = ""] = name.split(" ");
      expect(refusal(`c${module}\n${member}\n`)).toContain(`${module}.${member}`);
      expect(refusal(text(module), text(member), 0x93)).toContain(`${module}.${member}`);
    }
    expect(refusal("cos\nsystem\n(", text("echo owned"), "tR")).toMatch(/os\.system.*Nothing was run/);
    expect(refusal("ccollections\n__proto__\n")).toContain("collections.__proto__");
    expect(refusal("c__proto__\ntoString\n")).toContain("__proto__.toString");
  });

  it("refuses every instruction it does not know, by name", () => {
    expect(refusal("i")).toContain("INST");
    expect(refusal("o")).toContain("OBJ");
    expect(refusal(0x81)).toContain("NEWOBJ");
    expect(refusal(0x92)).toContain("NEWOBJ_EX");
    expect(refusal(0x82, 1)).toContain("EXT1");
    expect(refusal("P0\n")).toContain("PERSID");
    expect(refusal("C\x01a")).toContain("SHORT_BINBYTES");
    expect(refusal(0xff)).toContain("0xff");
  });

  it("refuses calls and attributes of anything else", () => {
    expect(refusal("K\x01)R")).toContain("a call of a number");
    expect(refusal("ctorch\nFloatStorage\n)R")).toContain("a call of torch.FloatStorage");
    expect(refusal("ccollections\nOrderedDict\n", text("a"), 0x85, "R")).toContain("OrderedDict with arguments");
    expect(refusal("}}b")).toContain("attributes of a dict");
    expect(refusal("]}b")).toContain("attributes of a list");
    expect(refusal(...tensor("K\x00", "K\x06\x85", "K\x01\x85"), "}b")).toContain("attributes of a tensor");
  });

  it("refuses tensors that leave their storage", () => {
    const cases = [
      ["K\x00", "K\x07\x85", "K\x01\x85"],
      ["K\x05", "K\x02\x85", "K\x01\x85"],
      ["K\x00", "K\x02K\x03\x86", "K\x04K\x01\x86"],
      ["K\x00", "K\xffK\xff\x86", "K\x00K\x00\x86"], // every value the same stored one
      ["K\x00", "J\xff\xff\xff\xff\x85", "K\x01\x85"],
      ["J\xff\xff\xff\xff", "K\x01\x85", "K\x01\x85"],
      ["K\x00", "K\x02\x85", "J\xff\xff\xff\xff\x85"],
    ] as const;
    for (const [offset, shape, strides] of cases) {
      expect(refusal(...tensor(offset, shape, strides))).toMatch(/leaves its storage|no counts/);
    }
    expect(refusal(...tensor("K\x00", `(${"K\x01".repeat(9)}t`, `(${"K\x01".repeat(9)}t`))).toContain("9 dimensions");
  });

  it("refuses broken stacks, references, keys and texts", () => {
    expect(refusal("(")).toContain("lacks a value");
    expect(refusal("K\x01K\x02")).toContain("left over");
    expect(refusal("u")).toContain("lacks its mark");
    expect(refusal("](K\x01u")).toContain("items set on a list");
    expect(refusal("}(K\x01u")).toContain("a key without a value");
    expect(refusal("}]K\x01s")).toContain("a dict's key that is a list");
    expect(refusal("h\x05")).toContain("reference to value 5");
    expect(refusal("X\x01\0\0\0\xff")).toContain("not UTF-8");
    expect(refusal("c".padEnd(400, "a"))).toContain("endless name");
    expect(() => unpickle(pickle(0x80, 0, "."), "a file")).toThrow(/protocol 0/);
    expect(() => unpickle(pickle(0x80, 9, "."), "a file")).toThrow(/protocol 9/);
  });

  it("says so when the bytes end early, whatever length the pickle claims", () => {
    for (const parts of [
      ["X\xff\xff\xff\xff"],
      [0x8c, "\xff"],
      [0x95, "\xff\xff\xff\xff\xff\xff\xff\xff"],
      ["cos"],
      ["K"],
    ]) {
      expect(() => unpickle(pickle(0x80, 2, ...parts), "a file")).toThrow(UnfinishedPickle);
    }
  });

  it("stops at an endless number of instructions", () => {
    expect(() => unpickle(new Uint8Array(2 ** 20).fill(0x5d), "a file")).toThrow(/more than 500000 instructions/);
  });

  it("throws nothing but its own error on random instructions", () => {
    const opcodes = Array.from("NK}])(tseuq\x88\x89hjrQRbcGJMX", (character) => character.charCodeAt(0));
    const opcode = fc.constantFrom(...opcodes, 0x80, 0x85, 0x86, 0x87, 0x8a, 0x8c, 0x93, 0x94, 0x95);
    const byte = fc.oneof({ weight: 3, arbitrary: opcode }, fc.nat(255), fc.nat(3));
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 60 }), (bytes) => {
        try {
          unpickle(Uint8Array.from(bytes), "a file");
        } catch (error) {
          expect(error).toBeInstanceOf(PickleError);
        }
      }),
      { numRuns: 3000, seed: 7 },
    );
  });
});
