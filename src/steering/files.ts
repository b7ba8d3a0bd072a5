import { dirname, resolve } from "node:path";

import { readJsonFile } from "../checkpoint/json.js";
import { CheckpointError, UsageError } from "../errors.js";
import { readVectors, type SteeringVectors } from "../probes/vectors.js";
import { parseSpec, type SteeringSpec } from "./spec.js";

/** A spec and the vectors that it names. */
export interface SteeringFiles {
  readonly spec: SteeringSpec;
  readonly vectors: Readonly<Record<string, SteeringVectors>>;
}

/**
 * Reads a spec and the files of vectors that it names, whose paths are relative to the spec's folder.
 *
 * @throws {UsageError} with the field's path for what is wrong in the spec; {@link CheckpointError} for a file of vectors
 *   that is missing or damaged.
 */
export async function readSteering(path: string): Promise<SteeringFiles> {
  let json: unknown;
  try {
    json = await readJsonFile(path);
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    throw new UsageError({
      asked: `read the steering spec ${path}`,
      found: error.found,
      todo: "Give a JSON file; `tonearm steer-spec` prints one to start from",
      cause: error,
    });
  }
  const spec = parseSpec(json);
  return { spec, vectors: await readNamedVectors(spec, dirname(path)) };
}

/** The vectors that a spec names. @param folder that their paths are relative to */
export async function readNamedVectors(
  spec: SteeringSpec,
  folder: string,
): Promise<Readonly<Record<string, SteeringVectors>>> {
  const entries = Object.entries(spec.vectors);
  return Object.fromEntries(
    await Promise.all(entries.map(async ([name, file]) => [name, await readVectors(resolve(folder, file))] as const)),
  );
}
