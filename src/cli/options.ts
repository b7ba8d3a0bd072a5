import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { Option } from "commander";

import { locateModel } from "../checkpoint/hub/cache.js";
import { UsageError } from "../errors.js";
import { BACKENDS } from "../runtime/backend.js";
import { PRECISIONS } from "../runtime/linear.js";

/** Options that several commands share, and how their values are read. */

/** `-m DIR` or `-m owner/name`; without it the checkpoint that comes with the package. */
export function modelOption(): Option {
  return new Option(
    "-m, --model <model>",
    "checkpoint directory, or owner/name of a fetched model (default: the embedded checkpoint)",
  );
}

/** `--backend NAME` */
export function backendOption(): Option {
  const names = BACKENDS.join(", ");
  return new Option("--backend <name>", `tensor backend: ${names} (default: the first that is usable)`);
}

/** `--compute PRECISION` */
export function computeOption(): Option {
  return new Option(
    "--compute <precision>",
    "what the native backend rounds factors of long passes to (default: f32, nothing); bf16 is not exact",
  ).choices(PRECISIONS);
}

/** `--json` */
export function jsonOption(): Option {
  return new Option("--json", "print one JSON object instead of lines for people");
}

/**
 * The directory to load: the one given, that of the model named, or the embedded checkpoint.
 *
 * @throws {UsageError} if none is given and none is embedded; {@link HubError} if a model was not fetched.
 */
export function modelDirectory(given: string | undefined): string {
  if (given !== undefined) return locateModel(given);
  const embedded = fileURLToPath(new URL("../../weights/demo", import.meta.url));
  if (existsSync(embedded)) return embedded;
  throw new UsageError({
    asked: "use the embedded checkpoint",
    found: "this version of tonearm comes without one",
    todo: "Give a checkpoint directory with -m, or run `tonearm demo`, which makes one of random weights",
  });
}

/** Reads numbers separated by commas, or a single one; for commander. @throws {UsageError} as {@link parseNumber}. */
export function parseNumbers(name: string): (text: string) => number | readonly number[] {
  return (text) => (text.includes(",") ? text.split(",").map(parseNumber(name)) : parseNumber(name)(text));
}

/**
 * Reads a number from the command line; for commander.
 *
 * @throws {UsageError} if it is not one. Its range is the library's to check.
 */
export function parseNumber(name: string): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== "" && Number.isFinite(value)) return value;
    throw new UsageError({ asked: `${name} ${text}`, found: "not a number", todo: `Give ${name} as a number` });
  };
}
