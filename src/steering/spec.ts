import type { JsonObject } from "../checkpoint/json.js";
import { Fields, invalid, show } from "./fields.js";

/**
 * What a steering spec says: which directions move which activations, how, how strongly, on which rows and when. It is
 * JSON; every preset is one, and `parseSpec` fills in what is left out, so that the spec in a clip's metadata is complete.
 */

/** A steering spec with every default filled in. */
export interface SteeringSpec {
  readonly format: typeof FORMAT;
  /** Files of vectors by the name that the spec calls them, relative to the spec's own folder. */
  readonly vectors: Readonly<Record<string, string>>;
  /** In which unit all times are given. */
  readonly time: "seconds" | "frames";
  /** Whether positions of the audio prompt are steered too, where a segment covers them. */
  readonly prompt: boolean;
  /** Of the draws for `probability`. */
  readonly seed: number;
  /** One after another, without overlap. Between and after them nothing is steered. */
  readonly segments: readonly SegmentSpec[];
}

/** A stretch of the clip. */
export interface SegmentSpec {
  readonly from: number;
  /** Not included; null: to the end of the clip. */
  readonly until: number | null;
  /** What the model reads in this stretch, instead of the clip's own text. Null: the clip's own. */
  readonly text: string | null;
  /** Empty only where there is a text. */
  readonly steer: readonly InterventionSpec[];
}

/** How activations are moved; h is an activation, v a direction, v̂ = v / ‖v‖, s the strength. */
export type OperatorName =
  | "convex" // (h + s ‖h‖ v̂) / (1 + |s|); several at one site are one joint step
  | "add" // h + s v, v in one of four units
  | "clamp" // h + s (target − h · v̂) v̂
  | "ablate" // h − s (h · v̂) v̂
  | "replace" // (1 − s) h + s · mean of the concept
  | "span" // h + s P (goal − h), P onto the span of the differences of all concepts' means; goal: beyond their mean
  | "adjust"; // h + s (mean of the concept − mean of `minus`)

/** What 1 of an additive step's strength is. */
export type StrengthUnit =
  | "unit" // v̂
  | "raw" // v as the file has it
  | "norm" // v̂ times the mean norm of the site's activations
  | "deviation"; // v̂ times the standard deviation of the activations' projection on it

/** Which rows are steered. */
export type RowChoice = "cond" | "null" | "negative" | "all";

/**
 * How a strength is shared out among units, by their held-out scores. A unit is a head at a site with heads, else the
 * site.
 */
export type Weighting =
  | "uniform"
  | { readonly top: number } // the best `top` units of all sites together, each with weight 1
  | { readonly heads: readonly (readonly [layer: number, head: number])[] } // these, each with weight 1
  | { readonly power: number }; // all, with weight ((score − lowest) / (highest − lowest)) ** power

/**
 * A factor on the strength that goes from one value to another. The shapes but "cosine" are those of MusicRFM
 * (arXiv 2510.19127), over 1,500 frames there.
 */
export interface Ramp {
  readonly shape:
    | "linear"
    | "cosine" // half a wave: slow, fast, slow
    | "exponential"
    | "logistic" // from + (to − from) / (1 + exp(−7.5 (u − ½))): begins and ends within 2.3 % of the way
    | "sine"; // from + (to − from) (1 + sin 2πu) / 2: begins half way up, and swings on
  readonly from: number;
  readonly to: number;
  /**
   * How long it takes from the segment's start, then it stays where it is; of "sine" one swing, which is repeated. Null:
   * the whole segment.
   */
  readonly over: number | null;
}

/** Where a gate reads how much of a concept there is: the median of what the best units' probes say, 0 … 1. */
export interface MonitorSpec {
  readonly vectors: string;
  readonly concept: string;
  readonly sites: string | readonly string[];
  readonly top: number; // how many units
}

/** What sets the strength while the clip is made. */
export type GateSpec =
  | {
      /** Off while the reading C reaches the threshold, else times 1 − decay · C. */
      readonly kind: "monitor";
      readonly monitor: MonitorSpec;
      readonly threshold: number | "scores"; // "scores": median − standard deviation of the units' scores
      readonly decay: number;
    }
  | {
      /** A controller: clamp(kp e + ki Σe + kd Δe, 0, 1) of the error e = target − C. */
      readonly kind: "pid";
      readonly monitor: MonitorSpec;
      readonly target: number;
      readonly kp: number;
      readonly ki: number;
      readonly kd: number;
    };

