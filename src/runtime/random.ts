import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";

/** A stream of uniform numbers in [0, 1). */
export type Uniforms = () => number;

const GOLDEN_RATIO_32 = 0x9e3779b9; // 2³² / φ: spreads consecutive items over the seed space

/**
 * The uniform numbers of one batch item: a xoroshiro128+ stream that depends on `seed` and `item` alone, drawn on the
 * host, so that a clip is the same in every batch and on every backend.
 *
 * @param seed any 32-bit integer
 * @param item index of the clip in its request, from 0
 */
export function uniformStream(seed: number, item: number): Uniforms {
  const generator = xoroshiro128plus((seed ^ Math.imul(item, GOLDEN_RATIO_32)) | 0);
  return () => uniformFloat64(generator);
}
