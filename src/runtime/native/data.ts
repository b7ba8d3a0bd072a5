import type { DataType } from "@tensorflow/tfjs-core";

import { UsageError } from "../../errors.js";
import type { CacheStorage } from "../attention.js";
import { STORAGE, type Addon, type StoreHandle, type WeightHandle } from "./addon.js";
import { weightFailure } from "./failures.js";

/**
 * What lies behind a tensor of the native backend where it is not a plain typed array. To any kernel that doesn't know
 * better, `values` are the tensor's float32 values, made for it on each call.
 */

/** The weight of a linear layer: a tensor [in, out] whose values are stored [out, in], perhaps in fewer bits. */
export class WeightData {
  readonly dtype: DataType = "float32";
  refCount = 1;
  readonly handle: WeightHandle;
  readonly inputs: number;
  readonly outputs: number;
  readonly precision: number; // code of what products with it are rounded to
  readonly what: string; // for errors
  readonly #addon: Addon;

  constructor(
    addon: Addon,
    handle: WeightHandle,
    { inputs, outputs, precision, what }: Pick<WeightData, "inputs" | "outputs" | "precision" | "what">,
  ) {
    this.#addon = addon;
    this.handle = handle;
    this.inputs = inputs;
    this.outputs = outputs;
    this.precision = precision;
    this.what = what;
  }

  get values(): Float32Array {
    const values = new Float32Array(this.inputs * this.outputs);
    this.use(() => {
      this.#addon.readWeight(this.handle, values);
    });
    return values;
  }

  /**
   * Runs a kernel that reads the weight.
   *
   * @throws {CheckpointError} if it lies in a file that became shorter.
   */
  use(kernel: () => void): void {
    try {
      kernel();
    } catch (cause) {
      throw weightFailure(cause, `use ${this.what}`);
    }
  }

  release(): void {
    this.#addon.releaseWeight(this.handle);
  }
}

/** Memory that the tensors of one growing cache share. It is freed with the last of them. */
export class GrowingStore {
  readonly handle: StoreHandle;
  readonly storage: CacheStorage;
  filled = 0; // positions written
  #users = 0;
  readonly #addon: Addon;

  constructor(addon: Addon, heads: number, width: number, capacity: number, storage: CacheStorage) {
    this.#addon = addon;
    this.storage = storage;
    this.handle = addon.makeStore(heads, width, capacity, STORAGE[storage]);
  }

  /**
   * Writes `count` positions [heads, count, width] after the last.
   *
   * @throws {UsageError} if rounding to float16 would make a finite number infinite; it then wrote nothing.
   */
  append(x: Float32Array, count: number): void {
    const beyond = this.#addon.appendToStore(this.handle, x, count);
    if (beyond > 0) {
      throw new UsageError({
        asked: "keep keys and values of attention as f16",
        found: `a magnitude of ${beyond}, where float16 ends at 65504`,
        todo: "Leave the cache at its default, f32; or, if steering made it so large, steer less",
      });
    }
    this.filled += count;
  }

  retain(): void {
    this.#users += 1;
  }

  release(): void {
    this.#users -= 1;
    if (this.#users === 0) this.#addon.releaseStore(this.handle);
  }
}

/**
 * The first `count` positions of a store, as a tensor [R, H, T', Dh]. Positions once written never change, so a tensor
 * stays what it was while longer ones share its memory, as slices of a Go array do.
 */
export class GrowingData {
  readonly dtype: DataType = "float32";
  refCount = 1;
  readonly store: GrowingStore;
  readonly count: number;
  readonly #addon: Addon;
  readonly #size: number;

  constructor(addon: Addon, store: GrowingStore, count: number, size: number) {
    this.#addon = addon;
    this.store = store;
    this.count = count;
    this.#size = size;
    store.retain();
  }

  get values(): Float32Array {
    const values = new Float32Array(this.#size);
    this.#addon.readStore(this.store.handle, this.count, values);
    return values;
  }

  release(): void {
    this.store.release();
  }
}
