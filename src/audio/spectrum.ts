/** Short-time spectra on the host, in float64. */

/** How a sound is cut into frames. */
export interface FrameOptions {
  readonly size: number; // samples of a frame, a power of two
  readonly hop: number; // samples from one frame to the next
  /** Without it true: see below. False: the first frame begins at sample 0, and only whole frames count. */
  readonly centred?: boolean | undefined;
}

/**
 * Power spectra |S|² under a periodic Hann window. Frames are centred on samples 0, hop, 2 hop, … and the sound's ends are
 * continued by reflection, as `torch.stft` with `center` does; with `centred: false` frames are whole ones, the first from
 * sample 0 on.
 *
 * @param samples mono, at least one
 * @returns 1 + ⌊N / hop⌋ frames (not centred: 1 + ⌊(N − size) / hop⌋, none of a shorter sound), one after another, each of
 *   size / 2 + 1 values. A frame is overwritten by the next one.
 * @throws {RangeError} if the size is no power of two.
 */
export function* powerSpectra(
  samples: Float32Array,
  { size, hop, centred = true }: FrameOptions,
): Generator<Float64Array, void> {
  const transform = new Fourier(size);
  const window = Float64Array.from({ length: size }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / size));
  const real = new Float64Array(size);
  const imaginary = new Float64Array(size);
  const power = new Float64Array(size / 2 + 1);
  const [first, last] = centred ? [-size / 2, samples.length - size / 2] : [0, samples.length - size];
  for (let start = first; start <= last; start += hop) {
    for (let n = 0; n < size; n++) {
      real[n] = (window[n] ?? 0) * (samples[reflect(start + n, samples.length)] ?? 0);
      imaginary[n] = 0;
    }
    transform.run(real, imaginary);
    for (let bin = 0; bin < power.length; bin++) power[bin] = (real[bin] ?? 0) ** 2 + (imaginary[bin] ?? 0) ** 2;
    yield power;
  }
}

/** Index into a sound that is continued by reflection at both ends, as often as needed. */
function reflect(index: number, length: number): number {
  if (length === 1) return 0;
  const period = 2 * (length - 1);
  const inPeriod = ((index % period) + period) % period;
  return inPeriod < length ? inPeriod : period - inPeriod;
}

/** The discrete Fourier transform of one size, in place: Cooley and Tukey's, by powers of two. */
class Fourier {
  readonly #size: number;
  readonly #cosines: Float64Array;
  readonly #sines: Float64Array;
  readonly #reversed: Int32Array;

  constructor(size: number) {
    if (size < 2 || (size & (size - 1)) !== 0) throw new RangeError(`a transform of ${size}, which is no power of two`);
    this.#size = size;
    this.#cosines = Float64Array.from({ length: size / 2 }, (_, n) => Math.cos((2 * Math.PI * n) / size));
    this.#sines = Float64Array.from({ length: size / 2 }, (_, n) => -Math.sin((2 * Math.PI * n) / size));
    this.#reversed = new Int32Array(size);
    for (let index = 1; index < size; index++) {
      this.#reversed[index] = ((this.#reversed[index >> 1] ?? 0) >> 1) | (index & 1 ? size >> 1 : 0);
    }
  }

  run(real: Float64Array, imaginary: Float64Array): void {
    for (let index = 0; index < this.#size; index++) {
      const other = this.#reversed[index] ?? 0;
      if (other <= index) continue;
      swap(real, index, other);
      swap(imaginary, index, other);
    }
    for (let half = 1; half < this.#size; half *= 2) {
      const stride = this.#size / (2 * half);
      for (let start = 0; start < this.#size; start += 2 * half) {
        for (let offset = 0; offset < half; offset++) {
          const [low, high] = [start + offset, start + offset + half];
          const cosine = this.#cosines[offset * stride] ?? 0;
          const sine = this.#sines[offset * stride] ?? 0;
          const [a, b] = [real[high] ?? 0, imaginary[high] ?? 0];
          const turnedReal = a * cosine - b * sine;
          const turnedImaginary = a * sine + b * cosine;
          real[high] = (real[low] ?? 0) - turnedReal;
          imaginary[high] = (imaginary[low] ?? 0) - turnedImaginary;
          real[low] = (real[low] ?? 0) + turnedReal;
          imaginary[low] = (imaginary[low] ?? 0) + turnedImaginary;
        }
      }
    }
  }
}

function swap(values: Float64Array, a: number, b: number): void {
  const kept = values[a] ?? 0;
  values[a] = values[b] ?? 0;
  values[b] = kept;
}
