import { sampleCount } from "../audio/audio.js";
import type { JsonObject } from "../checkpoint/json.js";
import {
  AudioError,
  BackendError,
  CancelledError,
  CheckpointError,
  HubError,
  MemoryError,
  PickleError,
  SiteError,
  TonearmError,
  UsageError,
  type ErrorCode,
  type ErrorParts,
} from "../errors.js";
import { checkCodes } from "../model/codes.js";
import { promptFrames } from "../model/codec-audio.js";
import { delayPattern } from "../model/delay.js";
import { resolveRequest } from "../model/request.js";
import type { MusicGen } from "../musicgen.js";
import { checkItems, hashItems, load, nameOf, seedOf, storedText, type CaptureItem } from "./capture-item.js";
import type { Site } from "./catalogue.js";
import type { Hook } from "./hooks.js";
import type { Intervention } from "./intervention.js";
import { checkReduction, planRows, type ClipSpan, type PlannedRow } from "./reduction.js";
import { selectSites, type SiteSelection } from "./select.js";
import {
  isMoments,
  type CaptureIndex,
  type CaptureRole,
  type CaptureSettings,
  type Reduction,
  type StoredItem,
  type StoredSite,
} from "./store-format.js";

/** What a capture will do, decided and checked in full before it begins: which rows, of which size, from which clips. */

/** What decides the rows of a capture. */
export interface CaptureRequest {
  readonly items: readonly CaptureItem[];
  readonly sites: SiteSelection;
  /**
   * `forced` (default): one pass over the codes of each item, or over its encoded sound, laid out along the delay pattern
   * behind the BOS column. `generated`: each item's text, and its sound as a prompt, is generated from, and the decode
   * steps are captured; the positions of the prompt, which the prefill reads, are not.
   */
  readonly mode?: "forced" | "generated" | undefined;
  /** Rows with the text, without, or both. Default: `cond`, or `null` where no item has a text. */
  readonly rows?: CaptureRole | "both" | undefined;
  /** Default: `none`, every position. `by` groups the moments by a label column. */
  readonly reduction?: CaptureReduction | undefined;
  /** float16 halves the size; a value beyond its range is an error. Default: f32. Moments are always float64. */
  readonly dtype?: "f32" | "f16" | undefined;
  /** Length of a generated clip, the audio prompt included. Default: 10. */
  readonly seconds?: number | undefined;
  /** Each generated clip's seed follows from this one and its id. Default: 0. */
  readonly seed?: number | undefined;
  readonly guidance?: number | undefined;
  readonly greedy?: boolean | undefined;
  readonly temperature?: number | undefined;
  readonly topK?: number | undefined;
  readonly topP?: number | undefined;
  /** Acts on every clip before the capture looks; its record is kept in the index. */
  readonly steering?: Intervention | undefined;
  /** Run before the capture looks, behind the steering. Their names are kept in the index. */
  readonly hooks?: readonly Hook[] | undefined;
  /** What the hooks do, in the caller's words; kept in the index. A capture goes on only with the same. */
  readonly provenance?: JsonObject | undefined;
  /** Capture only every `of`-th item, from item `index` on; shards are opened together afterwards. */
  readonly shard?: { readonly index: number; readonly of: number } | undefined;
}

/** How positions become rows, as callers say it. Windows and hops are in seconds; the hop is the window by default. */
export type CaptureReduction =
  | "none"
  | "mean"
  | "last"
  | { readonly window: number; readonly hop?: number | undefined }
  | { readonly moments: "variance" | "covariance"; readonly by?: string | undefined };

/** A clip of this shard. */
export interface PlannedClip {
  readonly item: CaptureItem;
  readonly stored: StoredItem;
  readonly span: ClipSpan;
  readonly rows: readonly PlannedRow[];
}

/** A site, and where in its tensor the rows and positions are. */
export interface PlannedSite extends StoredSite {
  readonly width: number; // product of the shape
  readonly positionAxis: number; // of the tensor without its row axis
  readonly guided: boolean; // one row per clip, made of those of all roles
}

/** A capture to be. */
export interface CapturePlan {
  readonly settings: CaptureSettings;
  readonly columns: CaptureIndex["columns"];
  readonly roles: readonly CaptureRole[];
  readonly sites: readonly PlannedSite[];
  readonly clips: readonly PlannedClip[];
  readonly estimate: CaptureEstimate;
}

/** What a capture will take. */
export interface CaptureEstimate {
  readonly clips: number;
  readonly sites: number;
  readonly rows: number; // of each site; for moments the positions that are added up
  readonly positions: number; // that the decoder computes
  readonly bytes: number; // on disk
}

const DEFAULT_SEED = 0;
const RUN_BYTES = 250; // of one entry of the tables of rows and items, which are kept twice

