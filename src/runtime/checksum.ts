/**
 * XXH32 of Yann Collet's xxHash (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md), seed 0: the checksum
 * that packed checkpoints carry for every tensor. It finds damage; it is no proof against intent.
 */

const PRIME_1 = 0x9e3779b1;
const PRIME_2 = 0x85ebca77;
const PRIME_3 = 0xc2b2ae3d;
const PRIME_4 = 0x27d4eb2f;
const PRIME_5 = 0x165667b1;

let fast: ((bytes: Uint8Array) => number) | undefined;

/** Has the native backend's version do the work from now on: ten times as fast, the same numbers. */
export function useFastChecksum(version: (bytes: Uint8Array) => number): void {
  fast = version;
}

/** The checksum of `bytes`, from 0 to 2³² − 1. */
export function checksum(bytes: Uint8Array): number {
  return fast ? fast(bytes) : xxh32(bytes);
}

/** The same in plain JavaScript. */
export function xxh32(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = bytes.byteLength;
  let at = 0;
  let hash = PRIME_5;
  if (length >= 16) {
    let [a, b, c, d] = [(PRIME_1 + PRIME_2) | 0, PRIME_2, 0, -PRIME_1];
    for (; at <= length - 16; at += 16) {
      a = mix(a, view.getInt32(at, true));
      b = mix(b, view.getInt32(at + 4, true));
      c = mix(c, view.getInt32(at + 8, true));
      d = mix(d, view.getInt32(at + 12, true));
    }
    hash = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
  }
  hash = (hash + length) | 0;
  for (; at <= length - 4; at += 4) {
    hash = Math.imul(rotate(hash + Math.imul(view.getInt32(at, true), PRIME_3), 17), PRIME_4);
  }
  for (; at < length; at++) hash = Math.imul(rotate(hash + Math.imul(view.getUint8(at), PRIME_5), 11), PRIME_1);
  hash = Math.imul(hash ^ (hash >>> 15), PRIME_2);
  hash = Math.imul(hash ^ (hash >>> 13), PRIME_3);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function mix(lane: number, input: number): number {
  return Math.imul(rotate(lane + Math.imul(input, PRIME_2), 13), PRIME_1);
}

function rotate(word: number, bits: number): number {
  return (word << bits) | (word >>> (32 - bits));
}

/** As packed files write it: eight hexadecimal digits. */
export function checksumText(value: number): string {
  return value.toString(16).padStart(8, "0");
}
