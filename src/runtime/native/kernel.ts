import * as tf from "@tensorflow/tfjs-core";

import type { NativeBackend } from "./backend.js";

/** One call of a kernel: its tensors and attributes by name. */
export class KernelCall {
  readonly backend: NativeBackend;
  readonly #inputs: tf.NamedTensorInfoMap;
  readonly #attrs: tf.NamedAttrMap;

  constructor(backend: NativeBackend, inputs: tf.NamedTensorInfoMap, attrs: tf.NamedAttrMap) {
    this.backend = backend;
    this.#inputs = inputs;
    this.#attrs = attrs;
  }

  input(name: string): tf.TensorInfo {
    const tensor = this.#inputs[name];
    if (tensor === undefined) throw new TypeError(`the kernel needs an input "${name}"`);
    return tensor;
  }

  optional(name: string): tf.TensorInfo | undefined {
    return this.#inputs[name] ?? undefined;
  }

  /** Values of an optional float32 input, null where absent. */
  optionalFloats(name: string): Float32Array | null {
    const tensor = this.optional(name);
    return tensor === undefined ? null : this.backend.floats(tensor);
  }

  /** Inputs of a kernel that takes a list. */
  list(): tf.TensorInfo[] {
    return Object.values(this.#inputs).filter((tensor) => tensor !== undefined);
  }

  /** An attribute as it came. */
  attr(name: string): unknown {
    return this.#attrs[name];
  }

  number(name: string): number {
    const value = this.#attrs[name];
    return typeof value === "number" ? value : wrong(name, "a number", value);
  }

  /** A boolean, false where absent. */
  flag(name: string): boolean {
    const value = this.#attrs[name] ?? false;
    return typeof value === "boolean" ? value : wrong(name, "a boolean", value);
  }

  /** A string, undefined where absent. */
  text(name: string): string | undefined {
    const value = this.#attrs[name] ?? undefined;
    return value === undefined || typeof value === "string" ? value : wrong(name, "a string", value);
  }

  /** A list of numbers; a single number counts as a list of one. */
  numbers(name: string): number[] {
    const value = this.#attrs[name];
    const list: readonly unknown[] = Array.isArray(value) ? value : [value];
    return list.map((item) => (typeof item === "number" ? item : wrong(name, "a list of numbers", value)));
  }

  /** The axes that an attribute names, counted from the first and sorted as given; null names all of them. */
  axes(name: string, shape: readonly number[]): number[] {
    const given = (this.#attrs[name] ?? null) === null ? shape.map((_, axis) => axis) : this.numbers(name);
    return tf.util.parseAxisParam(given, [...shape]);
  }

  /** A list of pairs of numbers, such as paddings. */
  pairs(name: string): [number, number][] {
    const value = this.#attrs[name];
    const list: readonly unknown[] = Array.isArray(value) ? value : wrong(name, "a list of pairs", value);
    return list.map((pair) => {
      const [first, second] = Array.isArray(pair) ? (pair as readonly unknown[]) : [];
      if (typeof first === "number" && typeof second === "number") return [first, second];
      return wrong(name, "a list of pairs", value);
    });
  }

  allFloat(...names: readonly string[]): boolean {
    return names.every((name) => this.input(name).dtype === "float32");
  }
}

/** What a kernel returns; undefined: it leaves the call to the cpu backend's kernel. */
export type KernelResult = tf.TensorInfo | tf.TensorInfo[] | undefined;

/** A kernel of the native backend. */
export interface NativeKernel {
  readonly name: string;
  readonly run: (call: KernelCall) => KernelResult;
}

function wrong(name: string, expected: string, value: unknown): never {
  throw new TypeError(`the attribute "${name}" must be ${expected}, not ${JSON.stringify(value)}`);
}

/** Registers a kernel of `backend`, in front of the cpu backend's if that has one of the name. */
export function registerNativeKernel(backend: NativeBackend, { name, run }: NativeKernel): void {
  const general = tf.getKernel(name, "cpu") as tf.KernelConfig | undefined;
  tf.registerKernel({
    kernelName: name,
    backendName: "native",
    kernelFunc: ({ inputs, attrs }) => {
      const result = run(new KernelCall(backend, inputs, attrs ?? {}));
      if (result !== undefined) return result;
      if (general) return general.kernelFunc({ inputs, attrs: attrs ?? {}, backend });
      throw new TypeError(`the native kernel ${name} was given tensors it cannot use`);
    },
  });
}
