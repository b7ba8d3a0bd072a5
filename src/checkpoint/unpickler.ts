import { PickleError } from "../errors.js";
import {
  isKnownGlobal,
  isStorageName,
  kindOf,
  PickledDict,
  PickledGlobal,
  PickledList,
  PickledStorage,
  PickledTensor,
  PickledTuple,
  STORAGE_DTYPES,
  type PickleValue,
} from "./pickle.js";
import { opcodeName } from "./pickle-opcodes.js";

/**
 * A restricted unpickler for PyTorch checkpoints. A pickle is a program for a small stack machine, and Python's own
 * machine can call any function that the program names. This one knows the instructions that build tensors, dicts, lists,
 * tuples, texts and numbers; it calls nothing. Any other instruction, and any global but the few of `pickle.ts`, is
 * refused by name.
 *
 * The format is that of Python's `pickletools` (protocols 2 to 5), the tensors' that of `torch.save`.
 *
 * Time and memory are bounded by the length of the input: every instruction takes at least a byte, none copies more than
 * it takes off the stack, values nest by reference, and nothing recurses.
 */

/** The longest pickle: musicgen-small has one of 85 kB. */
export const MAX_PICKLE_BYTES: number = 2 ** 24;

/** The most instructions of one pickle, each of which may make an object of a hundred bytes. musicgen-small's has 20 000. */
const MAX_INSTRUCTIONS = 500_000;

const MAX_RANK = 8; // of a tensor; the models' own go up to 3
const MAX_GLOBAL_BYTES = 256; // of each of a global's two names
const MAX_INTEGER_BYTES = 16; // the format's own magic number takes 10

/** One unpickled value, and where its pickle ended. */
export interface Unpickled {
  readonly value: PickleValue;
  readonly end: number; // index of the first byte after it
}

/** Thrown inside where the bytes end before the pickle does: with more of them it might go on. */
export class UnfinishedPickle extends PickleError {}

const MARK = Symbol("mark");

/**
 * Runs one pickle.
 *
 * @param bytes with the pickle at `start`; what follows it is not looked at
 * @param path named in errors
 * @throws {PickleError} if it asks for anything else than the values above, or breaks the format; {@link UnfinishedPickle}
 *   if the bytes end too early.
 */
export function unpickle(bytes: Uint8Array, path: string, start = 0): Unpickled {
  return new Unpickler(bytes, path, start).run();
}

class Unpickler {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #path: string;
  #at: number;
  #stack: (PickleValue | typeof MARK)[] = [];
  readonly #memo = new Map<number, PickleValue>();

