import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { readEncodecConfig } from "../../src/encodec/config.js";
import { decoderContext, encoderContext, PIECE_FRAMES, piecesOf } from "../../src/encodec/pieces.js";
import { changedBlock } from "./fixture.js";

describe("piecesOf", () => {
  it("covers every frame once, in order, with the context there is, in pieces of similar length", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5_000 }), fc.nat(20), (frames, context) => {
        const pieces = piecesOf(frames, context);
        let done = 0;
        for (const { start, end, from, to } of pieces) {
          expect(start).toBe(done);
          expect(end).toBeGreaterThan(start);
          expect(from).toBe(Math.max(0, start - context));
          expect(to).toBe(Math.min(frames, end + context));
          expect(end - start).toBeLessThanOrEqual(PIECE_FRAMES);
          if (pieces.length > 1) expect(end - start).toBeGreaterThanOrEqual(Math.floor(PIECE_FRAMES / 2));
          done = end;
        }
        expect(done).toBe(frames);
      }),
    );
  });
});

describe("the context of a piece", () => {
  it("is three frames on either side in the official codec", async () => {
    const config = readEncodecConfig(
      await changedBlock({ upsampling_ratios: [8, 5, 4, 4], target_bandwidths: [2.2], codebook_size: 2048 }),
    );
    expect(encoderContext(config)).toBe(3);
    expect(decoderContext(config)).toBe(3);
  });
});
