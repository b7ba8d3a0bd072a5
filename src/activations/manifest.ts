import { readFile, stat } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";

import { readWav } from "../audio/wav.js";
import { isJsonObject, type JsonObject } from "../checkpoint/json.js";
import { SafetensorsFile } from "../checkpoint/safetensors.js";
import { UsageError } from "../errors.js";
import type { Codes } from "../model/delay.js";
import { checkItems, type CaptureItem } from "./capture-item.js";
import type { Label } from "./store-format.js";

/**
 * Manifests: one JSON object a line, `{"id": "clip-1", "text": "slow jazz", "audio": "clips/1.wav", "genre": "jazz"}`.
 *
 * | key | |
 * |---|---|
 * | `id` | its name, not used twice |
 * | `text` | optional; absent or null: unconditional |
 * | `audio` | optional: a WAV file, relative to the manifest |
 * | `codes` | optional: a safetensors file with a tensor `codes`, or `[file, index]` where it holds several clips |
 * | `seed` | optional: of the generation |
 * | any other | a label: text, number, boolean or null, of one type in all lines |
 */

const KEYS = ["id", "text", "audio", "codes", "seed"];

/**
 * Reads a manifest and checks it in full, except that the files it names are only looked for.
 *
 * @returns items in the order of the lines; sounds and codes are read when they are needed.
 * @throws {UsageError} naming the line: if it is not JSON, an id occurs twice, a file is missing, a value has a wrong type,
 *   or a label column changes its type; also if there is no line at all.
 */
export async function readManifest(path: string): Promise<readonly CaptureItem[]> {
  const bytes = await readFile(path).catch((cause: unknown) => {
    const found = cause instanceof Error ? cause.message : String(cause);
    throw new UsageError({ asked: `read the manifest ${path}`, found, todo: "Check the path", cause });
  });
  const items: CaptureItem[] = [];
  for (const [index, line] of decode(bytes, path).split("\n").entries()) {
    if (line.trim() === "") continue;
    items.push(parseLine(line, new Line(path, index + 1)));
  }
  if (items.length === 0) {
    throw new UsageError({
      asked: `read the manifest ${path}`,
      found: "no items",
      todo: 'Write one JSON object a line, such as {"id": "clip-1", "text": "slow jazz", "codes": "1.safetensors"}',
    });
  }
  checkItems(items);
  await requireFiles(items, path);
  return items;
}

/** A place in a manifest. */
class Line {
  readonly place: string;
  readonly directory: string;

  constructor(path: string, number: number) {
    this.place = `${basename(path)} line ${number}`;
    this.directory = dirname(path);
  }

  refuse(found: string, todo: string, cause?: unknown): never {
    throw new UsageError({ asked: `read ${this.place}`, found, todo, cause });
  }
}

function decode(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    const todo = "Save the manifest as UTF-8";
    throw new UsageError({ asked: `read the manifest ${path}`, found: "bytes that are not UTF-8", todo, cause });
  }
}

function parseLine(text: string, line: Line): CaptureItem {
  const entry = parseObject(text, line);
  const { id, text: prompt = null, audio, codes, seed } = entry;
  if (typeof id !== "string" || id === "") line.refuse(`id ${show(id)}`, "Give each line an id, a text in quotes");
  if (prompt !== null && typeof prompt !== "string") line.refuse(`text ${show(prompt)}`, "Give a text or null");
  if (seed !== undefined && !Number.isSafeInteger(seed)) line.refuse(`seed ${show(seed)}`, "Give a whole number");
  const labels: [string, Label][] = Object.entries(entry)
    .filter(([key]) => !KEYS.includes(key))
    .map(([column, label]) => [column, checkLabel(column, label, line)]);
  return {
    id,
    text: prompt,
    ...readSound(audio, line),
    ...readCodesEntry(codes, line),
    ...(seed === undefined ? {} : { seed: Number(seed) }),
    labels: Object.fromEntries(labels),
    origin: line.place,
  };
}

function parseObject(text: string, line: Line): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const found = `text that is not JSON (${cause instanceof Error ? cause.message : String(cause)})`;
    line.refuse(found, "Write one JSON object a line, with nothing after it", cause);
  }
  if (isJsonObject(value)) return value;
  return line.refuse(`JSON that is not an object: ${show(value)}`, 'Write an object such as {"id": "clip-1"}');
}

