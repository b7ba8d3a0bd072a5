import { readFile } from "node:fs/promises";

import { CheckpointError } from "../errors.js";

/** A parsed JSON object. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** Whether a parsed JSON value is an object: neither null, list nor scalar. */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Reads a JSON file that holds one object, such as config.json.
 *
 * @throws {CheckpointError} if it is missing or unreadable, not UTF-8 JSON, or not an object.
 */
export async function readJsonFile(path: string): Promise<JsonObject> {
  const bytes = await readFile(path).catch((cause: unknown) => {
    throw failure(path, cause, "Check the path: a checkpoint's directory holds its JSON files");
  });
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw failure(path, cause, "Fetch the file again: it is not JSON");
  }
  if (isJsonObject(value)) return value;
  throw new CheckpointError({
    asked: `read ${path}`,
    found: "JSON that is not an object",
    todo: "Fetch the file again: it is not the one expected here",
  });
}

function failure(path: string, cause: unknown, todo: string): CheckpointError {
  const found = cause instanceof Error ? cause.message : String(cause);
  return new CheckpointError({ asked: `read ${path}`, found, todo, cause });
}
