import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";

import { describeOnEachKernelSet, integers, numbers, run, type Result } from "./support.js";

/** Each kernel against the same op of TF.js's cpu backend, over many random shapes. */

const ROUNDS = 12;

/** A case: ops to run on either backend, from one seed. */
interface Case {
  readonly claim: string;
  /** Largest difference allowed, relative to the largest expected value where that is above 1. */
  readonly within: number;
  readonly ops: (seed: number) => () => tf.Tensor | tf.Tensor[];
  readonly rounds?: number;
}

const EXACT = 0;

function shapeOf(seed: number, rank: number, largest: number): number[] {
  const pick = integers(seed);
  return Array.from({ length: rank }, () => pick(1, largest));
}

function tensorOf(seed: number, shape: number[]): tf.Tensor {
  return tf.tensor(numbers(seed)(shape.reduce((product, size) => product * size, 1)), shape);
}

function elementwise(name: string, op: (x: tf.Tensor) => tf.Tensor, within: number, scale = 5, shift = 0): Case {
  return {
    claim: `computes ${name}`,
    within,
    ops: (seed) => () => {
      const shape = seed % 4 === 0 ? [40_000 + seed] : shapeOf(seed, 1 + (seed % 4), 9);
      return op(tf.add(tf.mul(tensorOf(seed, shape), scale), shift));
    },
  };
}

/** Two shapes that broadcast together. */
function broadcastShapes(seed: number): [number[], number[]] {
  const pick = integers(seed);
  const full = shapeOf(seed, pick(1, 4), seed % 3 === 0 ? 40 : 7);
  const thin = (shape: number[]): number[] => shape.map((size) => (pick(0, 2) === 0 ? 1 : size)).slice(pick(0, 1));
  return [thin(full), pick(0, 1) === 0 ? full : thin(full)];
}

function broadcasting(name: string, op: (a: tf.Tensor, b: tf.Tensor) => tf.Tensor): Case {
  return {
    claim: `broadcasts ${name}`,
    within: 1e-6,
    rounds: 30,
    ops: (seed) => () => {
      const [a, b] = broadcastShapes(seed);
      return op(tensorOf(seed, a), tf.add(tensorOf(seed + 1, b), 3));
    },
  };
}

function reducing(name: string, op: (x: tf.Tensor, axes: number[], keep: boolean) => tf.Tensor): Case {
  return {
    claim: `reduces by ${name}`,
    within: 1e-5,
    rounds: 30,
    ops: (seed) => () => {
      const pick = integers(seed);
      const shape = shapeOf(seed, pick(1, 4), seed % 5 === 0 ? 33 : 7);
      const first = pick(0, shape.length - 1);
      const axes = shape.map((_, axis) => axis).slice(first, pick(first, shape.length - 1) + 1);
      return op(tensorOf(seed, shape), axes, seed % 2 === 0);
    },
  };
}