/** One direction at work. */
export interface InterventionSpec {
  readonly vectors: string; // a name of the spec's `vectors`
  readonly concept: string;
  /**
   * Away from this concept: the direction is v̂ − v̂ of `minus`; with "adjust" its mean is taken off; with "span" the goal lies beyond
   * its mean rather than beyond the mean of all. Null: none.
   */
  readonly minus: string | null;
  /** Concepts whose directions are projected out of it first: of two directions the other one then has priority. */
  readonly without: readonly string[];
  /** Names or globs of sites. */
  readonly sites: string | readonly string[];
  /** Take direction and statistics from this site for all `sites`; null: each site has its own. */
  readonly vectorSite: string | null;
  readonly weighting: Weighting;
  readonly operator: OperatorName;
  readonly unit: StrengthUnit | null; // of "add"
  readonly target: number | "mean" | null; // of "clamp"; "mean": where the concept's own mean lies
  readonly beyond: number | null; // of "span": how far from the mean of `minus`, or of all, to the concept's; 1: to it
  readonly restoreNorm: boolean; // scale to the norm from before
  readonly strength: number;
  readonly ramp: Ramp | null;
  /** Every n-th generated position … */
  readonly every: number;
  /** … of which this is the first, counted from the one that decides the first new frame. */
  readonly offset: number;
  /** With which each position is steered at each site, drawn from the spec's seed. */
  readonly probability: number;
  readonly rows: RowChoice;
  readonly gate: GateSpec | null;
}

export const FORMAT = "tonearm steering 1";
export const OPERATORS: readonly OperatorName[] = ["convex", "add", "clamp", "ablate", "replace", "span", "adjust"];
const UNITS: readonly StrengthUnit[] = ["unit", "raw", "norm", "deviation"];
const ROWS: readonly RowChoice[] = ["cond", "null", "negative", "all"];
const SHAPES: readonly Ramp["shape"][] = ["linear", "cosine", "exponential", "logistic", "sine"];

/** Beyond it float32 loses the activation beside the step; music is long gone by then. */
export const MAX_STRENGTH = 1e4;

/**
 * Reads a spec and fills in its defaults. What has to do with the clip, the model and the vectors is checked when they
 * are known: by `steer` and when a run begins.
 *
 * @param json a parsed spec; a complete one comes back equal
 * @throws {UsageError} naming the path of the field, what stands there and what may.
 */
export function parseSpec(json: unknown): SteeringSpec {
  const fields = new Fields(json, "");
  fields.choice("format", [FORMAT], FORMAT);
  const vectors = parseVectors(fields);
  const names = Object.keys(vectors);
  const time = fields.choice("time", ["seconds", "frames"], "seconds");
  const spec: SteeringSpec = {
    format: FORMAT,
    vectors,
    time,
    prompt: fields.flag("prompt", false),
    seed: fields.number("seed", { min: -(2 ** 31), max: 2 ** 32 - 1, whole: true }, 0),
    segments: isEmptyList(fields.value("segments"))
      ? []
      : fields.list("segments").map(({ value, path }) => parseSegment(value, path, names, time)),
  };
  fields.finish();
  checkOrder(spec.segments);
  return spec;
}

/** The same spec with every strength replaced: what `--strength` does. @throws {UsageError} if it is out of range. */
export function withStrength(spec: SteeringSpec, strength: number): SteeringSpec {
  const segments = spec.segments.map((segment) => ({
    ...segment,
    steer: segment.steer.map((intervention) => ({ ...intervention, strength })),
  }));
  return parseSpec({ ...spec, segments });
}

/** The same spec with every intervention at other sites: what a sweep over layers does. */
export function withSites(spec: SteeringSpec, sites: string | readonly string[]): SteeringSpec {
  const segments = spec.segments.map((segment) => ({
    ...segment,
    steer: segment.steer.map((intervention) => ({ ...intervention, sites })),
  }));
  return parseSpec({ ...spec, segments });
}

function isEmptyList(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0; // a schedule without segments is a spec that steers nothing
}

function parseVectors(fields: Fields): Readonly<Record<string, string>> {
  const named = new Fields(fields.value("vectors"), "vectors");
  const names = Object.keys(fields.value("vectors") as JsonObject);
  if (names.length === 0)
    throw fields.invalid("vectors", "no vectors", 'Give at least one: { "genre": "genre.safetensors" }');
  return Object.fromEntries(names.map((name) => [name, named.text(name)]));
}

