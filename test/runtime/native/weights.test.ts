import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";

import { UsageError } from "../../../src/errors.js";
import { useBackend } from "../../../src/runtime/backend.js";
import {
  linear,
  linearWeight,
  linearWeightAs,
  MANY_ROWS,
  requirePrecision,
  type HostMatrix,
  type Precision,
  type WeightStorage,
} from "../../../src/runtime/linear.js";
import type { NativeBackend } from "../../../src/runtime/native/backend.js";
import { describeNative, describeOnEachKernelSet, native, numbers } from "./support.js";

/** Weights in every storage, and the linear layers that read them. */

const SHAPES: readonly (readonly [outputs: number, inputs: number])[] = [
  [1, 1],
  [7, 3],
  [33, 31],
  [40, 32],
  [5, 100],
  [130, 257],
  [64, 2100], // longer than what the integer kernels sum at once
];
const ROWS = [1, 2, 3, 4, 5, 9, 23, 24, 50];

function matrix(seed: number, rows: number, columns: number, round = (value: number) => value): HostMatrix {
  return { values: numbers(seed)(rows * columns).map(round), rows, columns };
}

/** Rounds to 10 bits of fraction: binary16 holds that exactly below 1. */
const toHalf = (value: number): number => Math.round(value * 1024) / 1024;

/** x · W, summed in float64. */
function product(x: Float32Array, weight: ArrayLike<number>, inputs: number, outputs: number): Float64Array {
  const rows = x.length / inputs;
  const y = new Float64Array(rows * outputs);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < inputs; k++) {
      const value = x[row * inputs + k] ?? 0;
      for (let o = 0; o < outputs; o++) {
        y[row * outputs + o] = (y[row * outputs + o] ?? 0) + value * (weight[k * outputs + o] ?? 0);
      }
    }
  }
  return y;
}

function stored(storage: WeightStorage, ...parts: readonly HostMatrix[]): tf.Tensor2D {
  return linearWeightAs({ storage, precision: "f32" }, ...parts);
}

async function values(tensor: tf.Tensor): Promise<Float32Array> {
  const data = await tensor.data<"float32">();
  tensor.dispose();
  return data;
}

