import * as tf from "@tensorflow/tfjs-core";

import type { Activation } from "../activations/activation.js";
import type { Site } from "../activations/catalogue.js";
import type { Hook } from "../activations/hooks.js";
import { UsageError } from "../errors.js";
import type { PassContext } from "../model/pass.js";
import { invalid } from "./fields.js";
import { bestUnits, conceptIndex, steerableSites, vectorsAt, type NamedVectors, type SteerableModel } from "./plan.js";
import type { GateSpec } from "./spec.js";

/**
 * Gates: what a probe reads while the clip is made sets the strength of the next pass. They work while generating only:
 * what is read at a position depends on what the gate let through at those before it, so that a teacher-forced pass, which
 * has all of them at once, can't know its strengths.
 *
 * A reading is the median over the best units of sigmoid(gain · (direction · x) + bias), as the self-monitor of SMITIN
 * (arXiv 2404.02252, top 16 heads). x is the activation at the last position of a clip's first row, before steering at
 * that same site but after steering upstream. It is the probe's opinion, not evidence that the music changed.
 */

/** What a gate reads, ready for a model. */
export interface GatePlan {
  readonly spec: GateSpec;
  readonly threshold: number; // of "monitor"
  readonly normalized: boolean; // the probe reads activations of length 1
  readonly unitsBySite: ReadonlyMap<string, readonly Unit[]>;
}

interface Unit {
  readonly offset: number; // of its activation in a position's values
  readonly direction: Float32Array;
  readonly gain: number;
  readonly bias: number;
}

/** @throws {UsageError} with the field's path for sites, concepts or units that don't exist. */
export function planGate(
  spec: GateSpec,
  path: string,
  model: SteerableModel,
  catalogue: readonly Site[],
  named: NamedVectors,
): GatePlan {
  const { vectors: name, concept, sites: selection, top } = spec.monitor;
  const vectors = named[name];
  if (!vectors) throw new RangeError(`the spec was parsed without vectors "${name}"`);
  const index = conceptIndex(vectors, name, concept, `${path}.monitor.concept`);
  const sites = steerableSites(selection, `${path}.monitor.sites`, model, catalogue).map((site) =>
    vectorsAt(vectors, name, site, `${path}.monitor.sites`),
  );
  const scores = sites.map(({ score }) => score);
  const count = scores.reduce((total, { length }) => total + length, 0);
  if (top > count) throw invalid(`${path}.monitor.top`, `${top} of ${count} units`, `Give 1 … ${count}`);
  const best = bestUnits(scores, top);
  const unitsBySite = new Map<string, Unit[]>();
  for (const { site: number, unit } of best) {
    const found = sites[number];
    if (!found) continue;
    const units = found.score.length;
    const width = found.directions.length / vectors.concepts.length / units;
    const start = (index * units + unit) * width;
    const read: Unit = {
      offset: unit * width,
      direction: found.directions.subarray(start, start + width),
      gain: found.gain[index * units + unit] ?? NaN,
      bias: found.bias[index * units + unit] ?? NaN,
    };
    const others = unitsBySite.get(found.site);
    if (others) others.push(read);
    else unitsBySite.set(found.site, [read]);
  }
  const bestScores = best.map(({ score }) => score);
  const threshold =
    spec.kind === "monitor" && spec.threshold !== "scores"
      ? spec.threshold
      : median(bestScores) - deviation(bestScores);
  return { spec, threshold, normalized: vectors.normalized, unitsBySite };
}

/** A gate at work in one run: a factor of the strength for each clip. */
export class Gate {
  readonly #plan: GatePlan;
  readonly #factors: Float64Array; // [B]
  readonly #probabilities: number[][]; // [B][units read in this pass]
  readonly #controllers: readonly Controller[]; // [B]
  #readings: readonly number[] = [];
  #pass: PassContext | undefined; // that the probabilities are of

  constructor(plan: GatePlan, batch: number) {
    this.#plan = plan;
    this.#probabilities = Array.from({ length: batch }, () => []);
    this.#controllers = Array.from({ length: batch }, () => new Controller(plan));
    this.#factors = Float64Array.from(this.#controllers, (controller) => controller.initial);
  }

