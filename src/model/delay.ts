/**
 * The delay pattern: codebook k of frame t is predicted at position t + 1 + delay(k), so that one pass predicts all
 * codebooks of a frame one after another. Position 0 is the BOS column, pad tokens in every row.
 *
 * Shapes: K codebooks (of all channels), F frames, M = F + 1 + max delay positions.
 */

/** Codes of one clip: `values[k * frames + t]`, each 0 … V − 1. */
export interface Codes {
  readonly values: Int32Array; // [K, F]
  readonly codebooks: number; // K
  readonly frames: number; // F
}

/** Which codebook waits how long. */
export interface DelayPattern {
  readonly delays: readonly number[]; // one per codebook, in positions
  readonly pad: number; // the token that stands where no frame is: V
}

/**
 * The delays of a MusicGen checkpoint: 0, 1, 2, 3 for mono; for stereo the two channels' codebooks alternate and share
 * theirs: 0, 0, 1, 1, 2, 2, 3, 3.
 */
export function delayPattern(codebooks: number, audioChannels: number, pad: number): DelayPattern {
  return { delays: Array.from({ length: codebooks }, (_, k) => Math.floor(k / audioChannels)), pad };
}

/** M: how many positions `frames` frames take, the BOS column included. */
export function sequenceLength(frames: number, { delays }: DelayPattern): number {
  return frames + 1 + Math.max(...delays);
}

/** The frames of a clip that one sequence covers: all of them, or a window of a clip that is longer than the model's reach. */
export interface FrameRange {
  readonly first: number;
  readonly end: number; // exclusive
}

/**
 * The frame that codebook k carries at a position of the clip, or undefined where the pattern has a pad token.
 *
 * @param position absolute: 0 is the BOS column of a clip, and that of a later window stands where the frame before it would
 */
export function frameAt(position: number, delay: number, { first, end }: FrameRange): number | undefined {
  const frame = position - 1 - delay;
  return frame >= first && frame < end ? frame : undefined;
}

/**
 * Lays codes out along the delay pattern, with pad tokens before and after each codebook's frames: the mask that
 * transformers builds in `build_delay_pattern_mask`, for any number of frames (it gives up below 2·(max delay + 1) − 1
 * positions, we don't).
 *
 * @param frames F, at least the number of frames in `codes`; the frames beyond those stay pad tokens, to be filled.
 * @returns [K, M]
 */
export function delayCodes(codes: Codes, pattern: DelayPattern, frames: number = codes.frames): Int32Array {
  const length = sequenceLength(frames, pattern);
  const sequence = new Int32Array(pattern.delays.length * length).fill(pattern.pad);
  pattern.delays.forEach((delay, k) => {
    const row = codes.values.subarray(k * codes.frames, (k + 1) * codes.frames);
    sequence.set(row, k * length + 1 + delay);
  });
  return sequence;
}

/**
 * Takes codes back out of a sequence laid out by {@link delayCodes}.
 *
 * @param sequence [K, M]
 * @param frames F, the number of frames the sequence was laid out for
 * @param first the first frame to return
 * @param end the one after the last
 */
export function undelayCodes(
  sequence: Int32Array,
  pattern: DelayPattern,
  frames: number,
  first = 0,
  end: number = frames,
): Codes {
  const length = sequenceLength(frames, pattern);
  const codebooks = pattern.delays.length;
  const count = end - first;
  const values = new Int32Array(codebooks * count);
  pattern.delays.forEach((delay, k) => {
    const start = k * length + 1 + delay;
    values.set(sequence.subarray(start + first, start + end), k * count);
  });
  return { values, codebooks, frames: count };
}