function parseSegment(
  value: unknown,
  path: string,
  vectors: readonly string[],
  time: SteeringSpec["time"],
): SegmentSpec {
  const fields = new Fields(value, path);
  const whole = time === "frames";
  const from = fields.number("from", { min: 0, whole }, 0);
  const until = (fields.value("until") ?? null) === null ? null : fields.number("until", { above: from, whole });
  const text = optionalText(fields, "text");
  const isTextOnly = text !== null && isEmptyList(fields.value("steer") ?? []);
  const steer = isTextOnly
    ? []
    : fields.list("steer").map((item) => parseIntervention(item.value, item.path, vectors, whole));
  fields.finish();
  return { from, until, text, steer };
}

function checkOrder(segments: readonly SegmentSpec[]): void {
  segments.forEach(({ from }, index) => {
    const before = segments[index - 1];
    if (before === undefined || (before.until !== null && before.until <= from)) return;
    const end = before.until === null ? "the end of the clip" : `${before.until}`;
    const todo =
      before.until === null
        ? `Give segments[${index - 1}].until a value of at most ${from}`
        : `Give a value from ${before.until} up, or end segments[${index - 1}] by ${from}`;
    throw invalid(`segments[${index}].from`, `${from}, while segments[${index - 1}] lasts until ${end}`, todo);
  });
}

function parseIntervention(
  value: unknown,
  path: string,
  vectors: readonly string[],
  wholeTimes: boolean,
): InterventionSpec {
  const fields = new Fields(value, path);
  const operator = fields.choice("operator", OPERATORS, "convex");
  const intervention: InterventionSpec = {
    vectors: fields.choice("vectors", vectors, vectors[0]),
    concept: fields.text("concept"),
    minus: optionalText(fields, "minus"),
    without: isEmptyList(fields.value("without") ?? []) ? [] : [fields.texts("without")].flat(),
    sites: fields.texts("sites"),
    vectorSite: optionalText(fields, "vectorSite"),
    weighting: parseWeighting(fields),
    operator,
    unit: parseUnit(fields, operator),
    target: parseTarget(fields, operator),
    beyond: parseBeyond(fields, operator),
    restoreNorm: fields.flag("restoreNorm", false),
    strength: fields.number("strength", strengthRange(operator)),
    ramp:
      (fields.value("ramp") ?? null) === null ? null : parseRamp(fields.value("ramp"), fields.path("ramp"), wholeTimes),
    every: fields.number("every", { min: 1, whole: true }, 1),
    offset: fields.number("offset", { min: 0, whole: true }, 0),
    probability: fields.number("probability", { above: 0, max: 1 }, 1),
    rows: fields.choice("rows", ROWS, "cond"),
    gate:
      (fields.value("gate") ?? null) === null ? null : parseGate(fields.value("gate"), fields.path("gate"), vectors),
  };
  fields.finish();
  checkConsistent(fields, intervention);
  return intervention;
}

/** Fields that contradict each other. */
function checkConsistent(fields: Fields, intervention: InterventionSpec): void {
  const { operator, minus, concept, without, offset, every, unit, restoreNorm } = intervention;
  if (operator === "adjust" && minus === null) {
    throw fields.invalid("minus", "missing", 'Name the concept whose mean "adjust" takes off');
  }
  if (operator === "replace" && minus !== null) {
    throw fields.invalid("minus", show(minus), '"replace" puts the mean of one concept: leave minus out');
  }
  if ((operator === "replace" || operator === "adjust" || operator === "span") && without.length > 0) {
    throw fields.invalid("without", show(without), `"${operator}" moves by means, not by a direction: leave it out`);
  }
  if (operator === "span" && restoreNorm) {
    throw fields.invalid(
      "restoreNorm",
      "true",
      '"span" puts h at a goal, which another length would move: leave it out',
    );
  }
  if (unit === "deviation" && (minus !== null || without.length > 0)) {
    throw fields.invalid(
      "unit",
      '"deviation" with a direction made of several',
      'The deviation along a combined direction was never measured: choose "unit" or "norm"',
    );
  }
  if (minus === concept) throw fields.invalid("minus", `${show(minus)}, the concept itself`, "Name another concept");
  if (without.includes(concept)) {
    throw fields.invalid("without", `${show(concept)}, the concept itself`, "Name other concepts only");
  }
  if (offset >= every) throw fields.invalid("offset", `${offset} with every ${every}`, `Give 0 … ${every - 1}`);
}

/** "replace", "span", "clamp" and "ablate" go from what is there (0) to what is asked (1). */
function strengthRange(operator: OperatorName): { readonly min: number; readonly max: number } {
  const partial = ["replace", "span", "clamp", "ablate"].includes(operator);
  return partial ? { min: 0, max: 1 } : { min: -MAX_STRENGTH, max: MAX_STRENGTH };
}

