import { createHash } from "node:crypto";

import { isJsonObject, type JsonObject } from "../checkpoint/json.js";
import { CheckpointError } from "../errors.js";

/**
 * What a capture looks like on disk: a folder of shards `activations-00000.safetensors` …, whose tensors are named by
 * site, and `index.json`, which says what their rows are.
 *
 * A shard is written under another name and renamed when it is complete, and carries the table of its own rows: a shard
 * that is there is whole, and tells which items are done. `index.json` is written before the first shard and again after
 * the last one; in between it says `"complete": false`.
 */

export const FORMAT = "tonearm-capture";
export const FORMAT_VERSION = 1;
export const INDEX_FILE = "index.json";

/** The value of a label column. Null: the item has none. */
export type Label = string | number | boolean | null;

/** Columns and their values. */
export type Labels = Readonly<Record<string, Label>>;

/** Whose row it is: with the text, or without. */
export type CaptureRole = "cond" | "null";

/** One clip. */
export interface StoredItem {
  readonly id: string;
  readonly text: string | null;
  readonly tokens: readonly (readonly number[])[] | null; // where token ids were given in place of a text
  readonly source: string | null; // the file that its codes or sound came from
  readonly frames: number; // F of the whole clip
  readonly promptFrames: number; // how many of them were given; all of them where it was teacher-forced
  readonly seed: number | null; // null: nothing was drawn
  readonly labels: Labels;
}

/**
 * A run of consecutive rows that one item left. With the reduction `none` it has a row for each position, otherwise one
 * row.
 */
export interface StoredRun {
  readonly item: string;
  readonly role: CaptureRole;
  readonly window: number | null; // its number within the clip, from 0
  readonly positions: readonly [first: number, last: number]; // absolute, 0 being the BOS column; both included
  readonly seconds: readonly [start: number, end: number]; // of the sound
  readonly first: number; // row, from the start of this capture
  readonly count: number;
}

/** A sum over the rows of a group of items: moments instead of rows. */
export interface StoredGroup {
  readonly role: CaptureRole;
  readonly label: Label | undefined; // of the column that was grouped by; undefined: all items in one
  readonly items: number;
  readonly count: number; // positions added up
}

/** A site and the shape of one of its rows. */
export interface StoredSite {
  readonly site: string;
  readonly shape: readonly number[];
}

/** One file. */
export interface StoredShard {
  readonly file: string;
  readonly rows: number;
  readonly backend: string; // that computed it
  readonly tonearm: string; // version
}

/** How positions became rows. */
export type Reduction =
  | "none"
  | "mean"
  | "last"
  | { readonly window: number; readonly hop: number } // seconds
  | { readonly moments: "variance" | "covariance"; readonly by: string | null };

/** Everything that decides what the rows are. Two captures can be one only if all of this is equal. */
export interface CaptureSettings {
  readonly model: string; // fingerprint of the weights
  readonly numerics: Readonly<Record<string, string>>; // how its decoder was stored and computed with
  readonly mode: "forced" | "generated";
  readonly rows: CaptureRole | "both";
  readonly sites: readonly string[];
  readonly reduction: Reduction;
  readonly dtype: "f32" | "f16";
  readonly frameRate: number;
  readonly seed: number | null; // null: teacher-forced
  readonly generation: JsonObject | null; // guidance and sampling; null: teacher-forced
  readonly steering: JsonObject | null; // the record of the intervention
  readonly hooks: readonly string[]; // names of the hooks that ran before the capture
  readonly provenance: JsonObject | null; // whatever the caller says of them
  readonly items: string; // hash over ids, texts, labels and sources of all items, whichever shard they are in
  readonly itemCount: number; // of all shards
  readonly shard: readonly [index: number, of: number];
}

/** `index.json`. */
export interface CaptureIndex {
  readonly format: typeof FORMAT;
  readonly version: number;
  readonly tonearm: string;
  readonly complete: boolean;
  readonly settings: CaptureSettings;
  readonly columns: Readonly<Record<string, "string" | "number" | "boolean">>; // of the labels
  readonly sites: readonly StoredSite[];
  readonly items: readonly StoredItem[];
  readonly rows: readonly StoredRun[];
  readonly groups: readonly StoredGroup[]; // of moments; otherwise empty
  readonly shards: readonly StoredShard[];
}

