import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { dirname, extname, resolve } from "node:path";

import { writeWav } from "../audio/wav.js";
import { writeSafetensors } from "../checkpoint/safetensors.js";
import { CancelledError, UsageError } from "../errors.js";
import type { Codes } from "../model/delay.js";
import type { Clip } from "../model/pipeline.js";
import type { Generation } from "../musicgen.js";

/**
 * Makes sure, before any work starts, that files can be written to their places.
 *
 * @throws {UsageError} if a folder is missing or not writable, a path is a folder, or two outputs are one file.
 */
export async function checkWritable(paths: readonly string[]): Promise<void> {
  const seen = new Set<string>();
  for (const path of paths) {
    const refuse = (found: string, todo: string): never => {
      throw new UsageError({ asked: `write ${path}`, found, todo });
    };
    if (seen.has(resolve(path))) refuse("two outputs with one name", "Give each output its own name");
    seen.add(resolve(path));
    const existing = await stat(path).catch(() => undefined);
    if (existing?.isDirectory()) refuse("a folder of that name", "Give the name of a file");
    const folder = dirname(path);
    const parent = await stat(folder).catch(() => undefined);
    if (!parent?.isDirectory()) refuse(`no folder ${folder}`, "Make it first, or choose another place");
    await access(folder, constants.W_OK).catch(() =>
      refuse(`no permission to write into ${folder}`, "Choose another place"),
    );
  }
}

/** "out.wav" for the only clip, "out-1.wav", "out-2.wav" … for several. */
export function numberedPath(path: string, item: number, count: number): string {
  if (count === 1) return path;
  const extension = extname(path);
  return `${path.slice(0, path.length - extension.length)}-${item + 1}${extension}`;
}

/**
 * Writes the clips of a generation with their settings, and their codes if asked.
 *
 * @returns the paths written
 * @throws {CancelledError} if it was interrupted before a single frame was complete.
 */
export async function saveClips(
  generation: Generation,
  output: string,
  codesPath?: string,
  more: readonly Readonly<Record<string, unknown>>[] = [], // metadata of each clip, beside the settings
): Promise<string[]> {
  const { clips, settings } = generation;
  if (generation.codes.frames === 0) {
    throw new CancelledError({
      asked: `write ${output}`,
      found: "the generation was interrupted before a frame was complete",
      todo: "Nothing was written",
    });
  }
  const files: string[] = [];
  for (const { item, audio } of clips) {
    const path = numberedPath(output, item, clips.length);
    await writeWav(path, audio, { metadata: { ...settings, item, ...more[item] } });
    files.push(path);
  }
  if (codesPath !== undefined) {
    await writeCodes(codesPath, clips, settings.model);
    files.push(codesPath);
  }
  return files;
}

/** Writes codes as one tensor "codes", int32 [count, K, F]. */
export async function writeCodes(path: string, clips: readonly Pick<Clip, "codes">[], model: string): Promise<void> {
  const first: Codes | undefined = clips[0]?.codes;
  if (first === undefined) return;
  const values = new Int32Array(clips.length * first.values.length);
  clips.forEach(({ codes }, item) => values.set(codes.values, item * first.values.length));
  const shape = [clips.length, first.codebooks, first.frames];
  await writeSafetensors(path, [{ name: "codes", shape, dtype: "I32", values }], { model });
}
