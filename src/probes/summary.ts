import { readJsonFile, type JsonObject } from "../checkpoint/json.js";
import { CheckpointError } from "../errors.js";
import { chanceLevel, headline, type Interval, type Scores } from "./metrics.js";
import type { ProbeSweep } from "./sweep.js";

/** The results of a sweep as plain JSON: what reports are made of. */
export interface ProbeSummary {
  readonly format: typeof FORMAT;
  readonly tonearm: string;
  readonly model: string;
  readonly label: string;
  readonly target: "classes" | "value";
  readonly concepts: readonly string[];
  readonly estimator: string;
  readonly settings: Readonly<Record<string, string | number | boolean>>;
  readonly seed: number;
  readonly rows: number;
  readonly groups: number;
  readonly grouped: boolean;
  readonly folds: number;
  readonly scoring: string;
  readonly chance: number;
  readonly units: readonly UnitSummary[];
}

/** One site, or one head of it. */
export interface UnitSummary {
  readonly site: string;
  readonly layer: number | null;
  readonly head: number | null;
  readonly score: Interval;
  readonly control: Interval | null;
  readonly selectivity: number | null;
  readonly aboveChance: boolean;
  readonly measures: Scores;
}

const FORMAT = "tonearm probe results 1";
/** Of intervals of 95 %, one in 40 lies above the truth by luck. */
export const LUCK = 0.025;

/** Summarises a sweep. */
export function summarize({ target, rows, groups, grouped, folds, units, vectors }: ProbeSweep): ProbeSummary {
  const { tonearm, model, label, concepts, estimator, settings, seed, scoring } = vectors;
  return {
    format: FORMAT,
    ...{ tonearm, model, label, target: target.kind, concepts, estimator, settings, seed },
    ...{ rows, groups, grouped, folds, scoring },
    chance: chanceLevel(target),
    units: units.map((unit) => ({
      site: unit.site,
      layer: unit.layer ?? null,
      head: unit.head ?? null,
      score: headline(unit.scores),
      control: unit.control ? headline(unit.control) : null,
      selectivity: unit.selectivity ?? null,
      aboveChance: unit.aboveChance,
      measures: unit.scores,
    })),
  };
}

/** What the results say, in sentences: the best unit, what luck alone would give, and what to be careful of. */
export function verdict(summary: ProbeSummary): readonly string[] {
  const { units, scoring, chance, grouped, groups, rows, folds } = summary;
  const above = units.filter((unit) => unit.aboveChance);
  const best = units.reduce<UnitSummary | undefined>(
    (a, b) => (a && a.score.value >= b.score.value ? a : b),
    undefined,
  );
  const lines = [
    `${scoring}, held out over ${folds} folds of ${groups} groups (${rows} rows); chance is ${percent(chance)}.`,
  ];
  if (!best) return lines;
  const place = nameOf(best);
  lines.push(
    best.aboveChance
      ? `Best: ${place} with ${interval(best.score)}${best.selectivity === null ? "" : `, ${points(best.selectivity)} above shuffled labels`}.`
      : `No better than chance: the best, ${place}, reaches ${interval(best.score)}, which includes chance.`,
  );
  if (units.length > 1) {
    const lucky = units.length * LUCK;
    lines.push(
      `${above.length} of ${units.length} units lie above chance; of units that know nothing about ${lucky.toFixed(1)} would.` +
        (above.length > 0 && above.length <= 2 * lucky
          ? " That is no more than luck gives: no better than chance."
          : ""),
    );
  }
  if (!grouped)
    lines.push("Every row counted as independent: if some are windows of one track, name its column as --group.");
  return lines;
}

/** "blocks.3.attn.hook_z, head 5" */
export function nameOf({ site, head }: Pick<UnitSummary, "site" | "head">): string {
  return head === null ? site : `${site}, head ${head}`;
}

/** "71.2 % [64.0, 78.1]" */
export function interval({ value, low, high }: Interval): string {
  return `${percent(value)} [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`;
}

function percent(value: number): string {
  return `${(100 * value).toFixed(1)} %`;
}

function points(value: number): string {
  return `${(100 * value).toFixed(1)} points`;
}

/**
 * Reads results that `tonearm probe --results` wrote.
 *
 * @throws {CheckpointError} if the file is missing or holds something else.
 */
export async function readSummary(path: string): Promise<ProbeSummary> {
  const value = await readJsonFile(path);
  if (isSummary(value)) return value;
  throw new CheckpointError({
    asked: `read the probe results ${path}`,
    found: "JSON of another kind",
    todo: "Give a file that `tonearm probe --results` wrote",
  });
}

function isSummary(value: JsonObject): value is JsonObject & ProbeSummary {
  const { units, concepts, format } = value;
  return format === FORMAT && Array.isArray(units) && Array.isArray(concepts) && units.every(isUnit);
}

function isUnit(value: unknown): boolean {
  if (typeof value !== "object" || value === null || !("site" in value) || !("score" in value)) return false;
  const { site, score } = value;
  return typeof site === "string" && typeof score === "object" && score !== null && "value" in score && "low" in score;
}