/** What a shard says of itself, as JSON in its metadata under {@link SHARD_KEY}. */
export interface ShardTable {
  readonly version: number;
  readonly settings: string; // hash
  readonly backend: string;
  readonly tonearm: string;
  readonly items: readonly StoredItem[];
  readonly rows: readonly StoredRun[];
  readonly groups: readonly StoredGroup[];
}

export const SHARD_KEY = "tonearm_capture";

/** A hash of settings, by which a shard knows whose it is. */
export function hashSettings(settings: CaptureSettings): string {
  return createHash("sha256").update(JSON.stringify(settings)).digest("hex");
}

/** "activations-00000.safetensors" */
export function shardName(index: number): string {
  return `activations-${String(index).padStart(5, "0")}.safetensors`;
}

/** Whether a file is a shard, or what a killed run left of one. */
export function shardKind(file: string): "shard" | "partial" | undefined {
  if (/^activations-\d{5,}\.safetensors$/.test(file)) return "shard";
  if (/^(activations-\d{5,}\.safetensors|index\.json)\.[0-9a-f]+\.partial$/.test(file)) return "partial";
  return undefined;
}

/** Whether rows were summed up instead of kept. */
export function isMoments(reduction: Reduction): reduction is Extract<Reduction, { moments: unknown }> {
  return typeof reduction === "object" && "moments" in reduction;
}

/**
 * Reads the text of an index.
 *
 * @param path named in errors
 * @throws {CheckpointError} if it is not a capture's, or of another version of the format.
 */
export function parseIndex(text: string, path: string): CaptureIndex {
  const value = parseObject(text, path);
  if (value["format"] !== FORMAT) throw damaged(path, "JSON that is not the index of a capture");
  checkVersion(value["version"], path);
  if (!isIndex(value)) throw damaged(path, "an index with parts missing");
  return value;
}

/**
 * Reads the table that a shard carries.
 *
 * @throws {CheckpointError} if there is none, or it is damaged.
 */
export function parseShardTable(metadata: Readonly<Record<string, string>>, path: string): ShardTable {
  const text = metadata[SHARD_KEY];
  if (text === undefined) throw damaged(path, "a file without a table of rows");
  const value = parseObject(text, path);
  checkVersion(value["version"], path);
  if (!isShardTable(value)) throw damaged(path, "a table of rows with parts missing");
  return value;
}

function isIndex(value: JsonObject): value is JsonObject & CaptureIndex {
  const { settings, columns, sites, shards, complete } = value;
  return (
    typeof complete === "boolean" &&
    isJsonObject(settings) &&
    isJsonObject(columns) &&
    isListOf(sites, (entry) => typeof entry["site"] === "string" && Array.isArray(entry["shape"])) &&
    isListOf(shards, (entry) => typeof entry["file"] === "string" && isCount(entry["rows"])) &&
    hasTables(value)
  );
}

function isShardTable(value: JsonObject): value is JsonObject & ShardTable {
  return typeof value["settings"] === "string" && hasTables(value);
}

function hasTables({ items, rows, groups }: JsonObject): boolean {
  return (
    isListOf(items, (entry) => typeof entry["id"] === "string" && isJsonObject(entry["labels"])) &&
    isListOf(
      rows,
      (entry) => typeof entry["item"] === "string" && isCount(entry["first"]) && isCount(entry["count"]),
    ) &&
    isListOf(groups, (entry) => typeof entry["role"] === "string" && isCount(entry["count"]))
  );
}

function isListOf(value: unknown, accepts: (entry: JsonObject) => boolean): boolean {
  return Array.isArray(value) && value.every((entry: unknown) => isJsonObject(entry) && accepts(entry));
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

function checkVersion(version: unknown, path: string): void {
  if (version === FORMAT_VERSION) return;
  throw new CheckpointError({
    asked: `read ${path}`,
    found: `version ${JSON.stringify(version)} of the format`,
    todo: `This tonearm reads version ${FORMAT_VERSION}: use the one that wrote it, or capture again`,
  });
}

function parseObject(text: string, path: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw damaged(path, "text that is not JSON", cause);
  }
  if (isJsonObject(value)) return value;
  throw damaged(path, "JSON that is not an object");
}

function damaged(path: string, found: string, cause?: unknown): CheckpointError {
  return new CheckpointError({
    asked: `read ${path}`,
    found,
    todo: "Give a folder that `tonearm capture` wrote",
    cause,
  });
}
