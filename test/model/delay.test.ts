import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { delayCodes, delayPattern, frameAt, sequenceLength, undelayCodes } from "../../src/model/delay.js";
import { golden } from "../support/fixtures.js";

const shapes = fc.record({
  channels: fc.constantFrom(1, 2),
  perChannel: fc.integer({ min: 1, max: 5 }),
  frames: fc.integer({ min: 0, max: 40 }),
});

describe("the delay pattern", () => {
  it("equals the mask that transformers builds for 16 positions, mono and stereo", () => {
    for (const [kind, codebooks, channels] of [
      ["mono", 4, 1],
      ["stereo", 8, 2],
    ] as const) {
      const mask = golden(kind)("delay_mask_len16"); // [K, 16]: -1 where a token is to be generated, else the pad token
      const pattern = delayPattern(codebooks, channels, 64);
      const frames = 16 - 4;
      const codes = { values: new Int32Array(codebooks * frames).fill(-1), codebooks, frames };
      expect([...delayCodes(codes, pattern)]).toEqual([...mask.data]);
    }
  });

  it("gives back the codes it laid out", () => {
    fc.assert(
      fc.property(shapes, fc.array(fc.nat(63), { minLength: 400, maxLength: 400 }), (shape, tokens) => {
        const { channels, perChannel, frames } = shape;
        const codebooks = channels * perChannel;
        const values = Int32Array.from(tokens.slice(0, codebooks * frames));
        const pattern = delayPattern(codebooks, channels, 64);
        const sequence = delayCodes({ values, codebooks, frames }, pattern);
        expect(undelayCodes(sequence, pattern, frames)).toEqual({ values, codebooks, frames });
      }),
    );
  });

  it("has a pad token exactly where no frame is", () => {
    fc.assert(
      fc.property(shapes, ({ channels, perChannel, frames }) => {
        const codebooks = channels * perChannel;
        const pattern = delayPattern(codebooks, channels, 64);
        const length = sequenceLength(frames, pattern);
        const sequence = delayCodes({ values: new Int32Array(codebooks * frames), codebooks, frames }, pattern);
        pattern.delays.forEach((delay, k) => {
          for (let position = 0; position < length; position++) {
            const isPad = sequence[k * length + position] === 64;
            expect(isPad).toBe(frameAt(position, delay, { first: 0, end: frames }) === undefined);
          }
        });
      }),
    );
  });

  it("leaves room for frames to come after a prompt", () => {
    const pattern = delayPattern(2, 1, 9);
    const prompt = { values: Int32Array.of(1, 2, 3, 4), codebooks: 2, frames: 2 };
    expect([...delayCodes(prompt, pattern, 3)]).toEqual([9, 1, 2, 9, 9, 9, 9, 3, 4, 9]);
    const filled = Int32Array.of(9, 1, 2, 5, 9, 9, 9, 3, 4, 6);
    expect([...undelayCodes(filled, pattern, 3).values]).toEqual([1, 2, 5, 3, 4, 6]);
    expect([...undelayCodes(filled, pattern, 3, 0, 1).values]).toEqual([1, 3]);
  });
});
