import * as tf from "@tensorflow/tfjs-core";

/** A data id with what the native backend holds for it. */
interface Slotted<Entry> {
  slot?: Entry | undefined;
}

/**
 * TF.js's table of a backend's data, kept on the data ids themselves: every op looks up each of its tensors a few times,
 * and a weak map takes several times longer than a property.
 */
export class SlotStorage<Entry> extends tf.DataStorage<Entry> {
  #count = 0;
  readonly #owner: tf.KernelBackend;

  constructor(owner: tf.KernelBackend) {
    super(owner, tf.engine());
    this.#owner = owner;
  }

  /** Fetches the data from another backend if it is there. */
  override get(dataId: tf.DataId): Entry {
    const id: Slotted<Entry> = dataId;
    if (id.slot === undefined) tf.engine().moveData(this.#owner, dataId);
    if (id.slot === undefined) throw new RangeError("a tensor has no data on any backend");
    return id.slot;
  }

  override set(dataId: tf.DataId, entry: Entry): void {
    const id: Slotted<Entry> = dataId;
    id.slot = entry;
    this.#count += 1;
  }

  override has(dataId: tf.DataId): boolean {
    const id: Slotted<Entry> = dataId;
    return id.slot !== undefined;
  }

  override delete(dataId: tf.DataId): boolean {
    const id: Slotted<Entry> = dataId;
    if (id.slot === undefined) return false;
    id.slot = undefined;
    this.#count -= 1;
    return true;
  }

  override numDataIds(): number {
    return this.#count;
  }
}
