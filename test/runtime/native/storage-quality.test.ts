import { expect, it } from "vitest";

import { MusicGen } from "../../../src/musicgen.js";
import type { WeightStorage } from "../../../src/runtime/linear.js";
import { fixtureDirectory } from "../../support/fixtures.js";
import { describeNative, distributions, divergence, type Logits } from "./support.js";

/**
 * What each weight storage costs on fixed codes of the fixture model: the divergence of its next-token distributions from
 * those of float32, and the change of their cross-entropy. Bounds are twice what was measured with AVX2.
 *
 * The sizes are as they should be: rounding to 8 bits per output errs by 0.6 % of a weight's deviation, which by the last
 * layer is 1 to 2 % of the logits', and half that squared is 1e-4; 4 bits err 14 times as much.
 */

const FRAMES = 24;
const CODEBOOKS = 4;

async function run(weights: WeightStorage, codebookSize: number): Promise<Logits> {
  const model = await MusicGen.load(fixtureDirectory("mono"), { backend: "native", weights });
  const values = Int32Array.from({ length: CODEBOOKS * FRAMES }, (_, index) => (index * 7919) % codebookSize);
  const ids = Int32Array.of(3, 5, 1);
  const text = { ids, mask: Int32Array.of(1, 1, 1), batch: 1, length: 3 };
  const logits = await model.forward({ text, codes: { values, codebooks: CODEBOOKS, frames: FRAMES } });
  const result = { logits: await logits.data<"float32">(), entries: logits.shape[3] ?? 0 };
  logits.dispose();
  await model.dispose();
  return result;
}

/** Mean −log q of one fixed entry per position. */
function crossEntropy(model: Logits): number {
  const rows = distributions(model);
  return -rows.reduce((sum, row, position) => sum + (row[(position * 31) % row.length] ?? NaN), 0) / rows.length;
}

describeNative("the cost of a weight storage, against float32", () => {
  it("is nothing at all where 16 bits are exact or 32 are kept", async () => {
    const [exact, wide] = [await run("exact", 64), await run("f32", 64)];
    expect(exact.logits).toBeAllClose(wide.logits, { within: 2e-6 });
  });

  it.each([
    ["f16", 2.6e-7, 9e-5],
    ["int8", 2e-4, 4e-3],
    ["int4", 4.5e-2, 5.4e-2],
  ] as const)("stays within its bound for %s", async (storage, largestDivergence, largestChange) => {
    const reference = await run("f32", 64);
    const stored = await run(storage, 64);
    const [cost, change] = [divergence(reference, stored), crossEntropy(stored) - crossEntropy(reference)];
    expect(cost).toBeGreaterThanOrEqual(-1e-9);
    expect(cost).toBeLessThan(largestDivergence);
    expect(Math.abs(change)).toBeLessThan(largestChange);
  });
});
