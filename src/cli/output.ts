import { HubError, TonearmError } from "../errors.js";

/** What commands print: results on stdout, progress and errors on stderr. */

/** Prints a command's result: one JSON object, or lines for people. */
export function printResult(
  json: boolean,
  result: object,
  lines: readonly string[],
  to: NodeJS.WritableStream = process.stdout,
): void {
  to.write(json ? `${JSON.stringify(result, null, 2)}\n` : lines.map((line) => `${line}\n`).join(""));
}

/**
 * Prints an error and tells the exit code: 2 where the caller asked for something impossible, 130 where it was
 * interrupted, 1 otherwise. An error that
 * is not tonearm's own is a defect: its stack is shown.
 */
export function reportError(error: unknown, json: boolean): number {
  const known = error instanceof TonearmError;
  if (json) {
    const body = known
      ? {
          code: error.code,
          ...(error instanceof HubError ? { reason: error.reason } : {}),
          asked: error.asked,
          found: error.found,
          todo: error.todo,
        }
      : { code: "defect", message: String(error) };
    process.stderr.write(`${JSON.stringify({ error: body })}\n`);
  } else if (known) {
    process.stderr.write(`tonearm: ${error.message}\n`);
  } else {
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
    process.stderr.write(`tonearm: this is a defect in tonearm; please report it with these lines.\n${stack}\n`);
  }
  if (known && error.code === "cancelled") return 130;
  return known && (error.code === "usage" || error.code === "site") ? 2 : 1; // sites are named on the command line
}

const MINIMUM_MS = 1000; // what takes less than a second needs no progress line
const REDRAW_MS = 100;
const PLAIN_LINE_MS = 10_000; // where stderr is no terminal, a line now and then is enough

/** A line on stderr that says how far a task is and how long it will take. */
export class ProgressLine {
  readonly #enabled: boolean;
  readonly #stream: NodeJS.WriteStream;
  readonly #start: number;
  #stage = "";
  #stageStart: number;
  #lastDrawn = 0;
  #shown = false;

  /** @param enabled false with `--json` or `--quiet` */
  constructor(enabled: boolean, stream: NodeJS.WriteStream = process.stderr) {
    this.#enabled = enabled;
    this.#stream = stream;
    this.#start = performance.now();
    this.#stageStart = this.#start;
  }

  /** Shows that `done` of `total` steps of a stage are done. */
  update(stage: string, done: number, total: number): void {
    if (!this.#enabled) return;
    const now = performance.now();
    const entered = stage !== this.#stage;
    if (entered) {
      this.#stage = stage;
      this.#stageStart = now;
    }
    const pause = this.#stream.isTTY ? REDRAW_MS : PLAIN_LINE_MS;
    if (now - this.#start < MINIMUM_MS || (now - this.#lastDrawn < pause && !(entered && this.#stream.isTTY))) return;
    this.#lastDrawn = now;
    this.#shown = true;
    const percent = total > 0 ? Math.floor((100 * done) / total) : 0;
    const left = done > 0 ? `, ${duration(((now - this.#stageStart) * (total - done)) / done)} left` : "";
    const text = `${stage}: ${done}/${total} (${percent} %)${left}`;
    this.#stream.write(this.#stream.isTTY ? `\r\x1b[2K${text}` : `${text}\n`);
  }

  /** Clears the line. */
  finish(): void {
    if (this.#shown && this.#stream.isTTY) this.#stream.write("\r\x1b[2K");
    this.#shown = false;
  }
}

/** Milliseconds as people say them: "12 s", "3 min 5 s", "1 h 20 min". */
export function duration(milliseconds: number): string {
  const seconds = Math.ceil(milliseconds / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** Bytes as people say them, in powers of 1024. */
export function bytes(count: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const power = count < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(count) / 10));
  const value = count / 1024 ** power;
  return `${power === 0 ? value : value.toFixed(1)} ${units[power] ?? ""}`;
}
