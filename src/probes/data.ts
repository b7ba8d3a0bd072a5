import { createHash } from "node:crypto";

import { UsageError } from "../errors.js";
import type { Matrix } from "./linear-algebra.js";

/**
 * Activations with labels: what probes are fitted on. Rows are the same at every site and in every column; the features
 * of one site are read at a time, so that a capture may be larger than memory.
 */

/** A value of a label column; null where it is missing. */
export type Label = string | number | boolean | null;

/** The activations of one site. */
export interface SiteFeatures {
  readonly site: string;
  readonly shape: readonly number[]; // of one row: [D], or [H, Dh] for a site with heads
  readonly read: () => Promise<Float32Array>; // [rows, ...shape]
}

/** Rows of activations at some sites of one model, and the columns that describe each row. */
export interface ActivationData {
  readonly model: string; // fingerprint of the weights
  readonly source?: string | undefined; // hash of how the activations were captured
  readonly rows: number;
  readonly sites: readonly SiteFeatures[];
  readonly columns: ReadonlyMap<string, readonly Label[]>;
  /** The column that tells clips apart, where the source knows one. */
  readonly clipColumn?: string | undefined;
}

/** A class for each row. */
export interface ClassTarget {
  readonly kind: "classes";
  readonly label: string;
  readonly names: readonly string[];
  readonly classes: Int32Array; // [rows], index into names
}

/** A number for each row. */
export interface ValueTarget {
  readonly kind: "value";
  readonly label: string;
  readonly values: Float64Array; // [rows]
}

export type Target = ClassTarget | ValueTarget;

/** Which rows belong together: all windows of a track. No group is ever on both sides of a split. */
export interface Groups {
  readonly names: readonly string[]; // sorted, so that nothing depends on the order of rows
  readonly ofRow: Int32Array; // [rows], index into names
}

/** What a probe is fitted on: rows at one unit (a site, or one head of it). */
export interface Training {
  readonly x: Matrix;
  readonly target: Target;
  readonly groups: Groups;
  readonly seed: number;
}

/**
 * Reads a label column as classes or as numbers.
 *
 * @param kind without it numbers are taken as numbers, and anything else as classes, in alphabetical order.
 * @throws {UsageError} if there is no such column, a label is missing or not a finite number, or all rows have one label.
 */
export function readTarget(data: ActivationData, column: string, kind?: Target["kind"]): Target {
  const labels = readColumn(data, column);
  const asked = `probe for "${column}"`;
  const missing = labels.flatMap((label, row) => (label === null || label === "" ? [row] : []));
  if (missing.length > 0) {
    const found = `${missing.length} of ${data.rows} rows without a label, the first at row ${missing[0] ?? 0}`;
    throw new UsageError({ asked, found, todo: "Label every row, or leave those rows out of the capture" });
  }
  const numbers = labels.every((label) => typeof label === "number");
  if (kind === "value" || (kind === undefined && numbers)) {
    const values = Float64Array.from(labels, (label) => (typeof label === "number" ? label : NaN));
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) {
      const found = `${JSON.stringify(labels[bad])} at row ${bad}, which is no finite number`;
      throw new UsageError({ asked, found, todo: "Give numbers, or probe for classes" });
    }
    const first = values[0] ?? 0;
    if (values.every((value) => value === first)) {
      throw new UsageError({
        asked,
        found: `the number ${first} in every row`,
        todo: "A probe needs values that differ",
      });
    }
    return { kind: "value", label: column, values };
  }
  const texts = labels.map(String);
  const names = [...new Set(texts)].toSorted(numbers ? (a, b) => Number(a) - Number(b) : undefined);
  if (names.length < 2) {
    throw new UsageError({
      asked,
      found: `one class only, "${names[0] ?? ""}", in ${data.rows} rows`,
      todo: "A probe tells classes apart: capture rows of two at least",
    });
  }
  const index = new Map(names.map((name, position) => [name, position]));
  return { kind: "classes", label: column, names, classes: Int32Array.from(texts, (text) => index.get(text) ?? 0) };
}

/** Reads a column that says which rows belong together; without one every row is a group of its own. */
export function readGroups(data: ActivationData, column: string | undefined): Groups {
  if (column === undefined)
    return groupsOf(Array.from({ length: data.rows }, (_, row) => String(row).padStart(9, "0")));
  const labels = readColumn(data, column);
  const row = labels.findIndex((label) => label === null);
  if (row >= 0) {
    throw new UsageError({
      asked: `group rows by "${column}"`,
      found: `no value at row ${row}`,
      todo: "Give every row the name of its track",
    });
  }
  return groupsOf(labels.map(String));
}

/** Groups from one name per row. */
export function groupsOf(names: readonly string[]): Groups {
  const sorted = [...new Set(names)].toSorted();
  const index = new Map(sorted.map((name, position) => [name, position]));
  return { names: sorted, ofRow: Int32Array.from(names, (name) => index.get(name) ?? 0) };
}

function readColumn(data: ActivationData, column: string): readonly Label[] {
  const labels = data.columns.get(column);
  if (labels === undefined) {
    const names = [...data.columns.keys()];
    throw new UsageError({
      asked: `read the column "${column}"`,
      found: names.length > 0 ? `only ${names.join(", ")}` : "a capture without columns",
      todo: "Name a column of the capture's manifest",
    });
  }
  if (labels.length !== data.rows) {
    throw new UsageError({
      asked: `read the column "${column}"`,
      found: `${labels.length} values for ${data.rows} rows`,
      todo: "Give one value per row",
    });
  }
  return labels;
}

