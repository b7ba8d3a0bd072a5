import { createHash } from "node:crypto";

import type { Audio } from "../audio/audio.js";
import { UsageError } from "../errors.js";
import type { Codes } from "../model/delay.js";
import type { TokenBatch } from "../text/tokenizer.js";
import type { CaptureIndex, Labels, StoredItem } from "./store-format.js";

/** A value, or how to get it: so that a long list of clips needs one of them in memory at a time. */
export type Loadable<Value> = Value | (() => Promise<Value>);

/** One clip to capture from. */
export interface CaptureItem {
  /** Its name in the capture; no other item has the same. */
  readonly id: string;
  /** What the model is told: a text, or the token ids of one. Without it, or null, it runs unconditionally. */
  readonly text?: string | TokenBatch | null | undefined;
  /** The codes to run teacher-forced. */
  readonly codes?: Loadable<Codes> | undefined;
  /** A sound: encoded and run teacher-forced, or continued when generating. */
  readonly audio?: Loadable<Audio> | undefined;
  /** Of the generation; by default it follows from the capture's seed and the id. */
  readonly seed?: number | undefined;
  /** Kept with its rows. A column has values of one type in all items; null or absent: none. */
  readonly labels?: Labels | undefined;
  /** The file that codes or sound come from, for the index. */
  readonly source?: string | undefined;
  /** Where it was read, for errors: "manifest.jsonl line 3". */
  readonly origin?: string | undefined;
}

/** How an error calls an item. */
export function nameOf({ id, origin }: CaptureItem): string {
  return origin === undefined ? `item "${id}"` : `${origin} ("${id}")`;
}

/** Loads what may be given late. */
export async function load<Value extends object>(value: Loadable<Value>): Promise<Value> {
  return typeof value === "function" ? value() : value;
}

/**
 * Checks a list of items as far as it can be without reading a file.
 *
 * @returns the label columns and the type of each
 * @throws {UsageError} if there are none, ids are empty or occur twice, an item has both codes and sound, or a label column
 *   changes its type: naming the items.
 */
export function checkItems(items: readonly CaptureItem[]): CaptureIndex["columns"] {
  if (items.length === 0) {
    throw new UsageError({ asked: "capture activations", found: "no items", todo: "Give at least one clip" });
  }
  const byId = new Map<string, CaptureItem>();
  for (const item of items) {
    const before = byId.get(item.id);
    if (item.id === "") refuse(item, "an empty id", "Give each item a name of its own");
    if (before) refuse(item, `the id of ${nameOf(before)} again`, "Give each item an id of its own");
    if (item.codes && item.audio) refuse(item, "both codes and audio", "Give one of them");
    byId.set(item.id, item);
  }
  return labelColumns(items);
}

function labelColumns(items: readonly CaptureItem[]): CaptureIndex["columns"] {
  const columns = new Map<string, { type: "string" | "number" | "boolean"; item: CaptureItem }>();
  for (const item of items) {
    for (const [column, label] of Object.entries(item.labels ?? {})) {
      if (label === null) continue;
      const type = typeof label;
      if (type !== "string" && type !== "boolean" && (type !== "number" || !Number.isFinite(label))) {
        refuse(
          item,
          `a ${String(label)} in the label column "${column}"`,
          "Labels are texts, finite numbers or booleans",
        );
      }
      const before = columns.get(column);
      if (!before) {
        columns.set(column, { type, item });
      } else if (before.type !== type) {
        const found = `a ${type} in the label column "${column}", where ${nameOf(before.item)} has a ${before.type}`;
        refuse(item, found, "Give a column one type in all items, or null");
      }
    }
  }
  return Object.fromEntries([...columns].map(([column, { type }]) => [column, type]));
}

function refuse(item: CaptureItem, found: string, todo: string): never {
  throw new UsageError({ asked: `capture ${nameOf(item)}`, found, todo });
}

/** What the index says of an item's text. */
export function storedText({ text }: CaptureItem): Pick<StoredItem, "text" | "tokens"> {
  if (text === undefined || text === null) return { text: null, tokens: null };
  if (typeof text === "string") return { text, tokens: null };
  const { ids, mask, batch, length } = text;
  const rows = Array.from({ length: batch }, (_, row) => {
    const start = row * length;
    return [...ids.subarray(start, start + length)].filter((_id, at) => mask[start + at] === 1);
  });
  return { text: null, tokens: rows };
}

/** A hash over everything that is known of the items before their files are read; the order counts. */
export function hashItems(items: readonly CaptureItem[]): string {
  const hash = createHash("sha256");
  for (const item of items) {
    const { id, seed = null, labels = {}, source = null } = item;
    const given = item.codes ? "codes" : item.audio ? "audio" : null;
    const inMemory = item.codes && typeof item.codes === "object" ? [...item.codes.values] : null;
    const fields = [id, storedText(item), seed, Object.entries(labels).toSorted(), source, given, inMemory];
    hash.update(`${JSON.stringify(fields)}\n`);
  }
  return hash.digest("hex");
}

/** The seed of an item that has none of its own: it depends on the capture's seed and the id, not on its place. */
export function seedOf({ id, seed }: CaptureItem, base: number): number {
  if (seed !== undefined) return seed;
  const digest = createHash("sha256").update(`${base}\n${id}`).digest();
  return digest.readUInt32LE(0);
}