describeNative("how a weight is stored", () => {
  it("takes 16 bits where every value survives them, and 32 where one doesn't", async () => {
    await useBackend("native");
    const halves = matrix(1, 20, 40, toHalf);
    const exact = linearWeight(halves);
    expect(native().storageOf(exact)).toBe("f16");
    expect(await values(exact)).toEqual(transposed(halves));

    const oneOff = { ...halves, values: halves.values.map((value, index) => (index === 799 ? 0.1 : value)) };
    const wide = linearWeight(oneOff);
    expect(native().storageOf(wide)).toBe("f32");
    expect(await values(wide)).toEqual(transposed(oneOff));
  });

  it.each([
    ["an overflow", 70_000],
    ["NaN", NaN],
    ["a value too small", 1e-9],
  ])("never takes 16 bits for %s", async (_, value) => {
    await useBackend("native");
    const weight = linearWeight({ values: new Float32Array(64).fill(1).with(63, value), rows: 2, columns: 32 });
    expect(native().storageOf(weight)).toBe("f32");
    weight.dispose();
  });

  it("rounds int8 to half a step of its output's scale", async () => {
    await useBackend("native");
    const source = matrix(2, 30, 70);
    const weight = stored("int8", source);
    const expected = transposed(source);
    const actual = await values(weight);
    for (let out = 0; out < 30; out++) {
      const largest = Math.max(...source.values.subarray(out * 70, (out + 1) * 70).map(Math.abs));
      for (let k = 0; k < 70; k++) {
        const difference = Math.abs((actual[k * 30 + out] ?? NaN) - (expected[k * 30 + out] ?? NaN));
        expect(difference).toBeLessThanOrEqual((largest / 127) * 0.501);
      }
    }
  });

  it("keeps the error of int4 near that of ideal rounding", async () => {
    await useBackend("native");
    const source = matrix(3, 64, 512);
    const actual = await values(stored("int4", source));
    const expected = transposed(source);
    const error =
      actual.reduce((sum, value, index) => sum + (value - (expected[index] ?? NaN)) ** 2, 0) / actual.length;
    // Uniform numbers in ±1 in 16 steps: a step of 1/8 has a mean squared error of (1/8)² / 12.
    expect(Math.sqrt(error)).toBeLessThan(1.05 * Math.sqrt((1 / 8) ** 2 / 12));
  });

  it("keeps zeros, and groups of zeros, exactly", async () => {
    await useBackend("native");
    for (const storage of ["exact", "f16", "int8", "int4"] as const) {
      const weight = stored(storage, { values: new Float32Array(3 * 70), rows: 3, columns: 70 });
      expect(await values(weight)).toEqual(new Float32Array(3 * 70));
    }
  });

  it("joins parts along their outputs", async () => {
    await useBackend("native");
    const [a, b] = [matrix(4, 3, 5), matrix(5, 2, 5)];
    const joined = { values: Float32Array.from([...a.values, ...b.values]), rows: 5, columns: 5 };
    expect(await values(linearWeight(a, b))).toEqual(transposed(joined));
  });

  it("is a plain tensor to an op that doesn't know of storages", async () => {
    await useBackend("native");
    const source = matrix(6, 6, 8, toHalf);
    const weight = linearWeight(source);
    expect(await values(tf.tidy(() => tf.transpose(tf.mul(weight, 2))))).toEqual(source.values.map((v) => 2 * v));
    expect(await values(tf.tidy(() => tf.matMul(tf.ones([2, 6]), weight, false, true)))).toHaveLength(16);
    weight.dispose();
  });

  it("frees native memory with the tensor", async () => {
    await useBackend("native");
    const before = tf.memory().numTensors;
    for (let i = 0; i < 200; i++)
      linearWeight({ values: new Float32Array(2 ** 20), rows: 2 ** 10, columns: 2 ** 10 }).dispose();
    expect(tf.memory().numTensors).toBe(before);
    expect(process.memoryUsage().rss).toBeLessThan(2 ** 30);
  });

  it("is refused on other backends, unless it is exact", async () => {
    await useBackend("cpu");
    expect(() => stored("int8", matrix(7, 2, 2))).toThrow(UsageError);
    stored("f32", matrix(7, 2, 2)).dispose();
  });
});

function transposed({ values: source, rows, columns }: HostMatrix): Float32Array {
  return Float32Array.from(source, (_, index) => source[(index % rows) * columns + Math.floor(index / rows)] ?? NaN);
}

describeOnEachKernelSet("a linear layer equals the product with the weight's own values", (backend) => {
  it.each(["f32", "f16", "int8", "int4"] as const)("stored as %s, for few rows and for many", async (storage) => {
    await prepare(backend);
    for (const [outputs, inputs] of SHAPES) {
      const weight = stored(storage, matrix(outputs, outputs, inputs));
      const bias = tf.tensor1d(numbers(9)(outputs));
      const own = await weight.data();
      for (const rows of ROWS) {
        const x = numbers(rows)(rows * inputs);
        const y = await values(tf.tidy(() => linear(tf.tensor2d(x, [rows, inputs]), { weight, bias })));
        const expected = product(x, own, inputs, outputs).map(
          (sum, index) => sum + (numbers(9)(outputs)[index % outputs] ?? 0),
        );
        // Integer weights meet activations of 16 bits: half a step each, which add up like a random walk.
        const rounding = storage === "int8" || storage === "int4" ? 1e-4 * Math.sqrt(inputs / 32) : 0;
        expect(y, `${outputs} × ${inputs}, ${rows} rows`).toBeAllClose(expected, {
          within: 2e-6 * Math.sqrt(inputs) * 4 + rounding,
        });
      }
      tf.dispose([weight, bias]);
    }
  });

  it.each(["f32", "f16", "int8", "int4"] as const)(
    "stored as %s, a row gives the same bits in any batch",
    async (storage) => {
      await prepare(backend);
      const [outputs, inputs] = [70, 300];
      const weight = stored(storage, matrix(1, outputs, inputs));
      const x = numbers(2)(23 * inputs);
      const run = (rows: number) =>
        values(tf.tidy(() => linear(tf.tensor2d(x.slice(0, rows * inputs), [rows, inputs]), { weight })));
      const all = await run(23);
      for (let rows = 1; rows < 23; rows++) expect(await run(rows)).toEqual(all.slice(0, rows * outputs));
      weight.dispose();
    },
  );

  it("reaches float32's range and NaN without surprises", async () => {
    await prepare(backend);
    for (const storage of ["f32", "f16"] as const) {
      const weight = stored(storage, { values: Float32Array.of(1, 0, 0, 1), rows: 2, columns: 2 });
      const y = await values(tf.tidy(() => linear(tf.tensor2d([[NaN, 3e38]]), { weight })));
      expect(y[0]).toBeNaN();
      weight.dispose();
    }
  });
});

