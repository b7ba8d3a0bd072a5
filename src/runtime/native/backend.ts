import * as tf from "@tensorflow/tfjs-core";
import { MathBackendCPU } from "@tensorflow/tfjs-backend-cpu";

import { STORAGE, type Addon, type WeightHandle } from "./addon.js";
import { GrowingData, GrowingStore, WeightData } from "./data.js";
import { BufferPool } from "./pool.js";
import { SlotStorage } from "./slots.js";

/** A tensor that a kernel is about to fill. */
export interface Output<Values> {
  readonly info: tf.TensorInfo;
  readonly values: Values;
}

/**
 * The TF.js backend `native`: the cpu backend with other memory and with its hot kernels in C++.
 *
 * Every kernel of the cpu backend works on it, because a tensor's values are where that backend looks for them. They come
 * from a pool, and what the user reads is a copy: the pool may overwrite a tensor's memory once the tensor is disposed,
 * but never what somebody still holds.
 */
export class NativeBackend extends MathBackendCPU {
  readonly addon: Addon;
  readonly pool: BufferPool = new BufferPool();

  constructor(addon: Addon) {
    super();
    this.data = new SlotStorage(this);
    this.addon = addon;
  }

  /** Registers values that come from outside of this backend, or from a kernel of the cpu backend. */
  override write(values: tf.backend_util.BackendValues, _shape: number[], dtype: tf.DataType): tf.DataId {
    // Some kernels of the cpu backend return a view of their input's memory.
    if (ArrayBuffer.isView(values)) this.pool.share(values);
    const dataId = newDataId();
    this.data.set(dataId, { values, dtype, refCount: 1 });
    return dataId;
  }

  override move(
    dataId: tf.DataId,
    values: tf.backend_util.BackendValues,
    _shape: number[],
    dtype: tf.DataType,
    refCount: number,
  ): void {
    if (ArrayBuffer.isView(values)) this.pool.share(values);
    this.data.set(dataId, { values, dtype, refCount });
  }

  override readSync(dataId: tf.DataId): tf.backend_util.BackendValues {
    const entry = this.data.get(dataId);
    if (entry instanceof WeightData || entry instanceof GrowingData) return entry.values;
    const values = super.readSync(dataId);
    if (values instanceof Float32Array || values instanceof Int32Array) {
      return this.pool.owns(values) ? values.slice() : values;
    }
    return values;
  }

  override async read(dataId: tf.DataId): Promise<tf.backend_util.BackendValues> {
    return this.readSync(dataId);
  }

  override disposeData(dataId: tf.DataId, force = false): boolean {
    if (!this.data.has(dataId)) return true;
    const entry = this.data.get(dataId);
    if (!super.disposeData(dataId, force)) return false;
    if (entry instanceof WeightData || entry instanceof GrowingData) entry.release();
    else if (ArrayBuffer.isView(entry.values)) this.pool.giveBack(entry.values);
    return true;
  }

  /** Values of a float32 tensor, to read only. */
  floats(tensor: tf.TensorInfo): Float32Array {
    const { values } = this.data.get(tensor.dataId);
    if (values instanceof Float32Array) return values;
    throw new TypeError(`the native backend expected a float32 tensor, got ${tensor.dtype}`);
  }

  /** Values of an int32 tensor, to read only. */
  integers(tensor: tf.TensorInfo): Int32Array {
    const { values } = this.data.get(tensor.dataId);
    if (values instanceof Int32Array) return values;
    throw new TypeError(`the native backend expected an int32 tensor, got ${tensor.dtype}`);
  }

  /** A float32 tensor whose values the caller writes, all of them. */
  floatOutput(shape: number[]): Output<Float32Array> {
    const values = this.pool.floats(tf.util.sizeFromShape(shape));
    return { info: this.#register(values, shape, "float32"), values };
  }

  /** An int32 tensor whose values the caller writes, all of them. */
  integerOutput(shape: number[]): Output<Int32Array> {
    const values = this.pool.integers(tf.util.sizeFromShape(shape));
    return { info: this.#register(values, shape, "int32"), values };
  }

  /** The same data under another shape. */
  reshaped({ dataId, dtype }: tf.TensorInfo, shape: number[]): tf.TensorInfo {
    this.incRef(dataId);
    return { dataId, shape, dtype };
  }

  #register(values: Float32Array | Int32Array, shape: number[], dtype: tf.DataType): tf.TensorInfo {
    const dataId = newDataId();
    this.data.set(dataId, { values, dtype, refCount: 1 });
    return { dataId, shape, dtype };
  }

  /** The native weight behind a tensor [in, out], if it is one. */
  weight({ dataId, shape }: tf.TensorInfo): WeightData | undefined {
    const entry = this.data.get(dataId);
    if (!(entry instanceof WeightData) || shape.length !== 2 || shape[0] !== entry.inputs) return undefined;
    return entry;
  }

  /** The growing store behind a tensor, if there is one. */
  growing(tensor: tf.TensorInfo): GrowingData | undefined {
    const entry = this.data.get(tensor.dataId);
    return entry instanceof GrowingData ? entry : undefined;
  }

  /**
   * A weight [in, out] made of checkpoint matrices [outᵢ, in], joined along their outputs; `storage` and `precision` as for
   * the addon.
   */
  linearWeight(parts: readonly Float32Array[], inputs: number, storage: number, precision: number): tf.TensorInfo {
    const outputs = parts.reduce((sum, part) => sum + part.length / inputs, 0);
    const handle = this.addon.makeWeight(parts, inputs, storage);
    return this.registerWeight(handle, { inputs, outputs, precision, what: "weights in memory" });
  }

  /** A tensor [in, out] of a weight that the addon made. */
  registerWeight(handle: WeightHandle, traits: ConstructorParameters<typeof WeightData>[2]): tf.TensorInfo {
    const dataId = newDataId();
    this.data.set(dataId, new WeightData(this.addon, handle, traits));
    return { dataId, shape: [traits.inputs, traits.outputs], dtype: "float32" };
  }

  /** How a weight is stored, or undefined if the tensor is a plain one. */
  storageOf(tensor: tf.Tensor): keyof typeof STORAGE | undefined {
    const weight = this.weight(tensor);
    if (weight === undefined) return undefined;
    const code = this.addon.weightStorage(weight.handle);
    return (Object.keys(STORAGE) as (keyof typeof STORAGE)[]).find((name) => STORAGE[name] === code);
  }

  /** A tensor [R, H, count, Dh] that shares `store`. */
  growingOutput(store: GrowingStore, shape: number[], count: number): tf.TensorInfo {
    const dataId = newDataId();
    this.data.set(dataId, new GrowingData(this.addon, store, count, tf.util.sizeFromShape(shape)));
    return { dataId, shape, dtype: "float32" };
  }
}

/** Made with its slot, so that all data ids look alike to the JavaScript engine. */
function newDataId(): tf.DataId {
  return { slot: undefined };
}
