import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** A tensor in a fixture's expected.json: made by transformers 5.18.0, see tools/reference. */
export interface GoldenTensor {
  readonly shape: readonly number[];
  readonly data: readonly number[];
}

/** The directory of a fixture checkpoint. */
export function fixtureDirectory(name: string): string {
  return fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
}

/** A JSON file of the fixtures. */
export function fixtureJson(path: string): unknown {
  return JSON.parse(readFileSync(fixtureDirectory(path), "utf8"));
}

/** A reader of one fixture's expected.json that fails on a missing name. */
export function golden(name: string): (tensor: string) => GoldenTensor {
  const expected = fixtureJson(`${name}/expected.json`) as Record<string, unknown>;
  return (tensor) => {
    const found = expected[tensor];
    if (!isGoldenTensor(found)) throw new Error(`${name}/expected.json has no tensor "${tensor}"`);
    return found;
  };
}

/** What a greedy generation of the reference left: codes per codec call, each [1, B, C, F], and the audio [B, ch, N]. */
export interface GoldenGeneration {
  readonly codes: readonly GoldenTensor[];
  readonly audio: GoldenTensor;
}

/** A greedy generation in a fixture's expected.json. */
export function goldenGeneration(name: string, run: string): GoldenGeneration {
  const expected = fixtureJson(`${name}/expected.json`) as Record<string, GoldenGeneration>;
  const found = expected[run];
  if (!found) throw new Error(`${name}/expected.json has no generation "${run}"`);
  return found;
}

function isGoldenTensor(value: unknown): value is GoldenTensor {
  return typeof value === "object" && value !== null && "shape" in value && "data" in value;
}
