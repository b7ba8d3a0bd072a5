import { nearest } from "../activations/select.js";
import { isJsonObject, type JsonObject } from "../checkpoint/json.js";
import { UsageError } from "../errors.js";

/** A range that a number must lie in; both ends belong to it unless `above` or `below` is used. */
export interface Range {
  readonly min?: number;
  readonly above?: number;
  readonly max?: number;
  readonly whole?: boolean;
}

/**
 * Reads one object of a steering spec key by key. Every error names the path of the field (`segments[1].until`), what
 * stands there and what may; `finish` refuses keys that nobody asked for.
 */
export class Fields {
  readonly #object: JsonObject;
  readonly #path: string;
  readonly #known = new Set<string>();

  /** @throws {UsageError} if `value` is not an object. */
  constructor(value: unknown, path: string) {
    if (!isJsonObject(value)) throw invalid(path || "the spec", show(value), "Give an object: { … }");
    this.#object = value;
    this.#path = path;
  }

  /** The path of a key, as errors show it. */
  path(key: string): string {
    return this.#path === "" ? key : `${this.#path}.${key}`;
  }

  /** Whether a key is there, with a value other than undefined. */
  has(key: string): boolean {
    this.#known.add(key);
    return this.#object[key] !== undefined;
  }

  /** The value of a key, unread. */
  value(key: string): unknown {
    this.#known.add(key);
    return this.#object[key];
  }

  /** @throws {UsageError} if it is no number of the range. */
  number(key: string, range: Range, fallback?: number): number {
    const value = this.value(key) ?? fallback;
    if (isInRange(value, range)) return value;
    throw this.invalid(key, show(value), `Give ${describeRange(range)}`);
  }

  /** @throws {UsageError} if it is not a text of at least one letter. */
  text(key: string, fallback?: string): string {
    const value = this.value(key) ?? fallback;
    if (typeof value === "string" && value !== "") return value;
    throw this.invalid(key, show(value), 'Give a text: "…"');
  }

  /** @throws {UsageError} if it is neither true nor false. */
  flag(key: string, fallback: boolean): boolean {
    const value = this.value(key) ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.invalid(key, show(value), "Give true or false");
  }

  /** @throws {UsageError} if it is none of the choices. */
  choice<Choice extends string>(key: string, choices: readonly Choice[], fallback?: Choice): Choice {
    const value = this.value(key) ?? fallback;
    const found = choices.find((choice) => choice === value);
    if (found !== undefined) return found;
    throw this.invalid(key, show(value), `Choose ${listed(choices.map((choice) => `"${choice}"`))}`);
  }

  /** @throws {UsageError} if it is neither a text nor a list of texts, or the list is empty. */
  texts(key: string): string | readonly string[] {
    const value = this.value(key);
    if (typeof value === "string" && value !== "") return value;
    const isList = Array.isArray(value) && value.length > 0;
    if (isList && value.every((item): item is string => typeof item === "string" && item !== "")) return value;
    throw this.invalid(key, show(value), 'Give a text, or a list of texts: ["…", "…"]');
  }

  /** The items of a list, each with its path. @throws {UsageError} if it is no list, or an empty one. */
  list(key: string): readonly { readonly value: unknown; readonly path: string }[] {
    const value = this.value(key);
    if (!Array.isArray(value) || value.length === 0) {
      throw this.invalid(key, show(value), "Give a list of at least one: [ … ]");
    }
    return value.map((item: unknown, index) => ({ value: item, path: `${this.path(key)}[${index}]` }));
  }

  /** @throws {UsageError} with the nearest names, if there is a key that was never asked for. */
  finish(): void {
    const unknown = Object.keys(this.#object).find((key) => !this.#known.has(key));
    if (unknown === undefined) return;
    const known = [...this.#known];
    throw this.invalid(unknown, "no such field", `Nearest: ${nearest(unknown, known).join(", ")}`);
  }

  /** An error about a key. */
  invalid(key: string, found: string, todo: string): UsageError {
    return invalid(this.path(key), found, todo);
  }
}

/** An error about one field of a spec. */
export function invalid(path: string, found: string, todo: string): UsageError {
  return new UsageError({ asked: "steer by this spec", found: `${path}: ${found}`, todo });
}

/** A value as errors show it. JSON has no NaN and no infinity, which a spec made in code may hold. */
export function show(value: unknown): string {
  if (value === undefined) return "missing";
  if (typeof value === "number") return String(value);
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}

function isInRange(value: unknown, { min, above, max, whole }: Range): value is number {
  if (typeof value !== "number" || !Number.isFinite(value) || (whole === true && !Number.isInteger(value)))
    return false;
  return value >= (min ?? -Infinity) && value > (above ?? -Infinity) && value <= (max ?? Infinity);
}

function describeRange({ min, above, max, whole }: Range): string {
  const low = above === undefined ? (min === undefined ? "" : ` from ${min}`) : ` above ${above}`;
  const high = max === undefined ? (low === "" ? "" : " up") : ` to ${max}`;
  return `a ${whole === true ? "whole" : "finite"} number${low}${above !== undefined && max === undefined ? "" : high}`;
}

function listed(names: readonly string[]): string {
  return names.length < 2 ? names.join() : `${names.slice(0, -1).join(", ")} or ${names.at(-1) ?? ""}`;
}
