import type * as tf from "@tensorflow/tfjs-core";

import { fitsHalf } from "../checkpoint/float16.js";
import { MemoryError, SiteError, UsageError } from "../errors.js";
import type { Codes } from "../model/delay.js";
import type { Generation, MusicGen } from "../musicgen.js";
import type { Activation } from "./activation.js";
import { load } from "./capture-item.js";
import {
  generationOptions,
  naming,
  planCapture,
  type CaptureEstimate,
  type CapturePlan,
  type CaptureRequest,
  type PlannedClip,
  type PlannedSite,
} from "./capture-plan.js";
import type { Hook } from "./hooks.js";
import { withIntervention } from "./intervention.js";
import { RowCollector } from "./reduction.js";
import { isMoments, type CaptureRole } from "./store-format.js";
import type { ClipRows } from "./store-pending.js";
import { CaptureWriter, DISK, type StoreFiles } from "./store-writer.js";

/** What to capture, where to, and who looks on. */
export interface CaptureOptions extends CaptureRequest {
  /** A folder: made if need be. One that holds the beginning of this capture is gone on with. */
  readonly output: string;
  /** Bytes on disk beyond which the capture is refused before it begins. Default: 4 GiB. */
  readonly budget?: number | undefined;
  /** Bytes of rows that are held in memory before they are written as a shard. Default: 128 MiB. */
  readonly shardBytes?: number | undefined;
  /** Seconds after which they are written in any case: what a kill may cost. Default: 60. */
  readonly shardSeconds?: number | undefined;
  /** Called once with what it will take, before the budget is checked. */
  readonly onPlan?: ((estimate: CaptureEstimate) => void) | undefined;
  /** Called as positions are done. Clips that an earlier run captured don't count. */
  readonly onProgress?: ((progress: CaptureProgress) => void) | undefined;
  /** Called with each clip that was generated, for example to keep its sound. */
  readonly onClip?: ((id: string, generation: Generation) => void | Promise<void>) | undefined;
  /** Ends the capture after what is running; what was complete is written, and the next run goes on from there. */
  readonly signal?: AbortSignal | undefined;
  /** The file system; for tests. */
  readonly files?: StoreFiles | undefined;
}

/** How far a capture is. */
export interface CaptureProgress {
  readonly item: string; // id of the clip that is running
  readonly done: number; // positions
  readonly total: number;
}

/** What a capture did. */
export interface CaptureSummary {
  readonly directory: string;
  readonly complete: boolean; // false: it was interrupted
  readonly items: number; // in the folder now
  readonly resumed: number; // of them from an earlier run
  readonly rows: number; // of each site
  readonly estimate: CaptureEstimate;
}

const DEFAULT_BUDGET = 4 * 2 ** 30;
const DEFAULT_SHARD_BYTES = 128 * 2 ** 20;
const DEFAULT_SHARD_SECONDS = 60;

/**
 * Captures activations of many clips to disk: safetensors whose tensors are named by site, with the rows of all clips
 * joined on axis 0, and an `index.json` that says what each row is. `openCapture` reads them.
 *
 * ```ts
 * await captureActivations(model, {
 *   items: await readManifest("genres.jsonl"),
 *   sites: "blocks.*.hook_resid_post",
 *   reduction: "mean",
 *   output: "captures/genres",
 * });
 * ```
 *
 * It may be interrupted or killed at any moment: the same call then goes on after the last shard that is complete. Leaves
 * no tensors behind, also when it throws or is interrupted.
 *
 * @throws before any work starts: {@link UsageError} naming the item, line or option that can't be used, or what differs
 *   where the folder holds another capture; {@link SiteError} for sites that don't exist or can't be captured;
 *   {@link MemoryError} for what exceeds the budget or the disk. While it runs: {@link SiteError} if an activation is not
 *   finite or exceeds float16; {@link CheckpointError} if a shard can't be written.
 */