function optionalText(fields: Fields, key: string): string | null {
  return (fields.value(key) ?? null) === null ? null : fields.text(key);
}

function parseUnit(fields: Fields, operator: OperatorName): StrengthUnit | null {
  const given = fields.value("unit") ?? null;
  if (operator === "add") return fields.choice("unit", UNITS, "norm");
  if (given === null) return null;
  throw fields.invalid("unit", show(given), `Leave it out: only the operator "add" has a unit, "${operator}" has none`);
}

function parseTarget(fields: Fields, operator: OperatorName): number | "mean" | null {
  const given = fields.value("target") ?? null;
  if (operator === "clamp") return given === null || given === "mean" ? "mean" : fields.number("target", {});
  if (given === null) return null;
  throw fields.invalid("target", show(given), `Leave it out: only the operator "clamp" has a target`);
}

function parseBeyond(fields: Fields, operator: OperatorName): number | null {
  const given = fields.value("beyond") ?? null;
  if (operator === "span") return fields.number("beyond", { min: -MAX_STRENGTH, max: MAX_STRENGTH }, 1);
  if (given === null) return null;
  throw fields.invalid("beyond", show(given), `Leave it out: only the operator "span" goes beyond a mean`);
}

function parseWeighting(fields: Fields): Weighting {
  const given = fields.value("weighting") ?? "uniform";
  if (given === "uniform") return given;
  const inner = new Fields(given, fields.path("weighting"));
  const kinds = ["top", "heads", "power"].filter((kind) => inner.has(kind));
  if (kinds.length !== 1) {
    const todo = 'Give "uniform", { "top": K }, { "power": p } or { "heads": [[layer, head], …] }';
    throw fields.invalid("weighting", show(given), todo);
  }
  const weighting: Weighting = inner.has("top")
    ? { top: inner.number("top", { min: 1, whole: true }) }
    : inner.has("power")
      ? { power: inner.number("power", { above: 0 }) }
      : { heads: inner.list("heads").map(({ value, path }) => parseHead(value, path)) };
  inner.finish();
  return weighting;
}

function parseHead(value: unknown, path: string): readonly [number, number] {
  const [layer, head, ...more] = Array.isArray(value) ? (value as readonly unknown[]) : [];
  const isIndex = (index: unknown): index is number => Number.isInteger(index) && (index as number) >= 0;
  if (isIndex(layer) && isIndex(head) && more.length === 0) return [layer, head];
  throw invalid(path, show(value), "Give [layer, head], both whole numbers from 0 up");
}

function parseRamp(value: unknown, path: string, wholeTimes: boolean): Ramp {
  const fields = new Fields(value, path);
  const shape = fields.choice("shape", SHAPES, "linear");
  // An exponential never reaches 0 and never changes sign.
  const ends = shape === "exponential" ? { above: 0, max: MAX_STRENGTH } : { min: -MAX_STRENGTH, max: MAX_STRENGTH };
  const ramp: Ramp = {
    shape,
    from: fields.number("from", ends, shape === "exponential" ? 0.01 : 0),
    to: fields.number("to", ends, 1),
    over: (fields.value("over") ?? null) === null ? null : fields.number("over", { above: 0, whole: wholeTimes }),
  };
  fields.finish();
  return ramp;
}

function parseGate(value: unknown, path: string, vectors: readonly string[]): GateSpec {
  const fields = new Fields(value, path);
  const kind = fields.choice("kind", ["monitor", "pid"]);
  const monitor = parseMonitor(fields.value("monitor"), fields.path("monitor"), vectors);
  const fraction = { min: 0, max: 1 };
  const gain = { min: 0, max: 1e3 };
  const gate: GateSpec =
    kind === "pid"
      ? {
          kind,
          monitor,
          target: fields.number("target", fraction),
          kp: fields.number("kp", gain, 1),
          ki: fields.number("ki", gain, 0.05),
          kd: fields.number("kd", gain, 0.01),
        }
      : {
          kind,
          monitor,
          threshold:
            (fields.value("threshold") ?? "scores") === "scores" ? "scores" : fields.number("threshold", fraction),
          decay: fields.number("decay", fraction, 0),
        };
  fields.finish();
  return gate;
}

function parseMonitor(value: unknown, path: string, vectors: readonly string[]): MonitorSpec {
  const fields = new Fields(value, path);
  const monitor: MonitorSpec = {
    vectors: fields.choice("vectors", vectors, vectors[0]),
    concept: fields.text("concept"),
    sites: fields.texts("sites"),
    top: fields.number("top", { min: 1, whole: true }, 16),
  };
  fields.finish();
  return monitor;
}