/**
 * Reads a site's features and cuts them into units: one for each head, or one in all.
 *
 * @param normalize whether each row of a unit is divided by its Euclidean length.
 * @returns one matrix [rows, W] per unit, on the host.
 * @throws {UsageError} naming site and row if a value is not finite, or a row of zeros can't be normalised.
 */
export async function readUnits(features: SiteFeatures, rows: number, normalize: boolean): Promise<readonly Matrix[]> {
  const { site, shape } = features;
  const values = await features.read();
  const units = shape.length === 2 ? (shape[0] ?? 1) : 1;
  const width = shape.at(-1) ?? 1;
  if (shape.length < 1 || shape.length > 2 || values.length !== rows * units * width) {
    throw new UsageError({
      asked: `read the activations of ${site}`,
      found: `${values.length} values for ${rows} rows of shape [${shape.join(", ")}]`,
      todo: "Capture one vector, or one vector per head, for each row: with --reduce mean or last",
    });
  }
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) {
    throw new UsageError({
      asked: `read the activations of ${site}`,
      found: `${values[bad] ?? NaN} in row ${Math.floor(bad / (units * width))}`,
      todo: "Leave that clip out: its activations overflowed, or the file is damaged",
    });
  }
  return Array.from({ length: units }, (_, unit) => {
    const own = units === 1 ? Float32Array.from(values) : new Float32Array(rows * width);
    for (let row = 0; row < rows && units > 1; row++) {
      const start = (row * units + unit) * width;
      own.set(values.subarray(start, start + width), row * width);
    }
    const matrix = { rows, columns: width, values: own };
    if (normalize) normalizeRows(matrix, units > 1 ? `head ${unit} of ${site}` : site);
    return matrix;
  });
}

function normalizeRows({ rows, columns, values }: Matrix, where: string): void {
  for (let row = 0; row < rows; row++) {
    const own = values.subarray(row * columns, (row + 1) * columns);
    let squares = 0;
    for (const value of own) squares += value * value;
    if (squares === 0) {
      throw new UsageError({
        asked: `normalise the activations of ${where}`,
        found: `zeros in row ${row}`,
        todo: "Leave that row out, or probe without normalising",
      });
    }
    const scale = 1 / Math.sqrt(squares);
    for (let index = 0; index < columns; index++) own[index] = (own[index] ?? 0) * scale;
  }
}

/** The rows of a target. */
export function takeTarget(target: Target, rows: Int32Array): Target {
  return target.kind === "classes"
    ? { ...target, classes: rows.map((row) => target.classes[row] ?? 0) }
    : { ...target, values: Float64Array.from(rows, (row) => target.values[row] ?? 0) };
}

/** The rows of groups; names that have none are kept. */
export function takeGroups(groups: Groups, rows: Int32Array): Groups {
  return { names: groups.names, ofRow: rows.map((row) => groups.ofRow[row] ?? 0) };
}

/**
 * A target as columns of numbers, one after another [columns, rows]: the number itself; 1 where a row is of the second of
 * two classes; 1 where it is of the class, for each of several.
 */
export function targetColumns(target: Target): { readonly count: number; readonly values: Float64Array } {
  if (target.kind === "value") return { count: 1, values: target.values };
  const { names, classes } = target;
  const wanted = names.length === 2 ? [1] : names.map((_, index) => index);
  const values = new Float64Array(wanted.length * classes.length);
  wanted.forEach((index, column) => {
    classes.forEach((own, row) => {
      if (own === index) values[column * classes.length + row] = 1;
    });
  });
  return { count: wanted.length, values };
}

/** What a probe of a target leads towards: its classes, or larger values. */
export function conceptsOf(target: Target): readonly string[] {
  return target.kind === "classes" ? target.names : [target.label];
}

/** SHA-256 over model, capture settings, sites, labels and groups that a probe was fitted on, in order of rows. */
export function dataHash(data: ActivationData, target: Target, groups: Groups): string {
  const hash = createHash("sha256");
  hash.update(
    JSON.stringify([data.model, data.source ?? null, data.rows, data.sites.map(({ site, shape }) => [site, shape])]),
  );
  hash.update(JSON.stringify([target.label, target.kind === "classes" ? target.names : "number"]));
  hash.update(target.kind === "classes" ? target.classes : target.values);
  hash.update(JSON.stringify(groups.names)).update(groups.ofRow);
  return hash.digest("hex");
}

/**
 * One row for each group of rows: their mean.
 *
 * @param groups indices of rows, none empty; the labels of a new row are those of its first one
 */
export function averageRows(data: ActivationData, groups: readonly (readonly number[])[]): ActivationData {
  const average = (values: Float32Array): Float32Array => {
    const width = values.length / data.rows;
    const means = new Float32Array(groups.length * width);
    groups.forEach((rows, group) => {
      const sums = new Float64Array(width);
      for (const row of rows)
        for (let at = 0; at < width; at++) sums[at] = (sums[at] ?? 0) + (values[row * width + at] ?? NaN);
      means.set(
        sums.map((sum) => sum / rows.length),
        group * width,
      );
    });
    return means;
  };
  const first = groups.map(([row = NaN]) => row);
  const columns = [...data.columns].map(([name, labels]) => [name, first.map((row) => labels[row] ?? null)] as const);
  const sites = data.sites.map((features) => ({ ...features, read: async () => average(await features.read()) }));
  return { ...data, rows: groups.length, sites, columns: new Map(columns) };
}
