import type { Capture } from "../activations/store.js";
import { hashSettings, type CaptureRole } from "../activations/store-format.js";
import { SiteError, UsageError } from "../errors.js";
import type { ActivationData, Label } from "./data.js";
import { mergeProbeMoments, probeMoments, type MomentOptions, type ProbeMoments } from "./moments.js";

/** Captures as data of probes. */

/** Which part of a capture. */
export interface CaptureSelection {
  /** Names, or patterns in which `*` stands for anything but a dot; without it every site. */
  readonly sites?: readonly string[] | undefined;
  /** Rows with the text or without it; needed where the capture has both. */
  readonly role?: CaptureRole | undefined;
}

/** The column that every capture has: the id of the clip. */
export const CLIP_COLUMN = "item";

/**
 * The rows of a capture with their label columns. Features are read when a probe asks for them, one site at a time. Rows
 * that come from one clip are one group unless a column says otherwise.
 *
 * A label word in the text prompt reaches the rows with the text: a probe of those may read the prompt. Capture with a
 * neutral prompt, or choose the rows without text.
 *
 * @throws {UsageError} if the capture has no rows, or rows of both roles and none is chosen; {@link SiteError} if a pattern
 *   matches no site.
 */
export function fromCapture(capture: Capture, { sites: wanted, role }: CaptureSelection = {}): ActivationData {
  const asked = "probe a capture";
  const roles = [...new Set(capture.rows.map((row) => row.role))];
  if (capture.rowCount === 0) {
    throw new UsageError({
      asked,
      found: "sums instead of rows, or nothing at all",
      todo: "Capture with --reduce mean or last; held-out scores need rows",
    });
  }
  if (role === undefined && roles.length > 1) {
    throw new UsageError({
      asked,
      found: "rows with the text and rows without it",
      todo: "Choose one with --rows cond or --rows null: together they would be one clip twice",
    });
  }
  const rows = capture.rows.filter((row) => role === undefined || row.role === role);
  if (rows.length === 0) {
    throw new UsageError({
      asked,
      found: `no row of the role ${role ?? ""}`,
      todo: `Its rows are ${roles.join(", ")}`,
    });
  }
  const indices = rows.map(({ row }) => row);
  const columns = new Map<string, readonly Label[]>([[CLIP_COLUMN, rows.map(({ item }) => item)]]);
  for (const column of Object.keys(capture.columns)) {
    columns.set(
      column,
      rows.map(({ labels }) => labels[column] ?? null),
    );
  }
  return {
    model: capture.settings.model,
    source: hashSettings(capture.settings),
    rows: rows.length,
    sites: chosenSites(capture, wanted).map(({ site, shape }) => ({
      site,
      shape,
      read: async () => (await capture.read(site, { rows: indices })).values,
    })),
    columns,
    clipColumn: CLIP_COLUMN,
  };
}

function chosenSites(capture: Capture, wanted: readonly string[] | undefined): Capture["sites"] {
  if (wanted === undefined) return capture.sites;
  const patterns = wanted.map((pattern) => {
    const parts = pattern.split(/(\*\*|\*)/).map((part) => {
      if (part === "*") return "[^.]*";
      return part === "**" ? ".*" : part.replace(/[\\^$.+?()[\]{}|]/g, "\\$&");
    });
    return new RegExp(`^${parts.join("")}$`);
  });
  patterns.forEach((pattern, index) => {
    if (capture.sites.some(({ site }) => pattern.test(site))) return;
    throw new SiteError({
      asked: `probe ${wanted[index] ?? ""}`,
      found: `no such site in the capture, which has ${capture.sites.map(({ site }) => site).join(", ")}`,
      todo: "Choose among these, or capture the site",
    });
  });
  return capture.sites.filter(({ site }) => patterns.some((pattern) => pattern.test(site)));
}

/**
 * The running sums of a site over a capture read batch by batch: for {@link ProbeMoments} of more rows than fit in memory.
 *
 * @param y columns of target values over all rows of the capture: [c, rows]
 * @param size rows of a batch
 */
export async function streamMoments(
  capture: Pick<Capture, "batches" | "rowCount">,
  site: string,
  y: Float64Array,
  { size = 1024, ...options }: MomentOptions & { readonly size?: number } = {},
): Promise<ProbeMoments> {
  const columns = y.length / capture.rowCount;
  let sums: ProbeMoments | undefined;
  for await (const { values, rows, width, indices } of capture.batches(site, { size })) {
    const own = new Float64Array(columns * rows);
    for (let column = 0; column < columns; column++) {
      indices.forEach((row, index) => (own[column * rows + index] = y[column * capture.rowCount + row] ?? 0));
    }
    const next = await probeMoments({ rows, columns: width, values }, own, options);
    sums = sums ? mergeProbeMoments(sums, next) : next;
  }
  if (sums) return sums;
  throw new UsageError({ asked: `sum ${site} over a capture`, found: "no rows", todo: "Capture one clip at least" });
}
