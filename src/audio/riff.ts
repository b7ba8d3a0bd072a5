import { AudioError } from "../errors.js";

/** The container of WAV files: a row of chunks, each a four-letter name, a length and that many bytes. */

/** One chunk; `bytes` is a view into the file. */
export interface Chunk {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** The chunks of a WAVE file and the byte order of its numbers. */
export interface Riff {
  readonly littleEndian: boolean;
  readonly chunks: readonly Chunk[];
}

const HEADER_BYTES = 12; // "RIFF", length, "WAVE"
const CHUNK_HEADER_BYTES = 8; // name, length
const UNKNOWN_LENGTH = 0xffffffff; // written by programs that stream, and by RF64, which keeps the length elsewhere

/**
 * Splits a file into its chunks: RIFF, its big-endian twin RIFX, or RF64.
 *
 * What follows the samples is not needed to use them: where it is damaged, the chunks end.
 *
 * @throws {AudioError} if it is not a WAVE file, or ends before its samples do.
 */
export function parseRiff(file: Uint8Array, path: string): Riff {
  const container = file.byteLength < HEADER_BYTES ? "" : text(file, 0, 4);
  if (!["RIFF", "RIFX", "RF64"].includes(container) || text(file, 8, 4) !== "WAVE") {
    throw new AudioError({
      asked: `read ${path}`,
      found: `${guessKind(file)}, not a WAV file`,
      todo: "Convert it to WAV first, for example with ffmpeg -i <file> <file>.wav",
    });
  }
  const littleEndian = container !== "RIFX";
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const chunks: Chunk[] = [];
  for (let at = HEADER_BYTES; at + CHUNK_HEADER_BYTES <= file.byteLength;) {
    const name = text(file, at, 4);
    const declared = view.getUint32(at + 4, littleEndian);
    const start = at + CHUNK_HEADER_BYTES;
    const available = file.byteLength - start;
    const length = declared === UNKNOWN_LENGTH ? (sampleBytes64(chunks) ?? available) : declared;
    if (length > available && name !== "data") break;
    if (length > available) {
      throw new AudioError({
        asked: `read ${path}`,
        found: `${available} bytes of samples where its header tells of ${length}`,
        todo: "The file is truncated: get it again",
      });
    }
    chunks.push({ name, bytes: file.subarray(start, start + length) });
    at = start + length + (length % 2); // chunks begin at even positions
  }
  return { littleEndian, chunks };
}

/** RF64 keeps the length of the samples in a chunk "ds64", as its second 64-bit number. */
function sampleBytes64(chunks: readonly Chunk[]): number | undefined {
  const sizes = chunks.find(({ name }) => name === "ds64")?.bytes;
  if (!sizes || sizes.byteLength < 16) return undefined;
  return Number(new DataView(sizes.buffer, sizes.byteOffset, sizes.byteLength).getBigUint64(8, true));
}

function text(bytes: Uint8Array, start: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(start, start + length));
}

function guessKind(file: Uint8Array): string {
  const [first = 0, second = 0] = file;
  const head = text(file, 0, 4);
  if (file.byteLength === 0) return "an empty file";
  if (head.startsWith("ID3") || (first === 0xff && (second & 0xe0) === 0xe0)) return "MP3 or AAC";
  if (head === "fLaC") return "FLAC";
  if (head === "OggS") return "Ogg";
  if (head === "FORM") return "AIFF";
  if (head === "\x1aE\xdf\xa3") return "Matroska or WebM";
  if (text(file, 4, 4) === "ftyp") return "MP4";
  if (head === "RIFF") return "RIFF of another kind";
  return "something else";
}

/**
 * Joins chunks to a file, or to the beginning of one.
 *
 * @param toCome bytes that will follow, and count as the last chunk's
 * @throws {AudioError} if it would be longer than 4 GiB, which the format can't express.
 */
export function buildRiff(chunks: readonly Chunk[], path: string, toCome = 0): Uint8Array {
  const padded = (length: number): number => length + (length % 2);
  const total = chunks.reduce((sum, { bytes }) => sum + CHUNK_HEADER_BYTES + padded(bytes.byteLength), HEADER_BYTES);
  if (total + toCome - CHUNK_HEADER_BYTES >= UNKNOWN_LENGTH) {
    throw new AudioError({
      asked: `write ${path}`,
      found: `${total + toCome} bytes, more than a WAV file can hold`,
      todo: "Split the sound into several files",
    });
  }
  const file = new Uint8Array(total);
  const view = new DataView(file.buffer);
  const put = (at: number, name: string): void => void new TextEncoder().encodeInto(name, file.subarray(at));
  put(0, "RIFF");
  view.setUint32(4, total + toCome - CHUNK_HEADER_BYTES, true);
  put(8, "WAVE");
  let at = HEADER_BYTES;
  for (const { name, bytes } of chunks) {
    put(at, name);
    view.setUint32(at + 4, bytes.byteLength, true);
    file.set(bytes, at + CHUNK_HEADER_BYTES);
    at += CHUNK_HEADER_BYTES + padded(bytes.byteLength);
  }
  return file;
}