  /** Each clip's factor of the strength, 0 … 1. */
  get factors(): Float64Array {
    return this.#factors;
  }

  /** What was read of each clip in the last pass; empty before the first. */
  get readings(): readonly number[] {
    return this.#readings;
  }

  /** Reads the units' activations. */
  hook(name: string): Hook {
    return { sites: [...this.#plan.unitsBySite.keys()], name, run: (value, at) => this.#read(value, at) };
  }

  /** A pass begins: turns what was read in the one before into its factors. Safe to call again in the same pass. */
  enter(pass: PassContext): void {
    if (this.#pass === pass) return;
    this.#pass = pass;
    if (this.#probabilities.some(({ length }) => length === 0)) return;
    this.#readings = this.#probabilities.map(median);
    this.#readings.forEach((reading, item) => (this.#factors[item] = this.#controllers[item]?.next(reading) ?? 0));
    this.#probabilities.forEach((list) => list.splice(0));
  }

  async #read(value: tf.Tensor, at: Activation): Promise<undefined> {
    if (at.phase === "forward") {
      throw new UsageError({
        asked: "steer a teacher-forced pass with a gate",
        found: "all its positions at once, where a gate needs them one after another",
        todo: 'Generate instead, or leave the gate out of the spec ("gate": null)',
      });
    }
    this.enter(at.pass);
    const units = this.#plan.unitsBySite.get(at.site) ?? [];
    const [rows = 1, positions = 1, ...features] = value.shape;
    const width = features.reduce((product, size) => product * size, 1);
    const last = tf.tidy(() =>
      tf.slice(tf.reshape(value, [rows, positions, width]), [0, positions - 1, 0], [this.#factors.length, 1, width]),
    ); // [B, 1, U · W]
    const activations = await last.data();
    last.dispose();
    this.#probabilities.forEach((list, item) => {
      for (const unit of units) list.push(probability(unit, activations, item * width, this.#plan.normalized));
    });
    return undefined;
  }
}

/** Turns the readings of one clip into factors. */
class Controller {
  readonly #plan: GatePlan;
  #sum = 0;
  #previous: number | undefined;

  constructor(plan: GatePlan) {
    this.#plan = plan;
  }

  /** Before anything was read: a monitor lets through, a controller acts as if nothing of the concept were there. */
  get initial(): number {
    const { spec } = this.#plan;
    return spec.kind === "pid" ? clampToUnit(spec.kp * spec.target) : 1;
  }

  next(reading: number): number {
    const { spec, threshold } = this.#plan;
    if (spec.kind === "monitor") return reading >= threshold ? 0 : 1 - spec.decay * reading;
    const error = spec.target - reading;
    this.#sum += error;
    const change = this.#previous === undefined ? 0 : error - this.#previous;
    this.#previous = error;
    return clampToUnit(spec.kp * error + spec.ki * this.#sum + spec.kd * change);
  }
}

function probability(
  { offset, direction, gain, bias }: Unit,
  values: ArrayLike<number>,
  start: number,
  normalized: boolean,
): number {
  let product = 0;
  let square = 0;
  for (let index = 0; index < direction.length; index++) {
    const value = values[start + offset + index] ?? NaN;
    product += value * (direction[index] ?? NaN);
    square += value * value;
  }
  const read = normalized && square > 0 ? product / Math.sqrt(square) : product;
  return 1 / (1 + Math.exp(-(gain * read + bias)));
}

/** The middle value; of two, their mean. */
export function median(values: readonly number[]): number {
  const ascending = values.toSorted((a, b) => a - b);
  const middle = ascending.length / 2;
  return ((ascending[Math.ceil(middle) - 1] ?? NaN) + (ascending[Math.floor(middle)] ?? NaN)) / 2;
}

function deviation(values: readonly number[]): number {
  const mean = values.reduce((total, value) => total + value, 0) / values.length;
  return Math.sqrt(values.reduce((total, value) => total + (value - mean) ** 2, 0) / values.length);
}

function clampToUnit(value: number): number {
  return Math.min(1, Math.max(0, value));
}
