import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";

import { UsageError } from "../errors.js";

/** Steering that comes with a checkpoint: specs by name in its folder `vectors`, beside the vectors that they read. */

const FOLDER = "vectors";
const EXTENSION = ".json";

/**
 * The spec that is meant: the file of that path, or for a bare name, such as "trumpet", `vectors/trumpet.json` of the
 * checkpoint. A file of that very name in the working directory goes first.
 *
 * @param directory of the checkpoint
 * @throws {UsageError} for a bare name that the checkpoint has no spec of, listing those that it has.
 */
export async function locateSteering(given: string, directory: string): Promise<string> {
  const isPath = /[/\\]/.test(given) || given.endsWith(EXTENSION);
  if (isPath || (await isFile(given))) return given;
  const path = join(directory, FOLDER, `${given}${EXTENSION}`);
  if (await isFile(path)) return path;
  const names = await steeringNames(directory);
  throw new UsageError({
    asked: `steer by "${given}"`,
    found: names.length > 0 ? "no steering of that name with this model" : "a model that comes without steering",
    todo:
      names.length > 0
        ? `Choose one of ${names.join(", ")}, or give a spec: a JSON file`
        : "Give a spec: a JSON file, which `tonearm steer-spec` makes",
  });
}

/** The names of the specs that come with a checkpoint. */
export async function steeringNames(directory: string): Promise<readonly string[]> {
  const files = await readdir(join(directory, FOLDER)).catch(() => []); // most checkpoints have no such folder
  return files
    .filter((file) => file.endsWith(EXTENSION))
    .map((file) => file.slice(0, -EXTENSION.length))
    .toSorted();
}

async function isFile(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() ?? false;
}