export async function captureActivations(model: MusicGen, options: CaptureOptions): Promise<CaptureSummary> {
  if (options.mode !== "generated") requireOwnText(model, options);
  const plan = await planCapture(model, options);
  options.onPlan?.(plan.estimate);
  requireBudget(plan.estimate, options.budget ?? DEFAULT_BUDGET);
  const files = options.files ?? DISK;
  const ids = plan.clips.map(({ stored }) => stored.id);
  const writer = await CaptureWriter.open(options.output, plan.settings, plan.columns, plan.sites, ids, files);
  const resumed = writer.written;
  const left = plan.clips.slice(resumed);
  await requireSpace(plan, left.length, await files.freeBytes(options.output), options.output);
  const interrupted = await runClips(model, plan, left, writer, options);
  if (interrupted) await writer.flush(model.backend);
  else await writer.finish(model.backend);
  const { directory, rows, written: items } = writer;
  return { directory, complete: !interrupted, items, resumed, rows, estimate: plan.estimate };
}

/** Texts of steering are for generating: given codes are read with the text that is given with them. */
function requireOwnText({ config }: MusicGen, { steering }: CaptureOptions): void {
  const [stretch] = steering?.texts?.(config.codec.frameRate) ?? [];
  if (!stretch) return;
  throw new UsageError({
    asked: "capture a teacher-forced pass while steered",
    found: `${stretch.path}: a text of the spec's own`,
    todo: "Leave it out and give each clip its text, or capture while generating",
  });
}

/** @returns whether it was interrupted */
async function runClips(
  model: MusicGen,
  plan: CapturePlan,
  clips: readonly PlannedClip[],
  writer: CaptureWriter,
  options: CaptureOptions,
): Promise<boolean> {
  const { shardBytes = DEFAULT_SHARD_BYTES, shardSeconds = DEFAULT_SHARD_SECONDS, signal } = options;
  const total = clips.reduce((sum, clip) => sum + workOf(clip), 0);
  let done = 0;
  let flushed = performance.now();
  for (const clip of clips) {
    const onPositions = (positions: number): void =>
      options.onProgress?.({ item: clip.stored.id, done: done + positions, total });
    onPositions(0);
    const rows = signal?.aborted
      ? undefined
      : await naming(clip.item, () => runClip(model, plan, clip, options, onPositions));
    if (!rows) return true;
    writer.add(rows);
    done += workOf(clip);
    onPositions(0);
    if (writer.pendingBytes >= shardBytes || performance.now() - flushed >= shardSeconds * 1000) {
      await writer.flush(model.backend);
      flushed = performance.now();
    }
  }
  return false;
}

function workOf({ span }: PlannedClip): number {
  return span.last + 1; // positions that the decoder computes
}

/** Captures one clip. @returns undefined if the signal ended it */
async function runClip(
  model: MusicGen,
  plan: CapturePlan,
  clip: PlannedClip,
  options: CaptureOptions,
  onPositions: (positions: number) => void,
): Promise<ClipRows | undefined> {
  const collector = new ClipCollector(plan, clip);
  if (plan.settings.mode === "forced") {
    await runForced(model, plan, clip, collector.hook, options);
  } else {
    const generation = await generate(model, clip, collector.hook, options, onPositions);
    if (generation.interrupted) return undefined;
    await options.onClip?.(clip.stored.id, generation);
  }
  return collector.finish();
}

async function runForced(
  model: MusicGen,
  { roles, sites }: CapturePlan,
  { item, span: { frames, frameRate } }: PlannedClip,
  collect: Hook,
  { steering, hooks = [] }: CaptureOptions,
): Promise<void> {
  const given = { text: item.text ?? null, codes: await forcedCodes(model, item), rows: roles };
  // What lies above the last site need not be computed, unless other hooks may want it.
  const stopAt = steering || hooks.length > 0 ? undefined : firstUnneeded(sites, model);
  const run = async (steers: readonly Hook[]): Promise<void> => {
    const { logits } = await model.runWithHooks({ ...given, stopAt }, [...steers, ...hooks, collect]);
    logits.dispose();
  };
  if (!steering) return run([]);
  await withIntervention(steering, { frames, promptFrames: 0, frameRate, rows: { batch: 1, roles } }, run);
}