/**
 * Decides everything, reading each clip of this shard once to know its length.
 *
 * @throws {UsageError} if an option is out of range or an item can't be used, naming it; {@link SiteError} if a site doesn't
 *   exist or has no rows to capture, with the reason.
 */
export async function planCapture(model: MusicGen, request: CaptureRequest): Promise<CapturePlan> {
  const columns = checkItems(request.items);
  const reduction = resolveReduction(request.reduction ?? "none", columns);
  const { frameRate } = model.config.codec;
  checkReduction(reduction, frameRate);
  const roles = resolveRoles(model, request);
  const candidates = chooseSites(model, request, roles, reduction);
  const own = ownItems(request);
  const clips: PlannedClip[] = [];
  for (const item of own) clips.push(await planClip(model, request, reduction, item));
  const sites = await sizeSites(model, candidates, request, clips);
  return {
    settings: resolveSettings(model, request, reduction, roles, sites),
    columns,
    roles,
    sites,
    clips,
    estimate: estimate(clips, sites, roles, reduction, request),
  };
}

function resolveReduction(given: CaptureReduction, columns: CaptureIndex["columns"]): Reduction {
  if (typeof given === "string") return given;
  if ("window" in given) return { window: given.window, hop: given.hop ?? given.window };
  const { moments, by = null } = given;
  if (by === null || Object.hasOwn(columns, by)) return { moments, by };
  throw new UsageError({
    asked: `moments by the label "${by}"`,
    found: `the columns ${Object.keys(columns).join(", ") || "(none)"}`,
    todo: "Name one of the items' label columns",
  });
}

function hasText({ text }: CaptureItem): boolean {
  return text !== undefined && text !== null;
}

function resolveRoles(model: MusicGen, request: CaptureRequest): readonly CaptureRole[] {
  const { items, mode = "forced" } = request;
  const rows = request.rows ?? (items.some(hasText) ? "cond" : "null");
  const silent = items.find((item) => !hasText(item));
  if (rows !== "null" && silent) {
    throw new UsageError({
      asked: `capture the rows "${rows}" of ${nameOf(silent)}`,
      found: "no text",
      todo: 'Give every item a text, or choose the rows "null"',
    });
  }
  const guidance = request.guidance ?? model.config.generation.guidance;
  if (mode === "generated" && rows !== "cond" && guidance === 1 && !silent) {
    throw new UsageError({
      asked: `capture the rows "${rows}" while generating with guidance 1`,
      found: "without guidance only the rows with the text are run",
      todo: 'Choose the rows "cond", or another guidance',
    });
  }
  return rows === "both" ? ["cond", "null"] : [rows];
}

/** The chosen sites, each fit to be captured. */
function chooseSites(
  model: MusicGen,
  request: CaptureRequest,
  roles: readonly CaptureRole[],
  reduction: Reduction,
): readonly Site[] {
  const catalogue = model.sites();
  const names = selectSites(request.sites, catalogue);
  const chosen = catalogue.filter(({ site }) => names.has(site));
  const refused = chosen.flatMap((site) => {
    const reason = whyNot(site, request, roles, reduction) ?? (model.config.melody && whyNotBehindPrefix(site));
    return reason === undefined ? [] : [{ site: site.site, reason }];
  });
  const [first] = refused;
  if (!first) return chosen;
  const more = refused.length > 1 ? ` (and ${refused.length - 1} more of ${chosen.length} sites)` : "";
  throw new SiteError({
    asked: `capture ${first.site}${more}`,
    found: first.reason,
    todo: "Choose other sites or options; runWithCache and walk reach every site",
  });
}

/** Why a site can't be captured with these options, or undefined. */
function whyNot(
  { site, network, shape }: Site,
  { mode = "forced", items }: CaptureRequest,
  roles: readonly CaptureRole[],
  reduction: Reduction,
): string | undefined {
  const [rowAxis, ...axes] = shape;
  if (network !== "decoder") return "its rows are not positions of the decoder";
  if (rowAxis === "T") return "it is the same for every clip";
  if (!axes.includes("T")) return "its rows are tokens of the text, not positions";
  if (rowAxis === "B" && mode === "forced") return "it exists only while generating";
  if (rowAxis === "B" && roles.length > 1) return "it has one row for both roles: capture it with rows cond";
  if (rowAxis === "Rc" && roles.includes("null")) return "rows without a text skip the cross-attention";
  const crosses = rowAxis === "Rc" || /cross/.test(site);
  const readsText = mode === "generated" ? items.every(hasText) : roles.includes("cond");
  if (crosses && !readsText) return "without a text the cross-attention is not run";
  const growing = axes.includes("T'") || axes.includes("S");
  if (!growing) return undefined;
  if (reduction !== "none") return `one of its axes is as long as the ${axes.includes("S") ? "text" : "clip"}`;
  if (axes.includes("T'") && mode === "generated") return "it grows with every step";
  const texts = new Set(items.map((item) => JSON.stringify(storedText(item))));
  if (axes.includes("S") && texts.size > 1) return "it is as long as the text, and the items have different ones";
  return undefined;
}

