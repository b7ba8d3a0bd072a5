import { randomBytes } from "node:crypto";
import { open, readFile, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";

import { AudioError } from "../errors.js";
import { checkAudio, checkSampleRate, sampleCount, type Audio } from "./audio.js";
import { buildRiff, parseRiff, type Chunk, type Riff } from "./riff.js";

/** Settings kept inside a WAV file. */
export type WavMetadata = Readonly<Record<string, unknown>>;

/** 16-bit integers, which every player knows, or float32, which keeps every bit. */
export type SampleFormat = "pcm16" | "float32";

/** How to write a WAV file. */
export interface WavOptions {
  /** Default: pcm16. */
  readonly format?: SampleFormat;
  /** Kept as JSON in the file's comment, where {@link readWavMetadata} finds it. */
  readonly metadata?: WavMetadata;
}

/** What writing did to the sound. */
export interface WavReport {
  /** Samples outside −1 … 1 that pcm16 had to cut off. float32 keeps them. */
  readonly clipped: number;
}

const MOST_BYTES = 2 ** 31 - 1; // what Node reads at once: three hours of 48 kHz stereo in 32 bits

/** Codings by their number in the file. */
const PCM = 1;
const FLOAT = 3;
const A_LAW = 6;
const MU_LAW = 7;
const EXTENSIBLE = 0xfffe;

/** Bytes that one sample may take in each coding. */
const SAMPLE_WIDTHS: Readonly<Record<number, readonly number[]>> = {
  [PCM]: [1, 2, 3, 4],
  [FLOAT]: [4, 8],
  [A_LAW]: [1],
  [MU_LAW]: [1],
};

/**
 * Reads a WAV file: integers of 8 to 32 bits, floats of 32 and 64, A-law and µ-law, any number of channels.
 *
 * @returns samples as float32, integers scaled so that the lowest one is −1
 * @throws {AudioError} if the file is missing, no WAV, truncated, empty, of another coding or has samples that are no
 *   numbers.
 */
export async function readWav(path: string): Promise<Audio> {
  const riff = parseRiff(await readWhole(path), path);
  const format = parseFormat(riff, path);
  const data = riff.chunks.find(({ name }) => name === "data")?.bytes;
  if (!data) throw refuse(path, "no samples", "The file is truncated: get it again");
  const samples = decode(data, riff.littleEndian, format, path);
  const audio = { sampleRate: format.sampleRate, channels: separate(samples, format.channels) };
  checkAudio(audio, `read ${path}`);
  return audio;
}

/**
 * The settings that {@link writeWav} left in a file.
 *
 * @returns undefined if the file has no comment, or one that is not a JSON object
 * @throws {AudioError} if the file can't be read or is no WAV.
 */
export async function readWavMetadata(path: string): Promise<WavMetadata | undefined> {
  const { chunks, littleEndian } = parseRiff(await readWhole(path), path);
  for (const { name, bytes } of chunks) {
    const comment = name === "LIST" ? findComment(bytes, littleEndian) : undefined;
    if (comment === undefined) continue;
    try {
      const value: unknown = JSON.parse(comment);
      if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as WavMetadata;
    } catch {
      // Somebody else's comment.
    }
  }
  return undefined;
}

/**
 * Writes a WAV file. It appears under its name only when it is complete: a failure leaves what was there.
 *
 * Integers are scaled so that −1 is the lowest one, so a pcm16 file that is read and written again is the same.
 *
 * @throws {AudioError} if the sound has NaN or infinite samples, no samples, channels of different lengths or a senseless
 *   sample rate, or the file can't be written.
 */
export async function writeWav(
  path: string,
  audio: Audio,
  { format = "pcm16", metadata }: WavOptions = {},
): Promise<WavReport> {
  checkAudio(audio, `write ${path}`);
  const { bytes, clipped } = encodeSamples(audio, format);
  const { sampleRate, channels } = audio;
  const chunks: Chunk[] = [
    ...describingChunks({ sampleRate, channels: channels.length, samples: sampleCount(audio), format }),
    { name: "data", bytes },
    ...(metadata ? [{ name: "LIST", bytes: commentChunk(metadata) }] : []),
  ];
  await writeWhole(path, buildRiff(chunks, path));
  return { clipped };
}

/** Samples as they lie in a file: little-endian, channels interleaved, integers cut off at full scale. */
export function encodeSamples(
  audio: Audio,
  format: SampleFormat,
): { readonly bytes: Uint8Array; readonly clipped: number } {
  const { samples, clipped } = format === "pcm16" ? toIntegers(audio) : { samples: toFloats(audio), clipped: 0 };
  return { bytes: new Uint8Array(samples.buffer), clipped };
}

/** What a header tells of the samples behind it. */
export interface WavHeader {
  readonly sampleRate: number;
  readonly channels: number;
  readonly samples: number; // per channel
  readonly format: SampleFormat;
  readonly metadata?: WavMetadata | undefined;
}

/**
 * The beginning of a WAV file, up to where its samples start. Its length depends on the metadata, not on how many samples
 * there are.
 *
 * @throws {AudioError} if the file would be longer than the format can express.
 */
export function wavHeader(header: WavHeader): Uint8Array {
  const { samples, channels, format, metadata } = header;
  const dataBytes = samples * channels * WIDTHS[format];
  const chunks: Chunk[] = [
    ...describingChunks(header),
    ...(metadata ? [{ name: "LIST", bytes: commentChunk(metadata) }] : []),
    { name: "data", bytes: new Uint8Array(0) },
  ];
  const bytes = buildRiff(chunks, "a WAV file", dataBytes);
  new DataView(bytes.buffer).setUint32(bytes.byteLength - 4, dataBytes, true);
  return bytes;
}

const WIDTHS: Readonly<Record<SampleFormat, number>> = { pcm16: 2, float32: 4 }; // bytes

function describingChunks(header: WavHeader): readonly Chunk[] {
  const { samples, format } = header;
  const fact = { name: "fact", bytes: new Uint8Array(Uint32Array.of(samples).buffer) };
  return [{ name: "fmt ", bytes: formatChunk(header) }, ...(format === "float32" ? [fact] : [])];
}

/** How samples are laid out. */
interface Format {
  readonly coding: number;
  readonly channels: number;
  readonly sampleRate: number;
  readonly bytesPerSample: number;
}

function parseFormat({ chunks, littleEndian }: Riff, path: string): Format {
  const bytes = chunks.find(({ name }) => name === "fmt ")?.bytes;
  if (!bytes || bytes.byteLength < 16) {
    throw refuse(path, "no description of its samples", "The file is damaged: get it again");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tag = view.getUint16(0, littleEndian);
  // The extensible form keeps the number of the coding at the head of a 16-byte identifier.
  const coding = tag === EXTENSIBLE && bytes.byteLength >= 26 ? view.getUint16(24, littleEndian) : tag;
  const channels = view.getUint16(2, littleEndian);
  const sampleRate = view.getUint32(4, littleEndian);
  const bytesPerFrame = view.getUint16(12, littleEndian);
  checkSampleRate(sampleRate, `read ${path}`);
  if (channels === 0) throw refuse(path, "0 channels", "The file is damaged: get it again");
  const widths = SAMPLE_WIDTHS[coding];
  if (!widths) {
    const found = `samples in coding ${coding}, which is not supported`;
    throw refuse(path, found, "Convert it to PCM, for example with ffmpeg");
  }
  const bytesPerSample = bytesPerFrame / channels;
  if (!widths.includes(bytesPerSample)) {
    const found = `${bytesPerFrame} bytes for ${channels} channels in coding ${coding}`;
    throw refuse(path, found, "The file is damaged: get it again");
  }
  return { coding, channels, sampleRate, bytesPerSample };
}

/** Interleaved samples. */
function decode(
  data: Uint8Array,
  littleEndian: boolean,
  { coding, channels, bytesPerSample }: Format,
  path: string,
): Float32Array {
  const surplus = data.byteLength % (bytesPerSample * channels);
  if (surplus !== 0) throw refuse(path, "a last sample that is not complete", "The file is truncated: get it again");
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const read = sampleReader(view, littleEndian, coding, bytesPerSample);
  const samples = new Float32Array(data.byteLength / bytesPerSample);
  for (let index = 0; index < samples.length; index++) samples[index] = read(index * bytesPerSample);
  return samples;
}

/** A function from byte position to sample. */
function sampleReader(
  view: DataView,
  littleEndian: boolean,
  coding: number,
  bytesPerSample: number,
): (at: number) => number {
  if (coding === A_LAW) return (at) => expandALaw(view.getUint8(at));
  if (coding === MU_LAW) return (at) => expandMuLaw(view.getUint8(at));
  if (coding === FLOAT && bytesPerSample === 4) return (at) => view.getFloat32(at, littleEndian);
  if (coding === FLOAT) return (at) => view.getFloat64(at, littleEndian);
  switch (bytesPerSample) {
    case 1:
      return (at) => (view.getUint8(at) - 128) / 2 ** 7; // the only width without a sign
    case 2:
      return (at) => view.getInt16(at, littleEndian) / 2 ** 15;
    case 3: {
      const [low, high] = littleEndian ? [0, 1] : [2, 0];
      return (at) => (view.getInt16(at + high, littleEndian) * 2 ** 8 + view.getUint8(at + low)) / 2 ** 23;
    }
    default:
      return (at) => view.getInt32(at, littleEndian) / 2 ** 31;
  }
}

/** ITU-T G.711: sign, 3 bits of exponent, 4 of mantissa, every other bit inverted. */
function expandALaw(code: number): number {
  const bits = code ^ 0x55;
  const exponent = (bits >> 4) & 7;
  const step = ((bits & 15) << 4) + 8;
  const magnitude = exponent === 0 ? step : (step + 0x100) << (exponent - 1);
  return (bits & 0x80 ? magnitude : -magnitude) / 2 ** 15;
}

/** ITU-T G.711: sign, 3 bits of exponent, 4 of mantissa, all inverted, around a bias of 132. */
function expandMuLaw(code: number): number {
  const bits = ~code;
  const magnitude = ((((bits & 15) << 3) + 132) << ((bits >> 4) & 7)) - 132;
  return (bits & 0x80 ? 0 - magnitude : magnitude) / 2 ** 15; // no negative zero
}

function separate(samples: Float32Array, channels: number): readonly Float32Array[] {
  if (channels === 1) return [samples];
  const length = Math.floor(samples.length / channels);
  return Array.from({ length: channels }, (_, channel) => {
    const own = new Float32Array(length);
    for (let index = 0; index < length; index++) own[index] = samples[index * channels + channel] ?? NaN;
    return own;
  });
}

function toIntegers(audio: Audio): { readonly samples: Int16Array; readonly clipped: number } {
  const count = audio.channels.length;
  const samples = new Int16Array(sampleCount(audio) * count);
  let clipped = 0;
  for (const [channel, values] of audio.channels.entries()) {
    for (const [index, value] of values.entries()) {
      if (value > 1 || value < -1) clipped++;
      samples[index * count + channel] = Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
    }
  }
  return { samples, clipped };
}

function toFloats(audio: Audio): Float32Array {
  const count = audio.channels.length;
  const samples = new Float32Array(sampleCount(audio) * count);
  for (const [channel, values] of audio.channels.entries()) {
    for (const [index, value] of values.entries()) samples[index * count + channel] = value;
  }
  return samples;
}

function formatChunk({ sampleRate, channels, format }: WavHeader): Uint8Array {
  const bytes = new Uint8Array(format === "pcm16" ? 16 : 18); // floats have a length of further fields: none
  const view = new DataView(bytes.buffer);
  view.setUint16(0, format === "pcm16" ? PCM : FLOAT, true);
  view.setUint16(2, channels, true);
  view.setUint32(4, sampleRate, true);
  view.setUint32(8, sampleRate * channels * WIDTHS[format], true);
  view.setUint16(12, channels * WIDTHS[format], true);
  view.setUint16(14, 8 * WIDTHS[format], true);
  return bytes;
}

/** A list "INFO" with one entry "ICMT", a text that ends with a zero. Only ASCII, as the format names no encoding. */
function commentChunk(metadata: WavMetadata): Uint8Array {
  const json = JSON.stringify(metadata).replace(
    /[\u0080-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  const text = Buffer.from(`${json}\0`);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.byteLength);
  return Buffer.concat([Buffer.from("INFOICMT"), length, text]);
}

function findComment(list: Uint8Array, littleEndian: boolean): string | undefined {
  const bytes = Buffer.from(list.buffer, list.byteOffset, list.byteLength);
  if (bytes.toString("latin1", 0, 4) !== "INFO") return undefined;
  for (let at = 4; at + 8 <= bytes.byteLength;) {
    const length = littleEndian ? bytes.readUInt32LE(at + 4) : bytes.readUInt32BE(at + 4);
    const text = bytes.subarray(at + 8, at + 8 + length);
    if (bytes.toString("latin1", at, at + 4) === "ICMT") return text.toString("utf8").replace(/\0.*$/s, "");
    at += 8 + length + (length % 2);
  }
  return undefined;
}

async function readWhole(path: string): Promise<Uint8Array> {
  const found = await stat(path).catch((cause: unknown) => {
    const missing = errorCode(cause) === "ENOENT";
    throw refuse(path, missing ? "no such file" : describe(cause), "Check the path", cause);
  });
  if (found.isDirectory()) throw refuse(path, "a folder", "Give a WAV file");
  if (found.size > MOST_BYTES) {
    throw refuse(path, `${found.size} bytes, more than ${MOST_BYTES}`, "Cut the sound into shorter files");
  }
  return readFile(path).catch((cause: unknown) => {
    throw refuse(path, describe(cause), "Check that the file may be read", cause);
  });
}

async function writeWhole(path: string, bytes: Uint8Array): Promise<void> {
  const folder = dirname(path);
  const temporary = join(folder, `.tonearm-${randomBytes(6).toString("hex")}.partial`);
  const existing = await stat(path).catch(() => undefined);
  if (existing && !existing.isFile()) {
    const found = existing.isDirectory() ? "a folder of that name" : "something of that name that is no file";
    throw new AudioError({ asked: `write ${path}`, found, todo: "Give the name of a file" });
  }
  try {
    const file = await open(temporary, "wx");
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined); // the first failure is the one to tell of
    const noFolder = errorCode(cause) === "ENOENT" || errorCode(cause) === "ENOTDIR";
    throw new AudioError({
      asked: `write ${path}`,
      found: noFolder ? `no folder ${folder}` : describe(cause),
      todo: noFolder ? "Make the folder first" : `Check that ${folder} may be written to and has space left`,
      cause,
    });
  }
}

function refuse(path: string, found: string, todo: string, cause?: unknown): AudioError {
  return new AudioError({ asked: `read ${path}`, found, todo, cause });
}

function describe(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

function errorCode(cause: unknown): unknown {
  return cause instanceof Error && "code" in cause ? cause.code : undefined;
}
