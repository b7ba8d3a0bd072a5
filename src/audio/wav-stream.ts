import { open, type FileHandle } from "node:fs/promises";
import type { Writable } from "node:stream";

import { AudioError } from "../errors.js";
import { sampleCount, type Audio } from "./audio.js";
import { encodeSamples, wavHeader, type SampleFormat, type WavMetadata } from "./wav.js";

/** Sound written while it comes: a WAV file that grows, or bare samples, to a file or a pipe. */

/** What will be written. */
export interface SoundLayout {
  readonly sampleRate: number;
  readonly channels: number;
  /** How many samples a channel will come: the header tells of them at once. */
  readonly samples: number;
  readonly format: SampleFormat;
  /** `raw`: samples without a header, channels interleaved, little-endian. */
  readonly container: "wav" | "raw";
  readonly metadata?: WavMetadata | undefined;
}

/** Where sound is written to. `close` it. */
export class SoundWriter {
  readonly #layout: SoundLayout;
  readonly #name: string; // for errors
  readonly #write: (bytes: Uint8Array) => Promise<void>;
  readonly #file: FileHandle | undefined;
  #written = 0; // samples a channel
  #clipped = 0;

  private constructor(
    layout: SoundLayout,
    name: string,
    write: (bytes: Uint8Array) => Promise<void>,
    file?: FileHandle,
  ) {
    this.#layout = layout;
    this.#name = name;
    this.#write = write;
    this.#file = file;
  }

  /** Begins a file, in the place of one that is there. @throws {AudioError} if it can't be written. */
  static async toFile(path: string, layout: SoundLayout): Promise<SoundWriter> {
    const file = await open(path, "w").catch((cause: unknown) => {
      throw failure(path, cause);
    });
    const writer = new SoundWriter(layout, path, (bytes) => file.writeFile(bytes), file);
    try {
      await writer.#begin();
    } catch (error) {
      await file.close();
      throw error;
    }
    return writer;
  }

  /** Begins a stream, which stays open at the end. */
  static async toStream(stream: Writable, layout: SoundLayout): Promise<SoundWriter> {
    stream.on("error", () => undefined); // the callback of the write that failed tells
    const write = (bytes: Uint8Array): Promise<void> =>
      new Promise((resolve, reject) => {
        stream.write(bytes, (error) => {
          if (error) reject(error);
          else resolve();
        });
      });
    const writer = new SoundWriter(layout, "the output", write);
    await writer.#begin();
    return writer;
  }

  /** Samples a channel that were written. */
  get written(): number {
    return this.#written;
  }

  /** Samples beyond full scale that 16 bits had to cut off. */
  get clipped(): number {
    return this.#clipped;
  }

  /**
   * Writes a stretch of sound, and waits until it is taken.
   *
   * @throws {AudioError} if it can't be written. If nobody reads the pipe any more, `isClosedPipe` tells of the error.
   */
  async write(audio: Audio): Promise<void> {
    const { bytes, clipped } = encodeSamples(audio, this.#layout.format);
    await this.#put(bytes);
    this.#written += sampleCount(audio);
    this.#clipped += clipped;
  }

  /** Ends it. The header of a file that got fewer samples than it was told of is put right. */
  async close(): Promise<void> {
    try {
      if (!this.#file || this.#layout.container === "raw" || this.#written === this.#layout.samples) return;
      const header = wavHeader({ ...this.#layout, samples: this.#written });
      await this.#file.write(header, 0, header.byteLength, 0);
    } catch (cause) {
      throw failure(this.#name, cause);
    } finally {
      await this.#file?.close();
    }
  }

  async #begin(): Promise<void> {
    if (this.#layout.container === "wav") await this.#put(wavHeader(this.#layout));
  }

  async #put(bytes: Uint8Array): Promise<void> {
    await this.#write(bytes).catch((cause: unknown) => {
      throw failure(this.#name, cause);
    });
  }
}

/** Whether writing failed because the reader of a pipe has gone, as `head` does: no fault of anyone's. */
export function isClosedPipe(error: unknown): boolean {
  const cause = error instanceof AudioError ? error.cause : undefined;
  return cause instanceof Error && "code" in cause && (cause.code === "EPIPE" || cause.code === "ERR_STREAM_DESTROYED");
}

function failure(name: string, cause: unknown): AudioError {
  const found = cause instanceof Error ? cause.message : String(cause);
  return new AudioError({
    asked: `write ${name}`,
    found,
    todo: "Check that there is space left and it may be written",
    cause,
  });
}