/** Why a site of a melody model can't be captured, or undefined. */
function whyNotBehindPrefix({ shape }: Site): string | undefined {
  return shape.includes("T'") ? "its keys are those of melody and text too, before the clip" : undefined;
}

/** Every `of`-th item. */
function ownItems({ items, shard }: CaptureRequest): readonly CaptureItem[] {
  if (!shard) return items;
  const { index, of } = shard;
  if (!Number.isInteger(of) || of < 1 || !Number.isInteger(index) || index < 0 || index >= of) {
    throw new UsageError({
      asked: `shard ${index}/${of}`,
      found: "no part of that many",
      todo: `Count shards from 0: ${of > 1 ? `0/${of} … ${of - 1}/${of}` : "0/2 and 1/2, for example"}`,
    });
  }
  const own = items.filter((_item, at) => at % of === index);
  if (own.length > 0) return own;
  throw new UsageError({
    asked: `shard ${index}/${of}`,
    found: `only ${items.length} items`,
    todo: `Split them into at most ${items.length} shards`,
  });
}

async function planClip(
  model: MusicGen,
  request: CaptureRequest,
  reduction: Reduction,
  item: CaptureItem,
): Promise<PlannedClip> {
  const { decoder, codec } = model.config;
  const pattern = delayPattern(decoder.codebooks, decoder.audioChannels, decoder.codebookSize);
  const maxDelay = Math.max(...pattern.delays);
  const base = { maxDelay, frameRate: codec.frameRate };
  const stored = {
    id: item.id,
    ...storedText(item),
    source: item.source ?? null,
    labels: item.labels ?? {},
  };
  return naming(item, async () => {
    if ((request.mode ?? "forced") === "forced") {
      const frames = await givenFrames(model, item);
      const span = { ...base, frames, first: 0, last: frames + maxDelay };
      const rows = planRows(reduction, span, nameOf(item));
      return { item, span, rows, stored: { ...stored, frames, promptFrames: frames, seed: null } };
    }
    if (item.codes) {
      throw new UsageError({
        asked: "generate",
        found: "codes, which only a teacher-forced pass runs over",
        todo: "Give a sound to continue, or none, or capture with mode forced",
      });
    }
    const prompt = item.audio ? promptFrames([await load(item.audio)], codec) : 0;
    const { frames, seed, windows } = resolveRequest(
      { ...generationOptions(request), seed: seedOf(item, request.seed ?? DEFAULT_SEED) },
      model.config,
      prompt,
    );
    if (windows.length > 1) {
      throw new UsageError({
        asked: `generate a clip in ${windows.length} windows`,
        found: "positions that several windows read, of which a capture keeps one row each",
        todo: "Ask for clips of one window, or capture the finished clip with mode forced",
      });
    }
    // The prefill reads positions 0 … prompt; the last position of the sequence is drawn, not read.
    const span = { ...base, frames, first: prompt + 1, last: frames + maxDelay - 1 };
    const rows = planRows(reduction, span, nameOf(item));
    return { item, span, rows, stored: { ...stored, frames, promptFrames: prompt, seed } };
  });
}

/** The options that `generate` takes as they are. */
export function generationOptions(request: CaptureRequest): {
  readonly seconds: number | undefined;
  readonly guidance: number | undefined;
  readonly greedy: boolean | undefined;
  readonly temperature: number | undefined;
  readonly topK: number | undefined;
  readonly topP: number | undefined;
} {
  const { seconds, guidance, greedy, temperature, topK, topP } = request;
  return { seconds, guidance, greedy, temperature, topK, topP };
}

async function givenFrames(model: MusicGen, item: CaptureItem): Promise<number> {
  if (item.codes) return checkCodes([await load(item.codes)], model.config.decoder);
  if (item.audio) {
    const audio = await load(item.audio);
    if (sampleCount(audio) > 0) return promptFrames([audio], model.config.codec);
  }
  throw new UsageError({
    asked: "run it teacher-forced",
    found: "neither codes nor a sound",
    todo: "Give one of them, or capture with mode generated",
  });
}

/** Does something with an item, and says in an error which. */
export async function naming<Result>(item: CaptureItem, work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof TonearmError) || error.asked.includes(nameOf(item))) throw error;
    const { code, asked, found, todo } = error;
    throw new CLASS_OF[code]({ asked: `${nameOf(item)}: ${asked}`, found, todo, cause: error });
  }
}

