/**
 * Memory for tensors, used again and again: a decoding step asks for the same sizes every time, so after the first one
 * nothing is allocated.
 */

/** One piece of memory. */
class Block {
  readonly buffer: ArrayBuffer;
  readonly sizeClass: number; // in 4-byte words
  /** Something besides the block's own tensor may see the memory, so it must not be used again. */
  shared = false;
  floats: Float32Array | undefined;
  integers: Int32Array | undefined;

  constructor(sizeClass: number) {
    this.buffer = new ArrayBuffer(4 * sizeClass);
    this.sizeClass = sizeClass;
  }
}

const SMALLEST = 16; // words: a cache line
const FREE_LIMIT = 512 * 2 ** 20; // bytes kept for later; what is given back beyond that goes to the garbage collector

export class BufferPool {
  readonly #free = new Map<number, Block[]>();
  readonly #blocks = new WeakMap<ArrayBufferLike, Block>();
  #freeBytes = 0;

  /** Bytes that wait for use. */
  get freeBytes(): number {
    return this.#freeBytes;
  }

  /** Memory for `length` floats, with whatever values it had. */
  floats(length: number): Float32Array {
    const block = this.#take(length);
    if (block.floats?.length !== length) block.floats = new Float32Array(block.buffer, 0, length);
    return block.floats;
  }

  /** Memory for `length` integers, with whatever values it had. */
  integers(length: number): Int32Array {
    const block = this.#take(length);
    if (block.integers?.length !== length) block.integers = new Int32Array(block.buffer, 0, length);
    return block.integers;
  }

  /** Whether the memory behind `array` came from here. */
  owns(array: ArrayBufferView): boolean {
    return this.#blocks.has(array.buffer);
  }

  /** Notes that another tensor sees the memory behind `array`, if that came from here: it will not be used again. */
  share(array: ArrayBufferView): void {
    const block = this.#blocks.get(array.buffer);
    if (block) block.shared = true;
  }

  /** Takes memory back that nobody reads any more. Does nothing with memory that isn't from here, or that is shared. */
  giveBack(array: ArrayBufferView): void {
    const block = this.#blocks.get(array.buffer);
    if (block === undefined || block.shared || this.#freeBytes + block.buffer.byteLength > FREE_LIMIT) return;
    this.#freeBytes += block.buffer.byteLength;
    const waiting = this.#free.get(block.sizeClass);
    if (waiting) waiting.push(block);
    else this.#free.set(block.sizeClass, [block]);
  }

  #take(length: number): Block {
    const sizeClass = sizeClassOf(length);
    const waiting = this.#free.get(sizeClass)?.pop();
    if (waiting) {
      this.#freeBytes -= waiting.buffer.byteLength;
      return waiting;
    }
    const block = new Block(sizeClass);
    this.#blocks.set(block.buffer, block);
    return block;
  }
}

/** The next of four sizes per power of two: at most a quarter too large. */
function sizeClassOf(length: number): number {
  if (length <= SMALLEST) return SMALLEST;
  const step = 2 ** Math.max(0, Math.floor(Math.log2(length - 1)) - 2);
  return Math.ceil(length / step) * step;
}