  constructor(bytes: Uint8Array, path: string, start: number) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#path = path;
    this.#at = start;
  }

  run(): Unpickled {
    for (let count = 0; count < MAX_INSTRUCTIONS; count++) {
      const opcode = this.#byte();
      if (opcode === 0x2e) return this.#finish(); // STOP
      this.#step(opcode);
    }
    throw this.#refuse(
      `more than ${MAX_INSTRUCTIONS} instructions`,
      "No checkpoint needs so many: don't use this file",
    );
  }

  #finish(): Unpickled {
    const value = this.#pop();
    if (this.#stack.length > 0) throw this.#broken("values left over at its end");
    return { value, end: this.#at };
  }

  #step(opcode: number): void {
    switch (opcode) {
      // framing
      case 0x80: // PROTO
        return this.#checkProtocol(this.#byte());
      case 0x95: // FRAME
        return this.#skipFrame();
      case 0x28: // MARK
        this.#stack.push(MARK);
        return;
      // plain values
      case 0x4e: // NONE
        return this.#push(null);
      case 0x88: // NEWTRUE
        return this.#push(true);
      case 0x89: // NEWFALSE
        return this.#push(false);
      case 0x4a: // BININT
        return this.#push(this.#view.getInt32(this.#take(4), true));
      case 0x4b: // BININT1
        return this.#push(this.#byte());
      case 0x4d: // BININT2
        return this.#push(this.#view.getUint16(this.#take(2), true));
      case 0x8a: // LONG1
        return this.#push(this.#integer(this.#byte()));
      case 0x47: // BINFLOAT
        return this.#push(this.#view.getFloat64(this.#take(8), false));
      case 0x58: // BINUNICODE
        return this.#push(this.#text(this.#view.getUint32(this.#take(4), true)));
      case 0x8c: // SHORT_BINUNICODE
        return this.#push(this.#text(this.#byte()));
      // containers
      case 0x29: // EMPTY_TUPLE
        return this.#push(new PickledTuple([]));
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        return this.#push(new PickledTuple(this.#popMany(opcode - 0x84)));
      case 0x74: // TUPLE
        return this.#push(new PickledTuple(this.#popToMark()));
      case 0x5d: // EMPTY_LIST
        return this.#push(new PickledList());
      case 0x61: // APPEND
        return this.#append([this.#pop()]);
      case 0x65: // APPENDS
        return this.#append(this.#popToMark());
      case 0x7d: // EMPTY_DICT
        return this.#push(new PickledDict(false));
      case 0x73: // SETITEM
        return this.#setItems(this.#popMany(2));
      case 0x75: // SETITEMS
        return this.#setItems(this.#popToMark());
      // the memo
      case 0x71: // BINPUT
        return this.#remember(this.#byte());
      case 0x72: // LONG_BINPUT
        return this.#remember(this.#view.getUint32(this.#take(4), true));
      case 0x94: // MEMOIZE
        return this.#remember(this.#memo.size);
      case 0x68: // BINGET
        return this.#recall(this.#byte());
      case 0x6a: // LONG_BINGET
        return this.#recall(this.#view.getUint32(this.#take(4), true));
      // what checkpoints are made of
      case 0x63: // GLOBAL
        return this.#pushGlobal(this.#line(), this.#line());
      case 0x93: // STACK_GLOBAL
        return this.#pushStackGlobal();
      case 0x51: // BINPERSID
        return this.#push(this.#storage(this.#pop()));
      case 0x52: // REDUCE
        return this.#call();
      case 0x62: // BUILD
        return this.#dropAttributes();
      default:
        throw this.#refuse(
          `the instruction ${opcodeName(opcode)} at byte ${this.#at - 1}`,
          "tonearm reads tensors, dicts, lists and numbers only: use safetensors, or a file from a source you trust",
        );
    }
  }

  #checkProtocol(version: number): void {
    if (version < 2 || version > 5) throw this.#broken(`protocol ${version}`);
  }

  /** A frame announces its length; its content follows as usual. */
  #skipFrame(): void {
    this.#take(8);
  }

  #append(items: readonly PickleValue[]): void {
    const list = this.#peek();
    if (!(list instanceof PickledList)) throw this.#broken(`items appended to ${kindOf(list)}`);
    for (const item of items) list.items.push(item);
  }

  #setItems(items: readonly PickleValue[]): void {
    const dict = this.#peek();
    if (!(dict instanceof PickledDict)) throw this.#broken(`items set on ${kindOf(dict)}`);
    if (items.length % 2 !== 0) throw this.#broken("a key without a value");
    for (let index = 0; index < items.length; index += 2) {
      const key = items[index] ?? null;
      if (typeof key !== "string" && typeof key !== "number") throw this.#broken(`a dict's key that is ${kindOf(key)}`);
      dict.entries.set(key, items[index + 1] ?? null);
    }
  }

  #remember(index: number): void {
    this.#memo.set(index, this.#peek());
  }

  #recall(index: number): void {
    const value = this.#memo.get(index);
    if (value === undefined) throw this.#broken(`a reference to value ${index}, which was never stored`);
    this.#push(value);
  }

  #pushStackGlobal(): void {
    const [module, name] = this.#popMany(2);
    if (typeof module !== "string" || typeof name !== "string") throw this.#broken("a global whose name is no text");
    this.#pushGlobal(module, name);
  }

  #pushGlobal(module: string, name: string): void {
    const fullName = `${module} ${name}`;
    if (!isKnownGlobal(fullName)) {
      throw this.#refuse(
        `the Python global ${show(`${module}.${name}`)}, which is no part of a checkpoint's tensors`,
        "Nothing was run. Use safetensors, or save the bare state dict anew in Python",
      );
    }
    this.#push(new PickledGlobal(fullName));
  }

  /** torch.save's persistent ids: ("storage", type, key, location, size), in files before 1.6 with a view at the end. */
  #storage(id: PickleValue): PickledStorage {
    const items = id instanceof PickledTuple ? id.items : [];
    const [tag, type, key, , size, view] = items;
    if (tag !== "storage" || !(type instanceof PickledGlobal) || typeof key !== "string" || !isCount(size)) {
      throw this.#broken("a persistent id that is no tensor storage");
    }
    const name = type.name;
    if (!isStorageName(name)) throw this.#broken(`a storage of type ${kindOf(type)}`);
    if (view !== undefined && view !== null) {
      throw this.#refuse("a view of a storage, as only PyTorch before 0.4 wrote", "Save it anew with a later PyTorch");
    }
    return new PickledStorage(key, STORAGE_DTYPES[name], size);
  }

  #call(): void {
    const [callee, args] = this.#popMany(2);
    if (!(callee instanceof PickledGlobal) || !(args instanceof PickledTuple)) {
      throw this.#broken(`a call of ${kindOf(callee ?? null)}`);
    }
    switch (callee.name) {
      case "collections OrderedDict":
        if (args.items.length > 0) throw this.#broken("an OrderedDict with arguments");
        return this.#push(new PickledDict(true));
      case "torch._utils _rebuild_tensor_v2":
        return this.#push(this.#tensor(args.items));
      case "torch._utils _rebuild_parameter": {
        const [tensor] = args.items; // then: whether it is trained, and hooks
        if (tensor instanceof PickledTensor) return this.#push(tensor);
        throw this.#broken(`a parameter made of ${kindOf(tensor ?? null)}`);
      }
      default:
        throw this.#broken(`a call of ${kindOf(callee)}`);
    }
  }

  /** (storage, offset, shape, strides, requires_grad, backward_hooks[, metadata]) */
  #tensor([storage, offset, shape, strides, , , metadata]: readonly PickleValue[]): PickledTensor {
    if (!(storage instanceof PickledStorage)) throw this.#broken("a tensor without a storage");
    if (
      metadata !== undefined &&
      metadata !== null &&
      !(metadata instanceof PickledDict && metadata.entries.size === 0)
    ) {
      throw this.#refuse("a tensor with metadata (conjugated or negated)", "Save it in Python after `.clone()`");
    }
    const sizes = shape instanceof PickledTuple ? shape.items : undefined;
    const steps = strides instanceof PickledTuple ? strides.items : undefined;
    if (!isCount(offset) || !sizes?.every(isCount) || !steps?.every(isCount) || sizes.length !== steps.length) {
      throw this.#broken("a tensor whose shape, strides or offset are no counts");
    }
    if (sizes.length > MAX_RANK) throw this.#broken(`a tensor of ${sizes.length} dimensions`);
    const size = sizes.reduce((product, count) => product * count, 1);
    const last = sizes.reduce((sum, count, axis) => sum + (count - 1) * (steps[axis] ?? 0), offset);
    if (size > storage.size || (size > 0 && last >= storage.size)) {
      throw this.#broken(`a tensor of shape [${sizes.join(",")}] that leaves its storage of ${storage.size} values`);
    }
    return new PickledTensor(storage, offset, sizes, steps);
  }

  /** Python sets an object's attributes; only an OrderedDict's are allowed (a state dict's versions), and dropped. */
  #dropAttributes(): void {
    const [object, state] = this.#popMany(2);
    if (object instanceof PickledDict && object.isOrdered && state instanceof PickledDict) return this.#push(object);
    throw this.#broken(`attributes of ${kindOf(object ?? null)}`);
  }

  #push(value: PickleValue): void {
    this.#stack.push(value);
  }

  #pop(): PickleValue {
    const value = this.#stack.pop();
    if (value === undefined || value === MARK) throw this.#broken("an instruction that lacks a value");
    return value;
  }

  #peek(): PickleValue {
    const value = this.#stack.at(-1);
    if (value === undefined || value === MARK) throw this.#broken("an instruction that lacks a value");
    return value;
  }

  #popMany(count: number): readonly PickleValue[] {
    const items: PickleValue[] = [];
    for (let index = 0; index < count; index++) items.unshift(this.#pop());
    return items;
  }

  #popToMark(): readonly PickleValue[] {
    const mark = this.#stack.lastIndexOf(MARK);
    if (mark < 0) throw this.#broken("an instruction that lacks its mark");
    const items = this.#stack.splice(mark).slice(1);
    return items as readonly PickleValue[]; // the last mark is the only one among them
  }

  #byte(): number {
    return this.#view.getUint8(this.#take(1));
  }

  /** Consumes bytes. @returns where they start */
  #take(count: number): number {
    const start = this.#at;
    if (count > this.#bytes.byteLength - start) {
      const found = `its end after ${this.#bytes.byteLength} bytes, in the middle of the pickle`;
      throw new UnfinishedPickle({ asked: `unpickle ${this.#path}`, found, todo: FETCH_AGAIN });
    }
    this.#at = start + count;
    return start;
  }

  #text(length: number): string {
    const start = this.#take(length);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.#bytes.subarray(start, this.#at));
    } catch {
      throw this.#broken("a text that is not UTF-8");
    }
  }

  /** A line of a global's name. */
  #line(): string {
    const limit = this.#bytes.subarray(this.#at, this.#at + MAX_GLOBAL_BYTES);
    const length = limit.indexOf(0x0a);
    if (length < 0 && limit.length === MAX_GLOBAL_BYTES) throw this.#broken("a global with an endless name");
    if (length < 0) this.#take(limit.length + 1); // the bytes end
    const text = this.#text(length);
    this.#take(1);
    return text;
  }

  /** A little-endian integer in two's complement. */
  #integer(length: number): number | bigint {
    if (length > MAX_INTEGER_BYTES) throw this.#broken(`an integer of ${length} bytes`);
    const start = this.#take(length);
    let value = 0n;
    for (let index = length - 1; index >= 0; index--)
      value = (value << 8n) | BigInt(this.#view.getUint8(start + index));
    const signed = BigInt.asIntN(8 * length, value);
    return BigInt(Number(signed)) === signed && Number.isSafeInteger(Number(signed)) ? Number(signed) : signed;
  }

  #broken(found: string): PickleError {
    return this.#refuse(found, FETCH_AGAIN);
  }

  #refuse(found: string, todo: string): PickleError {
    return new PickleError({ asked: `unpickle ${this.#path}`, found, todo });
  }
}

const FETCH_AGAIN = "Fetch the file again: it is damaged, or no checkpoint of PyTorch";

function isCount(value: PickleValue | undefined): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

/** A name from the file, printable and of bounded length. */
function show(text: string): string {
  const printable = JSON.stringify(text).slice(1, -1);
  return printable.length > 200 ? `${printable.slice(0, 200)}…` : printable;
}
