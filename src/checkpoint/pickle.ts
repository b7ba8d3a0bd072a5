import type { Dtype } from "./safetensors-header.js";

/**
 * What a restricted unpickler can give: the values of a pickled PyTorch checkpoint, and nothing that could act. Lists,
 * dicts and tensors are plain records; of Python's globals only those of {@link isKnownGlobal} exist, as names.
 */
export type PickleValue =
  | null
  | boolean
  | number
  | bigint // integers beyond 2⁵³
  | string
  | PickledTuple
  | PickledList
  | PickledDict
  | PickledTensor
  | PickledStorage
  | PickledGlobal;

/** A Python tuple. */
export class PickledTuple {
  readonly items: readonly PickleValue[];

  constructor(items: readonly PickleValue[]) {
    this.items = items;
  }
}

/** A Python list. */
export class PickledList {
  readonly items: PickleValue[] = [];
}

/** A Python dict or OrderedDict, in order of insertion. */
export class PickledDict {
  readonly entries: Map<string | number, PickleValue> = new Map();
  readonly isOrdered: boolean;

  /** @param isOrdered an OrderedDict, which may carry attributes; they are dropped */
  constructor(isOrdered: boolean) {
    this.isOrdered = isOrdered;
  }
}

/** Where a tensor's values lie: a run of values of one type, under a key of the file. Tensors may share one. */
export class PickledStorage {
  readonly key: string;
  readonly dtype: Dtype;
  readonly size: number; // values, as the pickle says

  constructor(key: string, dtype: Dtype, size: number) {
    this.key = key;
    this.dtype = dtype;
    this.size = size;
  }
}

/** A view of a storage: value [i, j, …] is at `offset + i · strides[0] + j · strides[1] + …`, checked to lie inside. */
export class PickledTensor {
  readonly storage: PickledStorage;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[]; // in values

  constructor(storage: PickledStorage, offset: number, shape: readonly number[], strides: readonly number[]) {
    this.storage = storage;
    this.offset = offset;
    this.shape = shape;
    this.strides = strides;
  }
}

/** One of the globals that a checkpoint may name; it stands for itself and can't be called by anyone else. */
export class PickledGlobal {
  readonly name: GlobalName;

  constructor(name: GlobalName) {
    this.name = name;
  }
}

/** PyTorch's storage classes. */
export type StorageName = `torch ${
  "Float" | "Half" | "BFloat16" | "Double" | "Long" | "Int" | "Short" | "Char" | "Byte" | "Bool"}Storage`;

/** How the values of each are stored. */
export const STORAGE_DTYPES: Readonly<Record<StorageName, Dtype>> = {
  "torch FloatStorage": "F32",
  "torch HalfStorage": "F16",
  "torch BFloat16Storage": "BF16",
  "torch DoubleStorage": "F64",
  "torch LongStorage": "I64",
  "torch IntStorage": "I32",
  "torch ShortStorage": "I16",
  "torch CharStorage": "I8",
  "torch ByteStorage": "U8",
  "torch BoolStorage": "BOOL",
};

/** The functions and classes that may be called, each by a few lines of the unpickler's own. */
export type CallableName =
  "collections OrderedDict" | "torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_parameter";

const CALLABLES: ReadonlySet<string> = new Set<CallableName>([
  "collections OrderedDict",
  "torch._utils _rebuild_tensor_v2",
  "torch._utils _rebuild_parameter",
]);

/** Every global a file may name, as "module name". */
export type GlobalName = StorageName | CallableName;

/** Whether a file may name this global. */
export function isKnownGlobal(name: string): name is GlobalName {
  return isStorageName(name) || CALLABLES.has(name);
}

/** Whether a name is that of a storage class. */
export function isStorageName(name: string): name is StorageName {
  return Object.hasOwn(STORAGE_DTYPES, name);
}

/** What kind of value this is, in Python's words; for messages. */
export function kindOf(value: PickleValue): string {
  if (value === null) return "None";
  if (value instanceof PickledTuple) return "a tuple";
  if (value instanceof PickledList) return "a list";
  if (value instanceof PickledDict) return "a dict";
  if (value instanceof PickledTensor) return "a tensor";
  if (value instanceof PickledStorage) return "a storage";
  if (value instanceof PickledGlobal) return value.name.replace(" ", ".");
  if (typeof value === "string") return "a text";
  return typeof value === "boolean" ? "a truth value" : "a number";
}
