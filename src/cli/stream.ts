import type { Writable } from "node:stream";

import { isClosedPipe, SoundWriter, type SoundLayout } from "../audio/wav-stream.js";
import { UsageError } from "../errors.js";
import type { AudioStream, StreamEnd } from "../musicgen.js";
import { numberedPath } from "./clips.js";

/** How samples without a header are laid out, by the names that other programs have for them. */
export const PCM_FORMATS = { s16le: "pcm16", f32le: "float32" } as const;

/** The standard output, in the place of a file's name. */
export const STDOUT = "-";

/** The standard output, or what stands for it. */
type Output = Writable & { readonly isTTY?: boolean };

/** What became of a stream. */
export interface Streamed {
  readonly files: readonly string[];
  readonly seconds: number; // of each clip, that were written
  readonly clipped: number;
  readonly end: StreamEnd | undefined; // undefined: the reader has gone
  readonly firstBlockMs: number | undefined; // until the first block was written
}

/**
 * Writes a stream as it comes: each clip to its file, or the only one to the standard output.
 *
 * A reader that closes the pipe ends it quietly, as `head` does to any program.
 *
 * @param pcm bare samples instead of WAV
 * @throws {UsageError} if several clips should go to the standard output, or that is a terminal; {@link AudioError} if a file can't be
 *   written.
 */
export async function writeStream(
  stream: AudioStream,
  output: string,
  count: number,
  pcm: keyof typeof PCM_FORMATS | undefined,
  stdout: Output = process.stdout,
): Promise<Streamed> {
  requireOutput(output, count, stdout);
  const started = performance.now();
  const { sampleRate, channels, samples, settings } = stream;
  const writers: SoundWriter[] = [];
  const files = output === STDOUT ? [] : Array.from({ length: count }, (_, item) => numberedPath(output, item, count));
  const blocks = stream[Symbol.asyncIterator]();
  let firstBlockMs: number | undefined;
  const outcome = (end: StreamEnd | undefined): Streamed => ({
    files,
    seconds: (writers[0]?.written ?? 0) / sampleRate,
    clipped: writers.reduce((sum, { clipped }) => sum + clipped, 0),
    end,
    firstBlockMs,
  });
  try {
    for (let item = 0; item < count; item++) {
      const layout: SoundLayout = {
        ...{ sampleRate, channels, samples, metadata: { ...settings, item } },
        format: pcm ? PCM_FORMATS[pcm] : "pcm16",
        container: pcm ? "raw" : "wav",
      };
      const file = files[item];
      writers.push(
        await (file === undefined ? SoundWriter.toStream(stdout, layout) : SoundWriter.toFile(file, layout)),
      );
    }
    for (;;) {
      const next = await blocks.next();
      if (next.done) return outcome(next.value);
      await writers[next.value.item]?.write(next.value);
      firstBlockMs ??= performance.now() - started;
    }
  } catch (error) {
    if (isClosedPipe(error)) return outcome(undefined);
    throw error;
  } finally {
    await blocks.return(undefined as never); // no effect on a stream that has ended
    for (const writer of writers) await writer.close();
  }
}

function requireOutput(output: string, count: number, { isTTY }: Output): void {
  if (output !== STDOUT) return;
  const refuse = (found: string, todo: string): UsageError =>
    new UsageError({ asked: "write to the standard output", found, todo });
  if (count > 1) throw refuse(`${count} clips`, "Ask for one, or give the name of a file");
  if (isTTY === true) throw refuse("a terminal, which would show noise", "Pipe it on, or give the name of a file");
}