const CASES: readonly Case[] = [
  elementwise("negation", tf.neg, EXACT),
  elementwise("absolute values", tf.abs, EXACT),
  elementwise("squares", tf.square, EXACT),
  elementwise("square roots", tf.sqrt, 1e-6, 5, 6),
  elementwise("reciprocal square roots", tf.rsqrt, 1e-6, 5, 6),
  elementwise("reciprocals", tf.reciprocal, 1e-6, 5, 6),
  elementwise("exponentials", tf.exp, 1e-6, 20),
  elementwise("the error function", tf.erf, 6e-7),
  elementwise("tanh", tf.tanh, 5e-7),
  elementwise("sigmoids", tf.sigmoid, 5e-7, 20),
  elementwise("relu", tf.relu, EXACT),
  elementwise("elu", tf.elu, 5e-7),
  broadcasting("sums", tf.add),
  broadcasting("differences", tf.sub),
  broadcasting("products", tf.mul),
  broadcasting("quotients", tf.div),
  broadcasting("maxima", tf.maximum),
  broadcasting("minima", tf.minimum),
  broadcasting("squared differences", tf.squaredDifference),
  reducing("sum", (x, axes, keep) => tf.sum(x, axes, keep)),
  reducing("mean", (x, axes, keep) => tf.mean(x, axes, keep)),
  reducing("max", (x, axes, keep) => tf.max(x, axes, keep)),
  reducing("min", (x, axes, keep) => tf.min(x, axes, keep)),
  {
    claim: "adds lists of tensors",
    within: 1e-6,
    ops: (seed) => () => tf.addN([0, 1, 2, 3].slice(0, 2 + (seed % 3)).map((n) => tensorOf(seed + n, [3, 1 + seed]))),
  },
  {
    claim: "casts between floats and integers",
    within: EXACT,
    ops: (seed) => () => {
      const x = tf.mul(tensorOf(seed, shapeOf(seed, 2, 20)), 100);
      return [tf.cast(x, "int32"), tf.cast(tf.cast(x, "int32"), "float32"), tf.cast(x, "bool")];
    },
  },
  {
    claim: "finds the first largest element",
    within: EXACT,
    ops: (seed) => () => tf.argMax(tf.round(tf.mul(tensorOf(seed, shapeOf(seed, 2, 50)), 3)), -1),
  },
  {
    claim: "takes softmax over the last axis",
    within: 1e-6,
    ops: (seed) => () => tf.softmax(tf.mul(tensorOf(seed, [...shapeOf(seed, 2, 5), integers(seed)(1, 300)]), 30)),
  },
  {
    claim: "finds the k largest",
    within: EXACT,
    ops: (seed) => () => {
      const x = tensorOf(seed, [integers(seed)(1, 4), 10 + integers(seed)(1, 300)]);
      const { values, indices } = tf.topk(x, integers(seed + 1)(1, 10));
      return [values, indices];
    },
  },
  {
    claim: "multiplies matrices of any shape, transposed or not",
    within: 1e-5,
    rounds: 60,
    ops: (seed) => () => {
      const pick = integers(seed);
      const [m, n, k] =
        seed % 6 === 0 ? [pick(1, 200), pick(1, 80), pick(1, 600)] : [pick(1, 30), pick(1, 40), pick(1, 40)];
      const [transposeA, transposeB] = [pick(0, 1) === 1, pick(0, 1) === 1];
      const a = tensorOf(seed, transposeA ? [k, m] : [m, k]);
      const b = tensorOf(seed + 1, transposeB ? [n, k] : [k, n]);
      return tf.matMul(a, b, transposeA, transposeB);
    },
  },
  {
    claim: "multiplies batches of matrices with broadcasting",
    within: 1e-5,
    rounds: 30,
    ops: (seed) => () => {
      const pick = integers(seed);
      const outer = shapeOf(seed, pick(1, 2), 4);
      const thin = outer.map((size) => (pick(0, 1) === 0 ? 1 : size));
      const [m, n, k] = [pick(1, 20), pick(1, 20), pick(1, 20)];
      const swapped = pick(0, 1) === 1;
      const [a, b] = [tensorOf(seed, [...outer, m, k]), tensorOf(seed + 1, [...thin, k, n])];
      return swapped
        ? tf.matMul(tensorOf(seed, [...thin, m, k]), tensorOf(seed + 1, [...outer, n, k]), false, true)
        : tf.matMul(a, b);
    },
  },
  {
    claim: "fuses bias and activation into a product",
    within: 1e-5,
    ops: (seed) => () => {
      const [m, n, k] = [1 + (seed % 9), 1 + ((seed * 7) % 40), 1 + ((seed * 5) % 70)];
      return tf.fused.matMul({
        a: tensorOf(seed, [m, k]),
        b: tensorOf(seed + 1, [k, n]),
        bias: tensorOf(seed + 2, [n]),
        activation: seed % 2 === 0 ? "relu" : "linear",
      });
    },
  },
  {
    claim: "convolves in one dimension",
    within: 1e-5,
    rounds: 40,
    ops: (seed) => () => {
      const pick = integers(seed);
      const [taps, dilated] = [pick(1, 8), pick(0, 2) === 0];
      const [stride, dilation] = dilated ? [1, pick(1, 3)] : [pick(1, 4), 1];
      const [inputs, outputs] = [pick(1, 20), pick(0, 2) === 0 ? 1 : pick(1, 40)];
      const x = tensorOf(seed, [pick(1, 3), (taps - 1) * dilation + pick(1, 60), inputs]) as tf.Tensor3D;
      const filter = tensorOf(seed + 1, [taps, inputs, outputs]) as tf.Tensor3D;
      return tf.conv1d(x, filter, stride, seed % 2 === 0 ? "valid" : "same", "NWC", dilation);
    },
  },
  {
    claim: "fuses bias into a convolution",
    within: 1e-5,
    ops: (seed) => () => {
      const [taps, inputs, outputs] = [1 + (seed % 7), 1 + (seed % 5), 1 + ((seed * 3) % 20)];
      return tf.fused.conv2d({
        x: tensorOf(seed, [2, 1, 30, inputs]) as tf.Tensor4D,
        filter: tensorOf(seed + 1, [1, taps, inputs, outputs]) as tf.Tensor4D,
        bias: tensorOf(seed + 2, [outputs]),
        strides: [1, 1 + (seed % 2)],
        pad: "valid",
        activation: seed % 3 === 0 ? "relu" : "linear",
      });
    },
  },
  {
    claim: "leaves convolutions in two dimensions to the cpu backend",
    within: 1e-5,
    ops: (seed) => () =>
      tf.conv2d(tensorOf(seed, [1, 6, 7, 2]) as tf.Tensor4D, tensorOf(seed, [3, 2, 2, 3]) as tf.Tensor4D, 1, "same"),
  },
  {
    claim: "convolves transposed in one dimension",
    within: 1e-5,
    rounds: 20,
    ops: (seed) => () => {
      const pick = integers(seed);
      const stride = pick(1, 5);
      const taps = stride * pick(1, 3);
      const [batch, positions, inputs, outputs] = [pick(1, 2), pick(1, 20), pick(1, 9), pick(1, 9)];
      const same = pick(0, 1) === 1;
      const length = same ? positions * stride : (positions - 1) * stride + taps;
      return tf.conv2dTranspose(
        tensorOf(seed, [batch, 1, positions, inputs]) as tf.Tensor4D,
        tensorOf(seed + 1, [1, taps, outputs, inputs]) as tf.Tensor4D,
        [batch, 1, length, outputs],
        [1, stride],
        same ? "same" : "valid",
      );
    },
  },
  {
    claim: "slices",
    within: EXACT,
    rounds: 30,
    ops: (seed) => () => {
      const pick = integers(seed);
      const shape = shapeOf(seed, pick(1, 4), 8);
      const begin = shape.map((size) => pick(0, size - 1));
      const size = shape.map((full, axis) => pick(0, full - (begin[axis] ?? 0)));
      return tf.slice(tensorOf(seed, shape), begin, size);
    },
  },
  {
    claim: "concatenates",
    within: EXACT,
    rounds: 20,
    ops: (seed) => () => {
      const pick = integers(seed);
      const shape = shapeOf(seed, pick(1, 4), 6);
      const axis = pick(0, shape.length - 1);
      return tf.concat(
        [0, 1, 2].map((n) => tensorOf(seed + n, shape.with(axis, pick(n === 1 ? 0 : 1, 5)))),
        axis,
      );
    },
  },
  {
    claim: "stacks, unstacks and splits",
    within: EXACT,
    rounds: 20,
    ops: (seed) => () => {
      const pick = integers(seed);
      const shape = shapeOf(seed, pick(1, 3), 5);
      const axis = pick(0, shape.length - 1);
      const stacked = tf.stack(
        [0, 1, 2].map((n) => tensorOf(seed + n, shape)),
        axis,
      );
      return [stacked, ...tf.unstack(stacked, axis), ...tf.split(stacked, 3, axis), ...tf.split(stacked, [1, 2], axis)];
    },
  },
  {
    claim: "transposes",
    within: EXACT,
    rounds: 40,
    ops: (seed) => () => {
      const pick = integers(seed);
      const shape = shapeOf(seed, pick(2, 5), seed % 7 === 0 ? 20 : 4);
      const order = shape.map((_, axis) => axis);
      for (let i = order.length - 1; i > 0; i--) {
        const j = pick(0, i);
        [order[i], order[j]] = [order[j] ?? 0, order[i] ?? 0];
      }
      return tf.transpose(tensorOf(seed, shape), order);
    },
  },
  {
    claim: "pads with constants and by reflection",
    within: EXACT,
    rounds: 20,
    ops: (seed) => () => {
      const pick = integers(seed);
      const shape = shapeOf(seed, pick(1, 4), 6);
      const x = tensorOf(seed, shape);
      const reflected = shape.map((size): [number, number] => [pick(0, size - 1), pick(0, size - 1)]);
      return [
        tf.pad(
          x,
          shape.map((): [number, number] => [pick(0, 3), pick(0, 3)]),
          0.5,
        ),
        tf.mirrorPad(x, reflected, "reflect"),
        tf.mirrorPad(x, reflected, "symmetric"),
      ];
    },
  },
  {
    claim: "tiles",
    within: EXACT,
    ops: (seed) => () => {
      const shape = shapeOf(seed, 1 + (seed % 3), 5);
      return tf.tile(
        tensorOf(seed, shape),
        shape.map((_, axis) => integers(seed + axis)(1, 3)),
      );
    },
  },
  {
    claim: "gathers floats and integers along any axis",
    within: EXACT,
    rounds: 20,
    ops: (seed) => () => {
      const pick = integers(seed);
      const shape = shapeOf(seed, pick(1, 3), 8);
      const axis = pick(0, shape.length - 1);
      const indices = tf.tensor2d(
        Int32Array.from({ length: 6 }, () => pick(0, (shape[axis] ?? 1) - 1)),
        [2, 3],
        "int32",
      );
      const x = tensorOf(seed, shape);
      return [tf.gather(x, indices, axis), tf.gather(tf.cast(tf.mul(x, 9), "int32"), indices, axis)];
    },
  },
];