function checkLabel(column: string, label: unknown, line: Line): Label {
  if (label === null || typeof label === "string" || typeof label === "number" || typeof label === "boolean") {
    return label;
  }
  return line.refuse(`the label ${show(column)} is ${show(label)}`, "Labels are texts, numbers, booleans or null");
}

function readSound(audio: unknown, line: Line): Pick<CaptureItem, "audio" | "source"> {
  if (audio === undefined || audio === null) return {};
  if (typeof audio !== "string") line.refuse(`audio ${show(audio)}`, "Give the path of a WAV file");
  const path = resolve(line.directory, audio);
  return { audio: () => readWav(path), source: audio };
}

function readCodesEntry(codes: unknown, line: Line): Pick<CaptureItem, "codes" | "source"> {
  if (codes === undefined || codes === null) return {};
  const [file, index] = Array.isArray(codes) ? (codes as readonly unknown[]) : [codes, undefined];
  const isIndex = index === undefined || (Number.isSafeInteger(index) && Number(index) >= 0);
  if (typeof file !== "string" || !isIndex || (Array.isArray(codes) && codes.length !== 2)) {
    line.refuse(`codes ${show(codes)}`, 'Give "file.safetensors", or ["file.safetensors", index] with an index from 0');
  }
  const path = resolve(line.directory, file);
  const clip = index === undefined ? undefined : Number(index);
  return { codes: () => readClip(path, clip), source: clip === undefined ? file : `${file}[${clip}]` };
}

/** Names every file that is missing, with its line. */
async function requireFiles(items: readonly CaptureItem[], path: string): Promise<void> {
  const missing: string[] = [];
  for (const { source, origin } of items) {
    if (source === undefined) continue;
    const file = resolve(dirname(path), source.replace(/\[\d+\]$/, ""));
    const found = await stat(file).catch(() => undefined);
    if (!found?.isFile()) missing.push(`${source} (${origin ?? ""})`);
  }
  if (missing.length === 0) return;
  throw new UsageError({
    asked: `read the files of ${path}`,
    found: `${missing.length} missing: ${missing.slice(0, SHOWN).join(", ")}${missing.length > SHOWN ? " …" : ""}`,
    todo: "Paths are relative to the manifest's folder: put the files there, or take these lines out",
  });
}

const SHOWN = 5;

/**
 * Reads all clips of a codes file, as `tonearm encode` and `tonearm generate --codes` write them.
 *
 * @throws {UsageError} if it has no tensor `codes` of shape [count, K, F] or [K, F]; {@link CheckpointError} if it can't be
 *   read.
 */
export async function readCodesFile(path: string): Promise<readonly Codes[]> {
  const file = await SafetensorsFile.open(path);
  try {
    const shape = file.tensors.get("codes")?.shape;
    const [count, codebooks, frames] = shape?.length === 2 ? [1, ...shape] : (shape ?? []);
    if (count === undefined || codebooks === undefined || frames === undefined || (shape?.length ?? 0) > 3) {
      throw new UsageError({
        asked: `read codes from ${path}`,
        found: shape ? `"codes" of shape [${shape.join(",")}]` : 'no tensor "codes"',
        todo: "Give a file that `tonearm encode` or `tonearm generate --codes` wrote",
      });
    }
    const values = await file.integers("codes"); // [count, K, F]
    const size = codebooks * frames;
    return Array.from({ length: count }, (_, clip) => ({
      values: values.slice(clip * size, (clip + 1) * size),
      codebooks,
      frames,
    }));
  } finally {
    await file.close();
  }
}

/** One clip of a codes file: the one of that index, or the only one. */
async function readClip(path: string, index: number | undefined): Promise<Codes> {
  const clips = await readCodesFile(path);
  const [only] = clips;
  if (index === undefined && clips.length === 1 && only) return only;
  const clip = index === undefined ? undefined : clips[index];
  if (clip) return clip;
  throw new UsageError({
    asked: index === undefined ? `read the clip in ${path}` : `read clip ${index} of ${path}`,
    found: `${clips.length} clips`,
    todo: `Give an index from 0 to ${clips.length - 1}: ["${basename(path)}", 0]`,
  });
}

function show(value: unknown): string {
  return value === undefined ? "missing" : JSON.stringify(value).slice(0, 80);
}
