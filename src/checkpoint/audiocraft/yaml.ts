import { CheckpointError } from "../../errors.js";
import { isJsonObject, type JsonObject } from "../json.js";

/**
 * The part of YAML that OmegaConf writes: mappings and lists by indentation, scalars on one line or folded over several,
 * empty `{}` and `[]`, lists of scalars in brackets, and `${path}` for the value at another path. Anything else (tags,
 * anchors, documents) is refused by its line.
 */

const MAX_CHARACTERS = 2 ** 20;
const MAX_DEPTH = 50;
const REFERENCE = /^\$\{([\w.]+)\}$/;

interface Line {
  readonly number: number; // from 1
  readonly indent: number;
  readonly text: string;
}

/**
 * Reads one mapping.
 *
 * @param source named in errors
 * @throws {CheckpointError} naming the line that is not understood.
 */
export function parseYaml(text: string, source: string): JsonObject {
  if (text.length > MAX_CHARACTERS) throw refuse(source, `${text.length} characters of configuration`);
  const lines = text.split(/\r?\n/).flatMap((line, index): Line[] => {
    const content = line.trimStart();
    const isEmpty = content === "" || content.startsWith("#");
    return isEmpty ? [] : [{ number: index + 1, indent: line.length - content.length, text: content.trimEnd() }];
  });
  const value = new Reader(lines, source).whole();
  if (!isJsonObject(value)) throw refuse(source, "a configuration that is no mapping");
  return value;
}

class Reader {
  readonly #lines: readonly Line[];
  readonly #source: string;
  #at = 0;

  constructor(lines: readonly Line[], source: string) {
    this.#lines = lines;
    this.#source = source;
  }

  /** The one value of the text. */
  whole(): unknown {
    const value = this.block(0, 0);
    const rest = this.#lines[this.#at];
    if (rest) throw this.#unknown(rest);
    return value;
  }

  /** The mapping, list or scalar whose lines start at the next one, at least this far indented. */
  block(indent: number, depth: number): unknown {
    const first = this.#lines[this.#at];
    if (!first || first.indent < indent) return null;
    if (depth > MAX_DEPTH) throw this.#unknown(first);
    return isItem(first) ? this.#list(first.indent, depth) : this.#mapping(first.indent, depth);
  }

  #mapping(indent: number, depth: number): JsonObject {
    const entries = new Map<string, unknown>();
    for (let line = this.#lines[this.#at]; line?.indent === indent && !isItem(line); line = this.#lines[this.#at]) {
      const [key, rest] = this.#key(line);
      if (entries.has(key)) throw this.#unknown(line);
      this.#at++;
      entries.set(key, this.#value(rest, line, indent, depth));
    }
    this.#requireEnd(indent);
    return Object.fromEntries(entries);
  }