/** What the cpu backend gave, for the next set of kernels. */
const known = new Map<string, Result[]>();

describeOnEachKernelSet("each native kernel equals the cpu backend's", (backend) => {
  it.each(CASES)("$claim", async ({ claim, ops, within, rounds = ROUNDS }) => {
    backend();
    for (let seed = 1; seed <= rounds; seed++) {
      const key = `${claim} ${seed}`;
      const expected = known.get(key) ?? (await run("cpu", ops(seed)));
      known.set(key, expected);
      const actual = await run("native", ops(seed));
      expect(actual.map(({ shape, dtype }) => ({ shape, dtype }))).toEqual(
        expected.map(({ shape, dtype }) => ({ shape, dtype })),
      );
      for (const [index, { values }] of expected.entries()) {
        const largest = Array.from(values).reduce((most, value) => Math.max(most, Math.abs(value)), 1);
        const got = actual[index]?.values ?? [];
        if (values.length === 0) expect(got).toHaveLength(0);
        else expect(got, `seed ${seed}`).toBeAllClose(values, { within: within * largest });
      }
    }
  });

  it("gives the same bits with any number of threads", async () => {
    const native = backend();
    const threads = native.addon.threads();
    const ops = (): tf.Tensor[] => {
      const x = tensorOf(1, [70, 300]) as tf.Tensor2D;
      const product = tf.matMul(x, tensorOf(2, [300, 515]));
      return [product, tf.softmax(product), tf.sum(product, 0), tf.sum(product, 1), tf.erf(product)];
    };
    const many = await run("native", ops);
    native.addon.useThreads(1);
    const one = await run("native", ops);
    native.addon.useThreads(threads);
    expect(many).toEqual(one);
  });
});
