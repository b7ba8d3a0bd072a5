import { UsageError } from "../errors.js";
import { parseSpec, type SteeringSpec } from "../steering/spec.js";

/** The experiments of arXiv 2506.10225 as steering specs: timbre transfer, style transfer and genre fusion. */

/** From one concept to another, after an audio prompt. */
export interface TransferOptions {
  readonly vectors: string; // file, relative to the spec
  readonly from: string; // concept: what the prompt is
  readonly to: string; // concept: what the continuation should be
  readonly sites: string | readonly string[];
  readonly strength?: number | undefined;
  /** Seconds over which the strength rises, from the end of the prompt. */
  readonly promptSeconds: number;
  readonly fadeSeconds?: number | undefined;
}

/**
 * Timbre transfer: continues a melody in another instrument. The step goes from the instrument that plays to the other
 * one, with its norm kept, so that pitch and loudness are moved as little as may be; it starts where the prompt ends.
 */
export function timbreTransfer(options: TransferOptions): SteeringSpec {
  return transfer(options, { strength: options.strength ?? 0.3, restoreNorm: true });
}

/** Style transfer: continues an audio prompt of one genre in another: the seed's operator from source to target. */
export function styleTransfer(options: TransferOptions): SteeringSpec {
  return transfer(options, { strength: options.strength ?? 0.3, restoreNorm: false });
}

function transfer(
  { vectors, from, to, sites, promptSeconds, fadeSeconds }: TransferOptions,
  intervention: { readonly strength: number; readonly restoreNorm: boolean },
): SteeringSpec {
  const ramp = fadeSeconds === undefined ? null : { shape: "cosine", from: 0, to: 1, over: fadeSeconds };
  return parseSpec({
    vectors: { vectors },
    segments: [
      { from: promptSeconds, steer: [{ concept: to, minus: from, sites, operator: "convex", ramp, ...intervention }] },
    ],
  });
}

/** A genre and its weight at the clip's beginning and end. */
export interface FusionPart {
  readonly concept: string;
  readonly from: number;
  readonly to: number;
}

/** What to fuse. */
export interface FusionOptions {
  readonly vectors: string;
  readonly parts: readonly FusionPart[];
  readonly sites: string | readonly string[];
  /** Directions lose what lies along those before them, so that the first part has priority. */
  readonly orthogonal?: boolean | undefined;
}

/**
 * Genre fusion: several genres in one joint step, each with a weight that goes linearly over the clip. Equal ends keep a
 * blend; crossing ones fade from genre to genre.
 *
 * @throws {UsageError} if there are fewer than two parts, or a weight is not finite.
 */
export function genreFusion({ vectors, parts, sites, orthogonal = false }: FusionOptions): SteeringSpec {
  if (parts.length < 2 || new Set(parts.map(({ concept }) => concept)).size < parts.length) {
    throw new UsageError({
      asked: `fuse ${parts.map(({ concept }) => `"${concept}"`).join(", ") || "nothing"}`,
      found: "fewer than two different genres",
      todo: "Give two or more, each once",
    });
  }
  const steer = parts.map(({ concept, from, to }, index) => ({
    concept,
    sites,
    operator: "convex",
    // The strength is 1 and the ramp its value, so that a weight may begin at 0.
    strength: from === to ? from : 1,
    ramp: from === to ? null : { shape: "linear", from, to },
    without: orthogonal ? parts.slice(0, index).map((part) => part.concept) : [],
  }));
  return parseSpec({ vectors: { vectors }, segments: [{ steer }] });
}