async function forcedCodes(model: MusicGen, item: PlannedClip["item"]): Promise<Codes> {
  if (item.codes) return load(item.codes);
  if (item.audio) return model.encodeAudio(await load(item.audio));
  throw new RangeError("a plan has checked that there are codes or a sound");
}

/** The first block that no site needs, if there is one. */
function firstUnneeded(sites: readonly PlannedSite[], model: MusicGen): number | undefined {
  const layers = sites.map(({ site }) => {
    const match = /^blocks\.(\d+)\./.exec(site);
    if (match) return Number(match[1]);
    return site === "hook_embed" ? -1 : Infinity;
  });
  const next = Math.max(...layers) + 1;
  return next < model.config.decoder.layers ? next : undefined;
}

async function generate(
  model: MusicGen,
  { item, stored }: PlannedClip,
  collect: Hook,
  options: CaptureOptions,
  onPositions: (positions: number) => void,
): Promise<Generation> {
  return model.generate({
    ...generationOptions(options),
    text: item.text ?? undefined,
    promptAudio: item.audio && (await load(item.audio)),
    seed: stored.seed ?? undefined,
    steering: options.steering, // its hooks run before these
    hooks: [...(options.hooks ?? []), collect],
    signal: options.signal,
    onProgress: ({ stage, done }) => {
      if (stage === "tokens") onPositions(stored.promptFrames + done);
    },
  });
}

/** Takes one clip's activations as they pass. */
class ClipCollector {
  readonly hook: Hook;
  readonly #plan: CapturePlan;
  readonly #clip: PlannedClip;
  readonly #sites: ReadonlyMap<string, SiteCollector>;

  constructor(plan: CapturePlan, clip: PlannedClip) {
    this.#plan = plan;
    this.#clip = clip;
    this.#sites = new Map(
      plan.sites.map((site) => [
        site.site,
        { site, byRole: new Map(plan.roles.map((role) => [role, new RowCollector(clip.rows, site.width)])) },
      ]),
    );
    const names = new Set(this.#sites.keys());
    this.hook = { name: "capture", sites: (site) => names.has(site), run: (value, at) => this.#take(value, at) };
  }

  async #take(value: tf.Tensor, at: Activation): Promise<undefined> {
    const collector = this.#sites.get(at.site);
    const { positions } = at;
    const [firstPosition = 0] = positions;
    if (!collector || firstPosition < this.#clip.span.first) return; // the prefill
    const { site, byRole } = collector;
    const [rows = 1, ...shape] = value.shape;
    const size = value.size / rows;
    if (size !== site.width * positions.length) throw unexpectedShape(site, shape);
    const data = await value.data<"float32">();
    for (const [role, target] of byRole) {
      const row = site.guided ? 0 : at.rows.findIndex((entry) => entry.role === role);
      if (row < 0) throw new RangeError(`no row ${role} at ${at.site}`);
      addPositions(target, data.subarray(row * size, (row + 1) * size), shape, site, firstPosition);
    }
  }

  /** The rows of the clip. @throws {SiteError} if a value can't be kept. */
  finish(): ClipRows {
    const { item, stored, rows } = this.#clip;
    const { reduction, dtype } = this.#plan.settings;
    const values = new Map<string, ReadonlyMap<CaptureRole, Float32Array>>();
    for (const [name, { byRole }] of this.#sites) {
      const kept = new Map<CaptureRole, Float32Array>();
      for (const [role, collector] of byRole) {
        if (!collector.finished) throw new RangeError(`positions missing at ${name}`);
        requireStorable(collector.values, name, dtype);
        kept.set(role, collector.values);
      }
      values.set(name, kept);
    }
    if (isMoments(reduction)) return { stored, runs: [], values };
    const runs = this.#plan.roles.flatMap((role) => {
      const shared = { item: item.id, role };
      const [first, last] = [rows[0], rows.at(-1)];
      if (reduction !== "none" || !first || !last) {
        return rows.map(({ window, first: from, last: to, seconds }) => {
          return { ...shared, window, positions: [from, to] as const, seconds, count: 1 };
        });
      }
      const seconds = [first.seconds[0], last.seconds[1]] as const;
      return [{ ...shared, window: null, positions: [first.first, last.last] as const, seconds, count: rows.length }];
    });
    return { stored, runs, values };
  }
}

