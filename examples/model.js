import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { TINY_SHAPE, writeRandomCheckpoint } from "tonearm";

/**
 * The checkpoint that an example runs on: the one given, else the one that comes with the package, else a tiny one of
 * random weights, which shows that everything runs and sounds like noise.
 *
 * @param {string | undefined} given
 * @returns {Promise<string>}
 */
export async function modelDirectory(given) {
  if (given !== undefined) return given;
  const embedded = fileURLToPath(new URL("../weights/demo", import.meta.url));
  if (existsSync(join(embedded, "config.json"))) return embedded;
  const directory = join(tmpdir(), "tonearm-example-model");
  if (!existsSync(join(directory, "config.json"))) await writeRandomCheckpoint(directory, TINY_SHAPE, 0);
  return directory;
}