async function prepare(backend: () => NativeBackend): Promise<void> {
  await useBackend("native");
  backend();
}

/** The nearest bfloat16, ties to even. */
function nearestBfloat(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0;
  const rounded = bits + 0x7fff + ((bits >>> 16) & 1);
  return new Float32Array(Uint32Array.of(rounded & 0xffff0000).buffer)[0] ?? NaN;
}

describeOnEachKernelSet("a product in bfloat16", (backend) => {
  it.each(SHAPES)("of many rows is that of rounded factors: %i outputs, %i inputs", async (outputs, inputs) => {
    await prepare(backend);
    for (const storage of ["f32", "f16", "int8"] as const) {
      const weight = linearWeightAs({ storage, precision: "bf16" }, matrix(outputs, outputs, inputs));
      const roundedWeight = Float32Array.from((await weight.data<"float32">()).map(nearestBfloat));
      for (const rows of [MANY_ROWS, 50]) {
        const x = numbers(rows)(rows * inputs);
        const expected = product(x.map(nearestBfloat), roundedWeight, inputs, outputs);
        const actual = tf.tidy(() => linear(tf.tensor2d(x, [rows, inputs]), { weight }));
        expect(await values(actual)).toBeAllClose(expected, { within: 1e-5 * Math.sqrt(inputs) });
      }
      weight.dispose();
    }
  });

  it("of few rows is that of float32, to the last bit", async () => {
    await prepare(backend);
    const [outputs, inputs, rows] = [40, 100, MANY_ROWS - 1];
    const run = async (precision: Precision): Promise<Float32Array> => {
      const weight = linearWeightAs({ storage: "f32", precision }, matrix(1, outputs, inputs));
      const y = tf.tidy(() => linear(tf.tensor2d(numbers(2)(rows * inputs), [rows, inputs]), { weight }));
      weight.dispose();
      return values(y);
    };
    expect(await run("bf16")).toEqual(await run("f32"));
  });

  it("keeps NaN, infinities and signed zeros", async () => {
    await prepare(backend);
    const weight = linearWeightAs(
      { storage: "f32", precision: "bf16" },
      { values: Float32Array.of(1), rows: 1, columns: 1 },
    );
    const strange = [NaN, Infinity, -Infinity, 3.4e38, -0, 1.00390625, 1.01171875]; // the last two are ties
    const x = Float32Array.from({ length: MANY_ROWS }, (_, row) => strange[row] ?? 1);
    const y = await values(tf.tidy(() => linear(tf.tensor2d(x, [MANY_ROWS, 1]), { weight })));
    expect([...y.subarray(0, strange.length)].map((value) => value + 0)).toEqual([
      NaN,
      Infinity,
      -Infinity,
      Infinity,
      0,
      1,
      1.015625,
    ]);
    weight.dispose();
  });
});

describe("a precision that can't be had", () => {
  it("is refused on other backends, and by name where there is none such", async () => {
    await useBackend("cpu");
    expect(() => linearWeightAs({ storage: "exact", precision: "bf16" }, matrix(7, 2, 2))).toThrow(
      /compute in bf16: the backend cpu, which computes in float32 only/,
    );
    const asked: string = "fp8";
    expect(() => {
      requirePrecision(asked as Precision);
    }).toThrow(/compute in fp8: no precision of that name. Choose one of f32, bf16/);
  });
});