  #list(indent: number, depth: number): unknown[] {
    const items: unknown[] = [];
    for (let line = this.#lines[this.#at]; line?.indent === indent && isItem(line); line = this.#lines[this.#at]) {
      const rest = line.text.slice(1).trimStart();
      if (/^(- |[^'"[{]*?:( |$))/.test(rest)) throw this.#unknown(line); // lists of lists or mappings: none is here
      this.#at++;
      items.push(this.#value(rest, line, indent, depth));
    }
    return items;
  }

  /** What stands behind a key or a dash, and goes on in the lines below. */
  #value(rest: string, line: Line, indent: number, depth: number): unknown {
    const next = this.#lines[this.#at];
    if (rest === "") {
      const isListBelow = next !== undefined && isItem(next) && next.indent === indent && !isItem(line);
      return this.block(isListBelow ? indent : indent + 1, depth + 1);
    }
    if (/^[|>]/.test(rest)) return this.#literal(indent);
    let text = rest;
    for (let more = next; more && more.indent > indent; more = this.#lines[this.#at]) {
      if (!/^['"]/.test(rest) && /:( |$)/.test(more.text)) throw this.#unknown(more);
      text += ` ${more.text}`; // folded
      this.#at++;
    }
    return this.#scalar(text, line);
  }

  /** A text of several lines. How its lines end does not matter here. */
  #literal(indent: number): string {
    const parts: string[] = [];
    for (let line = this.#lines[this.#at]; line && line.indent > indent; line = this.#lines[this.#at]) {
      parts.push(line.text);
      this.#at++;
    }
    return parts.join("\n");
  }

  #key(line: Line): readonly [string, string] {
    const match = /^(?:'([^']*)'|"([^"\\]*)"|([^'"[\]{}&*!|>%@`][^:]*?)):(?: +(.*))?$/.exec(line.text);
    const key = match?.[1] ?? match?.[2] ?? match?.[3];
    if (key === undefined) throw this.#unknown(line);
    return [key, match?.[4] ?? ""];
  }

  #scalar(text: string, line: Line): unknown {
    if (text.startsWith("'")) {
      if (!/^'([^']|'')*'$/.test(text)) throw this.#unknown(line);
      return text.slice(1, -1).replaceAll("''", "'");
    }
    if (text.startsWith('"')) return this.#quoted(text, line);
    if (text === "{}") return {};
    if (text.startsWith("[")) {
      const inner = /^\[([^[\]{}'"]*)\]$/.exec(text)?.[1];
      if (inner === undefined) throw this.#unknown(line);
      return inner.trim() === "" ? [] : inner.split(",").map((item) => plain(item.trim()));
    }
    if (/^[{}\]&*!%@`]/.test(text)) throw this.#unknown(line);
    return plain(text);
  }

  #quoted(text: string, line: Line): string {
    try {
      const value: unknown = JSON.parse(text.replaceAll("\\ ", " "));
      if (typeof value === "string") return value;
    } catch {
      // escapes that JSON lacks
    }
    throw this.#unknown(line);
  }

  #requireEnd(indent: number): void {
    const line = this.#lines[this.#at];
    if (line && line.indent > indent) throw this.#unknown(line);
  }

  #unknown({ number, text }: Line): CheckpointError {
    return refuse(this.#source, `line ${number} of its configuration, ${JSON.stringify(text.slice(0, 80))}`);
  }
}

function isItem({ text }: Line): boolean {
  return text === "-" || text.startsWith("- ");
}

/** A scalar without quotes, as PyYAML reads it. */
function plain(text: string): unknown {
  if (/^(null|~)$/i.test(text)) return null;
  if (/^(true|yes|on)$/i.test(text)) return true;
  if (/^(false|no|off)$/i.test(text)) return false;
  if (/^[-+]?\d+$/.test(text) || /^[-+]?(\d+\.\d*|\.\d+)(e[-+]?\d+)?$/i.test(text)) return Number(text);
  return text;
}

/**
 * The value at a path, references followed.
 *
 * @param path keys joined by points
 * @returns undefined if there is none
 * @throws {CheckpointError} if references lead nowhere or in circles.
 */
export function yamlValue(root: JsonObject, path: string, source: string): unknown {
  let value = lookUp(root, path);
  for (let hops = 0; typeof value === "string"; hops++) {
    const target = REFERENCE.exec(value)?.[1];
    if (target === undefined) return value;
    if (hops > 10) throw refuse(source, `${path} that refers to itself`);
    value = lookUp(root, target);
    if (value === undefined) throw refuse(source, `${path} that refers to ${target}, which is not there`);
  }
  return value;
}

function lookUp(root: JsonObject, path: string): unknown {
  let value: unknown = root;
  for (const key of path.split(".")) {
    if (!isJsonObject(value) || !Object.hasOwn(value, key)) return undefined;
    value = value[key];
  }
  return value;
}

function refuse(source: string, found: string): CheckpointError {
  return new CheckpointError({
    asked: `read the configuration in ${source}`,
    found,
    todo: "Give a file that audiocraft exported",
  });
}
