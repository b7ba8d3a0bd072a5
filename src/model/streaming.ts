import type { Audio } from "../audio/audio.js";
import { WaveStream } from "../encodec/stream.js";
import { UsageError } from "../errors.js";
import { deinterleave } from "./codec-audio.js";
import { isPassStop, type CompletedFrames, type GeneratedCodes } from "./generation.js";
import type { Networks } from "./networks.js";
import type { PassStop } from "./pass.js";
import {
  encodePrompts,
  encodeTexts,
  runDecoderNetwork,
  type PipelineInput,
  type PipelineObserver,
} from "./pipeline.js";
import { disposeTexts } from "./text-states.js";

/** Sound as it is generated: text → states → codes, and each frame decoded once the few after it are there. */

/** A stretch of a clip. The blocks of a clip follow each other without a gap, and together are what `generate` gives. */
export interface AudioBlock extends Audio {
  readonly item: number; // the clip
  readonly start: number; // the first sample, counted from the start of the clip
}

/** How far a stream has come. */
interface StreamState {
  readonly waves: WaveStream; // of all channels of all clips
  start: number; // samples given of each clip
}

/** Whether a stream stopped at a site, or with sound. */
export function isBlock(stop: PassStop | AudioBlock): stop is AudioBlock {
  return "start" in stop;
}

/**
 * Runs a request and yields its sound in blocks of `blockSamples`, the last of a clip being shorter, while it generates.
 * Nothing is computed beyond the block that was asked for. Leaves no tensors behind, also when it is ended early.
 *
 * @throws {UsageError} if networks take turns in memory: decoder and codec are needed together.
 */
export async function* streamClips(
  networks: Networks,
  input: PipelineInput,
  observer: PipelineObserver,
  blockSamples: number,
): AsyncGenerator<PassStop | AudioBlock, GeneratedCodes, void> {
  requireTogether(networks);
  const { samples, count } = input.request;
  observer.onProgress?.({ stage: "text", done: 0, total: 1 });
  const encoded = yield* encodeTexts(networks, input.rows.batch, input, observer.taps);
  const channels = networks.config.decoder.audioChannels;
  let waves: WaveStream | undefined;
  try {
    waves = new WaveStream(await networks.codec(), networks.config.codec, count * channels);
    const state: StreamState = { waves, start: 0 };
    const prompt = yield* encodePrompts(networks, input, observer);
    const walk = runDecoderNetwork(networks, input, encoded, prompt, observer);
    const generated = yield* decodingOnTheWay(walk, networks, state, blockSamples);
    waves.end();
    const left = generated.interrupted ? waves.ready : samples - state.start;
    yield* blocks(networks, state, blockSamples, left);
    return generated;
  } finally {
    waves?.dispose();
    if (encoded) disposeTexts(encoded);
  }
}

/** Lets stops through and turns frames into blocks. */
async function* decodingOnTheWay(
  walk: AsyncGenerator<PassStop | CompletedFrames, GeneratedCodes, void>,
  networks: Networks,
  state: StreamState,
  blockSamples: number,
): AsyncGenerator<PassStop | AudioBlock, GeneratedCodes, void> {
  try {
    for (;;) {
      const next = await walk.next();
      if (next.done) return next.value;
      const stop = next.value;
      if (isPassStop(stop)) {
        yield stop;
        continue;
      }
      const frames = stop.codes[0]?.frames ?? 0;
      state.waves.feed(rowsOf(stop, networks.config.decoder.audioChannels), frames);
      const whole = Math.floor(state.waves.ready / blockSamples) * blockSamples;
      yield* blocks(networks, state, blockSamples, whole);
    }
  } finally {
    await walk.return(undefined as never); // no effect on a walk that has ended
  }
}

/** The next `count` samples of every clip. */
async function* blocks(
  { config }: Networks,
  state: StreamState,
  blockSamples: number,
  count: number,
): AsyncGenerator<AudioBlock, void, void> {
  const { sampleRate } = config.codec;
  const { audioChannels } = config.decoder;
  for (let left = count; left > 0; left -= blockSamples) {
    const waves = await state.waves.take(Math.min(blockSamples, left));
    const { start } = state;
    state.start += waves[0]?.length ?? 0;
    for (let item = 0; item * audioChannels < waves.length; item++) {
      yield { item, start, sampleRate, channels: waves.slice(item * audioChannels, (item + 1) * audioChannels) };
    }
  }
}

/** The codes of frames as the codec takes them: a row for each channel of each clip, [B·channels, C, F]. */
function rowsOf({ codes }: CompletedFrames, audioChannels: number): Int32Array {
  const parts = codes.flatMap((clip) => deinterleave(clip, audioChannels));
  return Int32Array.from(parts.flatMap(({ values }) => [...values]));
}

function requireTogether({ residency }: Networks): void {
  if (residency === "together") return;
  throw new UsageError({
    asked: "stream the sound while it is generated",
    found: "networks that take turns in memory, where the decoder and the codec are needed together",
    todo: 'Load the model with residency "together", or on a backend with more memory',
  });
}
