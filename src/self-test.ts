import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { TINY_SHAPE, writeRandomCheckpoint } from "./model/random-checkpoint.js";
import { MusicGen } from "./musicgen.js";
import { useBackend } from "./runtime/backend.js";

/** What a backend made of the self-test. */
export interface SelfTestResult {
  readonly passed: boolean;
  readonly difference: number; // largest, of logits and audio, to the cpu backend
  readonly milliseconds: number;
  readonly failure?: string; // why it gave no numbers at all
}

const TOLERANCE = 1e-4;
const SEED = 1;

/**
 * Runs a tiny random model on a backend, text, decoder and codec, and compares logits, codes and sound with TF.js's
 * plain JavaScript backend.
 *
 * Leaves the backend that it tested active.
 */
export async function selfTest(backend: string): Promise<SelfTestResult> {
  const directory = await mkdtemp(join(tmpdir(), "tonearm-self-test-"));
  try {
    await writeRandomCheckpoint(directory, TINY_SHAPE, SEED);
    const expected = await runModel(directory, "cpu");
    const started = performance.now();
    const found = await runModel(directory, backend);
    const milliseconds = Math.round(performance.now() - started);
    const difference = Math.max(
      largestDifference(expected.logits, found.logits),
      largestDifference(expected.audio, found.audio),
    );
    return { passed: difference <= TOLERANCE, difference, milliseconds };
  } catch (error) {
    const failure = error instanceof Error ? error.message : String(error);
    return { passed: false, difference: Infinity, milliseconds: 0, failure };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function runModel(directory: string, backend: string): Promise<{ logits: Float32Array; audio: Float32Array }> {
  await useBackend(backend);
  const model = await MusicGen.load(directory, { backend });
  try {
    const frames = 12;
    const values = Int32Array.from({ length: 4 * frames }, (_, index) => (index * 7) % 64);
    const codes = { values, codebooks: 4, frames };
    const logits = await model.forward({ text: "a test", codes });
    try {
      const { channels } = await model.decodeCodes(codes);
      return { logits: Float32Array.from(await logits.data()), audio: channels[0] ?? new Float32Array() };
    } finally {
      logits.dispose();
    }
  } finally {
    await model.dispose();
  }
}

function largestDifference(expected: Float32Array, found: Float32Array): number {
  if (expected.length !== found.length) return Infinity;
  return expected.reduce((worst, value, index) => {
    const difference = Math.abs(value - (found[index] ?? NaN));
    return Number.isNaN(difference) ? Infinity : Math.max(worst, difference);
  }, 0);
}