interface SiteCollector {
  readonly site: PlannedSite;
  readonly byRole: ReadonlyMap<CaptureRole, RowCollector>;
}

/** Splits one row of a tensor, [outer, T, inner], into its positions. */
function addPositions(
  target: RowCollector,
  data: Float32Array,
  shape: readonly number[],
  { positionAxis, width }: PlannedSite,
  firstPosition: number,
): void {
  const positions = shape[positionAxis] ?? 1;
  const inner = shape.slice(positionAxis + 1).reduce((product, size) => product * size, 1);
  const outer = width / inner;
  const vector = new Float32Array(width);
  for (let t = 0; t < positions; t++) {
    if (outer === 1) {
      target.add(firstPosition + t, data.subarray(t * width, (t + 1) * width));
      continue;
    }
    for (let o = 0; o < outer; o++) {
      const start = (o * positions + t) * inner;
      vector.set(data.subarray(start, start + inner), o * inner);
    }
    target.add(firstPosition + t, vector);
  }
}

function unexpectedShape({ site, shape }: PlannedSite, found: readonly number[]): SiteError {
  return new SiteError({
    asked: `capture ${site}`,
    found: `a tensor whose rows are [${found.join(",")}], where each position was to have [${shape.join(",")}]`,
    todo: "Capture clips of one length and one text together, or choose another site",
  });
}

/** Refuses values that the file would not hold as they are. */
function requireStorable(values: Float32Array, site: string, dtype: "f32" | "f16"): void {
  for (const value of values) {
    const finite = Number.isFinite(value);
    if (finite && (dtype === "f32" || fitsHalf(value))) continue;
    throw new SiteError({
      asked: `capture ${site}`,
      found: finite ? `the value ${value}, where float16 ends at 65504` : `the value ${value}`,
      todo: finite
        ? "Capture with dtype f32"
        : "Check the hooks that ran before, and the weights with `tonearm verify`",
    });
  }
}

function requireBudget({ bytes, rows, sites }: CaptureEstimate, budget: number): void {
  if (Number.isNaN(budget) || budget < 0) {
    throw new UsageError({ asked: `a budget of ${budget} bytes`, found: "no size", todo: "Give bytes from 0 up" });
  }
  if (bytes <= budget) return;
  throw new MemoryError({
    asked: `capture ${rows} rows of ${sites} ${sites === 1 ? "site" : "sites"}`,
    found: `they take ${size(bytes)} on disk, and the budget is ${size(budget)}`,
    todo: "Choose fewer sites, a reduction (mean, last, windows, moments), float16 or shards, or raise the budget",
  });
}

async function requireSpace(
  { estimate, clips }: CapturePlan,
  left: number,
  free: number,
  where: string,
): Promise<void> {
  const needed = (estimate.bytes * left) / clips.length;
  if (needed <= free) return;
  throw new MemoryError({
    asked: `capture ${left} ${left === 1 ? "clip" : "clips"} into ${where}`,
    found: `they take ${size(needed)}, and its disk has ${size(free)} left`,
    todo: "Free some space, or choose another disk, fewer sites, a reduction or float16",
  });
}

function size(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  return `${Math.round((10 * bytes) / 1024 ** power) / 10} ${units[power] ?? ""}`;
}
