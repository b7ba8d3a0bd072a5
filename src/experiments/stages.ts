import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";

import type { JsonObject } from "../checkpoint/json.js";
import { UsageError } from "../errors.js";

/** A long experiment in stages: each is run once and its result kept as a file, so that a rerun goes on where it ended. */
export class Stages {
  readonly folder: string;
  /** Names of the stages that were run now, and of those whose results were there. */
  readonly made: string[] = [];
  readonly reused: string[] = [];
  readonly #onStage: ((name: string) => void) | undefined;

  private constructor(folder: string, onStage: ((name: string) => void) | undefined) {
    this.folder = folder;
    this.#onStage = onStage;
  }

  /**
   * Opens a folder, which is made if need be.
   *
   * @param settings what decides the results; kept in settings.json
   * @throws {UsageError} if the folder holds an experiment of other settings, naming those that differ.
   */
  static async open(folder: string, settings: JsonObject, onStage?: (name: string) => void): Promise<Stages> {
    await mkdir(join(folder, "stages"), { recursive: true });
    const path = join(folder, "settings.json");
    const before = await readFile(path, "utf8").catch(() => undefined);
    if (before === undefined) {
      await writeWhole(path, `${JSON.stringify(settings, null, 2)}\n`);
      return new Stages(folder, onStage);
    }
    const known = JSON.parse(before) as JsonObject;
    const keys = [...new Set([...Object.keys(known), ...Object.keys(settings)])];
    const other = keys.filter((key) => JSON.stringify(known[key]) !== JSON.stringify(settings[key]));
    if (other.length > 0) {
      const shown = other.map((key) => `${key} ${brief(known[key])}, now ${brief(settings[key])}`);
      throw new UsageError({
        asked: `go on with the experiment in ${folder}`,
        found: `other settings: ${shown.join("; ")}`,
        todo: "Give the same options and the same model, or another folder",
      });
    }
    return new Stages(folder, onStage);
  }

  /** The result of a stage: what an earlier run left, or what is made now and written. It must survive JSON. */
  async once<Result extends object>(name: string, make: () => Promise<Result>): Promise<Result> {
    const path = join(this.folder, "stages", `${name}.json`);
    const before = await readFile(path, "utf8").catch(() => undefined);
    if (before !== undefined) {
      this.reused.push(name);
      return JSON.parse(before) as Result;
    }
    this.#onStage?.(name);
    const result = await make();
    await mkdir(dirname(path), { recursive: true });
    await writeWhole(path, `${JSON.stringify(result)}\n`);
    this.made.push(name);
    return result;
  }
}

const LONGEST_SHOWN = 80; // characters

/** A setting for a message: of one that is long, its beginning. */
function brief(value: unknown): string {
  const text = value === undefined ? "nothing" : JSON.stringify(value);
  return text.length <= LONGEST_SHOWN ? text : `${text.slice(0, LONGEST_SHOWN)}… (${text.length} characters)`;
}

/** A file appears under its name only when it is complete. */
async function writeWhole(path: string, text: string): Promise<void> {
  await writeFile(`${path}.part`, text);
  await rename(`${path}.part`, path);
}
