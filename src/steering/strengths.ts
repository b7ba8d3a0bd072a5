import * as tf from "@tensorflow/tfjs-core";

/** The strengths of one intervention in one pass, for each row and position: [R · T]. Undefined: all 0. */
export type Strengths = Float32Array | undefined;

/** Strengths as a step takes them. */
export interface StepStrengths {
  readonly tensor: tf.Tensor2D; // [places, n]
  /** Whether it is kept for other sites and passes; otherwise it is the caller's. */
  readonly shared: boolean;
}

/** Leaves out, at a site, the places that an intervention's dice leave out. Without dice it gives back what it got. */
export type Draw = (intervention: number, strengths: Float32Array, site: number) => Strengths;

/**
 * The strengths of a run as tensors. A pass needs one for all its sites, and a strength that stays the same needs one for
 * all passes: so a generation step makes none but where a ramp, a gate or dice are at work.
 */
export class StrengthTensors {
  readonly #draw: Draw;
  readonly #kept = new Map<string, tf.Tensor2D>();
  #strengths: readonly Strengths[] = [];

  constructor(draw: Draw) {
    this.#draw = draw;
  }

  /** A pass begins. @param strengths of each intervention */
  enter(strengths: readonly Strengths[]): void {
    const same = strengths.every((one, index) => isEqual(one, this.#strengths[index]));
    if (same && strengths.length === this.#strengths.length) return;
    this.dispose();
    this.#strengths = strengths;
  }

  /**
   * The strengths of a step.
   *
   * @param interventions whose directions move the activation
   * @param site number of the site
   * @param places rows × positions that the site has: the first ones of the pass, where only those read a text
   * @returns undefined where all are 0.
   */
  of(interventions: readonly number[], site: number, places: number): StepStrengths | undefined {
    if (interventions.every((index) => this.#strengths[index] === undefined)) return undefined;
    const drawn = interventions.map((index) => {
      const strengths = this.#strengths[index];
      return strengths && this.#draw(index, strengths, site);
    });
    if (drawn.every((one) => one === undefined)) return undefined;
    if (drawn.some((one, column) => one !== this.#strengths[interventions[column] ?? 0])) {
      return { tensor: columns(drawn, places), shared: false };
    }
    const key = `${interventions.join()} ${places}`;
    const known = this.#kept.get(key);
    if (known) return { tensor: known, shared: true };
    const tensor = columns(drawn, places);
    this.#kept.set(key, tensor);
    return { tensor, shared: true };
  }

  /** Frees all that is kept. */
  dispose(): void {
    this.#kept.forEach((tensor) => tensor.dispose());
    this.#kept.clear();
    this.#strengths = [];
  }
}

/** Strengths side by side. @returns [places, n] */
function columns(strengths: readonly Strengths[], places: number): tf.Tensor2D {
  const count = strengths.length;
  const values = new Float32Array(places * count);
  strengths.forEach((one, column) => {
    for (let place = 0; place < places; place++) values[place * count + column] = one?.[place] ?? 0;
  });
  return tf.tensor2d(values, [places, count]); // [places, n]
}

function isEqual(a: Strengths, b: Strengths): boolean {
  if (a === b) return true;
  return a !== undefined && b?.length === a.length && a.every((value, index) => value === b[index]);
}
