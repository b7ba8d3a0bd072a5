import { BackendError, UsageError } from "../errors.js";

/** How the next token is drawn from guided logits. */
export interface SamplingOptions {
  /** Take the most likely token always. Greedy music collapses into loops; this is for tests. */
  readonly greedy: boolean;
  /** Divides the logits; above 0. */
  readonly temperature: number;
  /** Keep the k most likely tokens (ties at the threshold are all kept); 0 keeps all. */
  readonly topK: number;
  /** Of those, keep the most likely ones that together reach this probability; 1 keeps all. */
  readonly topP: number;
}

/** audiocraft's defaults. (transformers keeps only the 50 most likely tokens.) */
export const DEFAULT_SAMPLING: SamplingOptions = { greedy: false, temperature: 1, topK: 250, topP: 1 };

/** @throws {UsageError} naming the option and its range. */
export function checkSampling({ temperature, topK, topP }: SamplingOptions): void {
  const refuse = (name: string, value: number, range: string): never => {
    throw new UsageError({ asked: `${name} ${value}`, found: `${name} must be ${range}`, todo: `Choose ${range}` });
  };
  if (!(temperature > 0 && Number.isFinite(temperature))) refuse("temperature", temperature, "a number above 0");
  if (!(Number.isInteger(topK) && topK >= 0)) refuse("top-k", topK, "a whole number from 0 (keep all) up");
  if (!(topP > 0 && topP <= 1)) refuse("top-p", topP, "a number above 0, up to 1 (keep all)");
}

/**
 * Draws one token: temperature, then top-k, then top-p, then the inverse of the cumulative distribution at `uniform`, in
 * token order. On the host and in float64, so that a token depends on the logits and the uniform number alone.
 *
 * @param logits [V]
 * @param uniform in [0, 1)
 * @returns a token, 0 … V − 1
 * @throws {BackendError} if a logit is NaN or infinite.
 */
export function sampleToken(logits: Float32Array, options: SamplingOptions, uniform: number): number {
  if (!logits.every(Number.isFinite)) {
    throw new BackendError({
      asked: "draw a token",
      found: "NaN or infinity among the logits",
      todo: "Run `tonearm doctor` to test the backend; if hooks or steering are on, lower their strength",
    });
  }
  if (options.greedy) return mostLikely(logits);
  const probabilities = filteredProbabilities(logits, options);
  let remaining = uniform;
  let last = 0;
  for (const [token, probability] of probabilities.entries()) {
    if (probability === 0) continue;
    if (remaining < probability) return token;
    remaining -= probability;
    last = token;
  }
  return last; // rounding left a crumb of probability beyond the last token
}

/** The index of the largest logit, the first one of equals. */
export function mostLikely(logits: Float32Array): number {
  let best = 0;
  for (let token = 1; token < logits.length; token++) if ((logits[token] ?? 0) > (logits[best] ?? 0)) best = token;
  return best;
}

/**
 * The distribution that {@link sampleToken} draws from.
 *
 * @param logits [V]
 * @returns [V], summing to 1; filtered tokens are exactly 0.
 */
export function filteredProbabilities(
  logits: Float32Array,
  { temperature, topK, topP }: SamplingOptions,
): Float64Array {
  const threshold = topK > 0 && topK < logits.length ? kthLargest(logits, topK) : -Infinity;
  const highest = logits[mostLikely(logits)] ?? 0;
  const weights = Float64Array.from(logits, (logit) =>
    logit < threshold ? 0 : Math.exp((logit - highest) / temperature),
  );
  normalize(weights);
  if (topP < 1) keepNucleus(weights, topP);
  return weights;
}

function kthLargest(logits: Float32Array, k: number): number {
  const ascending = Float32Array.from(logits).sort();
  return ascending[ascending.length - k] ?? -Infinity;
}

function normalize(weights: Float64Array): void {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  for (let token = 0; token < weights.length; token++) weights[token] = (weights[token] ?? 0) / total;
}

/** Zeroes the least likely tokens whose probabilities together stay within 1 − topP; the most likely one always stays. */
function keepNucleus(probabilities: Float64Array, topP: number): void {
  const ascending = [...probabilities.keys()].sort((a, b) => (probabilities[a] ?? 0) - (probabilities[b] ?? 0));
  let cumulative = 0;
  for (const token of ascending.slice(0, -1)) {
    cumulative += probabilities[token] ?? 0;
    if (cumulative > 1 - topP) break;
    probabilities[token] = 0;
  }
  normalize(probabilities);
}
