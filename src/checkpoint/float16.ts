/** The two 16-bit float formats of weight files, as float32 and back. JavaScript has no typed array for either yet. */

const LARGEST_HALF = 65504;

let halfValues: Float32Array | undefined;

/** Every float16 value by its bit pattern: a look-up is several times faster than taking the bits apart. */
function halfTable(): Float32Array {
  if (halfValues) return halfValues;
  halfValues = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >>> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 0) halfValues[bits] = sign * fraction * 2 ** -24;
    else if (exponent === 31) halfValues[bits] = fraction === 0 ? sign * Infinity : NaN;
    else halfValues[bits] = sign * (1024 + fraction) * 2 ** (exponent - 25);
  }
  return halfValues;
}

/** float16 bit patterns as float32 values; exact. */
export function halfToFloat(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const table = halfTable();
  const values = new Float32Array(bits.length);
  for (let index = 0; index < bits.length; index++) values[index] = table[bits[index] ?? 0] ?? NaN;
  return values;
}

/** bfloat16 bit patterns as float32 values; exact: bfloat16 is the upper half of a float32. */
export function bfloatToFloat(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(bits.length);
  for (let index = 0; index < bits.length; index++) words[index] = (bits[index] ?? 0) << 16;
  return new Float32Array(words.buffer);
}

/**
 * float32 values as float16 bit patterns, rounded to nearest, ties to even (IEEE 754, as PyTorch's `.half()`).
 * Values from 65520 on become infinite: {@link fitsHalf} tells beforehand.
 */
export function floatToHalf(values: Float32Array): Uint16Array<ArrayBuffer> {
  const halves = new Uint16Array(values.length);
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const scratch = new Float32Array(1);
  const scratchWord = new Uint32Array(scratch.buffer);
  for (let index = 0; index < values.length; index++) {
    const word = words[index] ?? 0;
    const sign = (word >>> 16) & 0x8000;
    const magnitude = word & 0x7fffffff;
    if (magnitude > 0x7f800000) {
      halves[index] = sign | 0x7e00; // NaN
    } else if (magnitude >= 0x47800000) {
      halves[index] = sign | 0x7c00; // 65536 and more
    } else if (magnitude < 0x38800000) {
      // Subnormal halves are multiples of 2⁻²⁴, which is the spacing of float32 at 0.5: adding 0.5 rounds to them.
      scratch[0] = Math.abs(values[index] ?? 0) + 0.5;
      halves[index] = sign | ((scratchWord[0] ?? 0) - 0x3f000000);
    } else {
      const even = (magnitude >>> 13) & 1;
      halves[index] = sign | ((magnitude - 0x38000000 + 0xfff + even) >>> 13);
    }
  }
  return halves;
}

/** Whether rounding to float16 keeps `value` finite. Infinities and NaN stay what they are, so they fit. */
export function fitsHalf(value: number): boolean {
  return !Number.isFinite(value) || Math.abs(value) < LARGEST_HALF + 16;
}