const CLASS_OF: Readonly<Record<ErrorCode, new (parts: ErrorParts) => TonearmError>> = {
  usage: UsageError,
  checkpoint: CheckpointError,
  pickle: PickleError,
  hub: HubError,
  audio: AudioError,
  backend: BackendError,
  memory: MemoryError,
  site: SiteError,
  cancelled: CancelledError,
};

/** Puts numbers to the letters of the sites' shapes. */
async function sizeSites(
  model: MusicGen,
  sites: readonly Site[],
  { items }: CaptureRequest,
  clips: readonly PlannedClip[],
): Promise<readonly PlannedSite[]> {
  const positions = new Set(clips.map(({ span }) => span.last + 1));
  const tokens = sites.some(({ shape }) => shape.includes("S")) ? await textTokens(model, items[0]) : undefined;
  return sites.map(({ site, shape, sizes }) => {
    const growing = shape.includes("T'");
    if (growing && positions.size > 1) {
      throw new SiteError({
        asked: `capture ${site}`,
        found: "it is as long as the clip, and the clips have different lengths",
        todo: "Capture clips of one length together, or export patterns clip by clip with runWithCache",
      });
    }
    const letters: Readonly<Record<string, number | undefined>> = { "T'": [...positions][0], S: tokens };
    const positionAxis = shape.indexOf("T") - 1;
    const numbers = sizes.slice(1).map((size) => letters[size] ?? Number(size));
    const row = numbers.filter((_size, axis) => axis !== positionAxis);
    const width = row.reduce((product, size) => product * size, 1);
    return { site, shape: row, width, positionAxis, guided: shape[0] === "B" };
  });
}

/** S of a text: asked of the text encoder, which stops at its first site. */
async function textTokens(model: MusicGen, item: CaptureItem | undefined): Promise<number | undefined> {
  const { codebooks } = model.config.decoder;
  const codes = { values: new Int32Array(codebooks), codebooks, frames: 1 };
  for await (const at of model.walk({ text: item?.text ?? null, codes }, "text.**")) {
    if (at.pass.phase === "text") return at.pass.tokens;
  }
  return undefined;
}

function resolveSettings(
  model: MusicGen,
  request: CaptureRequest,
  reduction: Reduction,
  roles: readonly CaptureRole[],
  sites: readonly PlannedSite[],
): CaptureSettings {
  const mode = request.mode ?? "forced";
  const sampled = mode === "generated" ? resolveRequest(generationOptions(request), model.config, 0) : undefined;
  const { index = 0, of = 1 } = request.shard ?? {};
  return {
    model: model.fingerprint,
    numerics: { ...model.numerics },
    mode,
    rows: roles.length === 2 ? "both" : (roles[0] ?? "cond"),
    sites: sites.map(({ site }) => site),
    reduction,
    dtype: isMoments(reduction) ? "f32" : (request.dtype ?? "f32"),
    frameRate: model.config.codec.frameRate,
    seed: sampled ? (request.seed ?? DEFAULT_SEED) : null,
    generation: sampled ? { frames: sampled.frames, guidance: sampled.guidance, ...sampled.sampling } : null,
    steering: request.steering?.record ?? null,
    hooks: (request.hooks ?? []).map(({ name }, at) => name ?? `hook ${at}`),
    provenance: request.provenance ?? null,
    items: hashItems(request.items),
    itemCount: request.items.length,
    shard: [index, of],
  };
}

function estimate(
  clips: readonly PlannedClip[],
  sites: readonly PlannedSite[],
  roles: readonly CaptureRole[],
  reduction: Reduction,
  request: CaptureRequest,
): CaptureEstimate {
  const rows = roles.length * clips.reduce((sum, clip) => sum + clip.rows.length, 0);
  const positions = clips.reduce((sum, { span }) => sum + span.last + 1, 0);
  const width = sites.reduce((sum, site) => sum + site.width, 0);
  const shared = { clips: clips.length, sites: sites.length, rows, positions };
  const tables = 2 * RUN_BYTES * clips.length;
  if (!isMoments(reduction)) {
    const runs = reduction === "none" ? clips.length * roles.length : rows;
    return { ...shared, bytes: rows * width * (request.dtype === "f16" ? 2 : 4) + tables + 2 * RUN_BYTES * runs };
  }
  const { moments, by } = reduction;
  const labels = by === null ? 1 : new Set(clips.map(({ stored }) => stored.labels[by] ?? null)).size;
  const squares = sites.reduce((sum, site) => sum + (moments === "variance" ? site.width : site.width ** 2), 0);
  return { ...shared, bytes: roles.length * labels * (width + squares) * 8 + tables };
}
