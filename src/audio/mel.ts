/** Filters on the mel scale. */

/** Which filters. */
export interface MelOptions {
  readonly bands: number;
  readonly size: number; // samples of a frame
  readonly sampleRate: number;
  readonly lowest: number; // Hz, where the first filter begins; the last one ends at half the sample rate
}

/** A filter that is 0 except from bin `first` on. */
export interface MelFilter {
  readonly first: number;
  readonly weights: Float64Array; // their sum is 1
}

/**
 * Triangular filters, equally spaced on the scale 2595 · log10(1 + f / 700), each divided by its sum. One so narrow that it
 * holds no bin takes the bin next to its centre.
 *
 * @returns one for each band, lowest first
 */
export function melFilters({ bands, size, sampleRate, lowest }: MelOptions): readonly MelFilter[] {
  const [low, high] = [toMel(lowest), toMel(sampleRate / 2)];
  const edges = Array.from({ length: bands + 2 }, (_, edge) => toHertz(low + ((high - low) * edge) / (bands + 1)));
  return Array.from({ length: bands }, (_, band) => {
    const [left = 0, centre = 0, right = 0] = edges.slice(band, band + 3);
    const all = Float64Array.from({ length: size / 2 + 1 }, (__, bin) => {
      const frequency = (bin * sampleRate) / size;
      return Math.max(0, Math.min((frequency - left) / (centre - left), (right - frequency) / (right - centre)));
    });
    const first = all.findIndex((weight) => weight > 0);
    if (first < 0) return { first: Math.round((centre * size) / sampleRate), weights: Float64Array.of(1) };
    const weights = all.slice(first, all.findLastIndex((weight) => weight > 0) + 1);
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

function toMel(hertz: number): number {
  return 2595 * Math.log10(1 + hertz / 700);
}

function toHertz(mel: number): number {
  return 700 * (10 ** (mel / 2595) - 1);
}
