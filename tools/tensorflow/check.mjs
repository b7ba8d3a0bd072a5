// Runs every op that tonearm uses on the `tensorflow` backend and on `cpu`, and compares. Exits with 1 on a difference.
import { createRequire } from "node:module";
import util from "node:util";

import "@tensorflow/tfjs-backend-cpu";
import * as tf from "@tensorflow/tfjs-core";

const require = createRequire(import.meta.url);
util.isNullOrUndefined ??= (value) => value === null || value === undefined; // tfjs-node 4.22.0 calls it; gone in Node 23
require("@tensorflow/tfjs-node");

tf.enableProdMode();
const TOLERANCE = 2e-5;
let counter = 0;
const noise = (...shape) => {
  const size = shape.reduce((product, length) => product * length, 1);
  const values = Float32Array.from({ length: size }, () => 2 * Math.sin((counter += 1) * 1.7));
  return tf.tensor(values, shape);
};

const OPS = {
  "matMul rank 2": () => tf.matMul(noise(7, 96), noise(96, 33)),
  "matMul rank 4, transposed": () => tf.matMul(noise(2, 3, 5, 8), noise(2, 3, 9, 8), false, true),
  "matMul broadcast": () => tf.matMul(noise(4, 5, 8), noise(1, 8, 6)),
  conv1d: () => tf.conv1d(noise(2, 40, 6), noise(7, 6, 5), 1, "valid"),
  "conv1d strided": () => tf.conv1d(noise(2, 40, 6), noise(8, 6, 5), 4, "valid"),
  "conv2d dilated": () => tf.conv2d(noise(1, 1, 30, 4), noise(1, 3, 4, 4), [1, 1], "valid", "NHWC", [1, 2]),
  mirrorPad: () =>
    tf.mirrorPad(
      noise(2, 9, 3),
      [
        [0, 0],
        [3, 4],
        [0, 0],
      ],
      "reflect",
    ),
  pad: () =>
    tf.pad(noise(2, 9), [
      [0, 1],
      [2, 0],
    ]),
  softmax: () => tf.softmax(noise(3, 4, 17)),
  elu: () => tf.elu(noise(50)),
  erf: () => tf.erf(noise(50)),
  relu: () => tf.relu(noise(50)),
  sigmoid: () => tf.sigmoid(noise(50)),
  tanh: () => tf.tanh(noise(50)),
  "add, sub, mul, div": () => tf.div(tf.mul(tf.add(noise(3, 1), noise(5)), tf.sub(noise(3, 5), 2)), 3),
  "mean, square, sqrt": () => tf.sqrt(tf.mean(tf.square(noise(4, 32)), -1, true)),
  "sum, max": () => tf.add(tf.sum(noise(4, 32), 1), tf.max(noise(4, 32), 1)),
  "exp, log, pow": () => tf.pow(tf.exp(noise(9)), tf.log(tf.abs(noise(9)))),
  "cos, sin": () => tf.add(tf.cos(noise(9)), tf.sin(noise(9))),
  gather: () => tf.gather(noise(20, 6), tf.tensor1d([3, 0, 19, 3], "int32")),
  argMax: () => tf.argMax(noise(4, 32), -1),
  oneHot: () => tf.oneHot(tf.tensor1d([1, 0, 3], "int32"), 4),
  topk: () => tf.topk(noise(4, 32), 5).values,
  cumsum: () => tf.cumsum(noise(4, 9), 1),
  where: () => tf.where(tf.greater(noise(12), 0), noise(12), -1),
  "greater, logicalAnd, cast": () => tf.cast(tf.logicalAnd(tf.greater(noise(12), 0), tf.less(noise(12), 1)), "float32"),
  "concat, stack": () => tf.concat([tf.stack([noise(3, 4), noise(3, 4)]), noise(2, 3, 4)], 1),
  "split, unstack": () => tf.add(tf.split(noise(6, 4), 3)[1], tf.unstack(noise(3, 2, 4))[2]),
  "slice, strided": () =>
    tf.concat([tf.slice(noise(5, 6), [1, 2], [3, -1]), tf.stridedSlice(noise(6, 8), [0, 0], [6, 8], [2, 2])]),
  "transpose, reshape": () => tf.reshape(tf.transpose(noise(2, 3, 4, 5), [0, 2, 1, 3]), [8, 15]),
  "tile, reverse, expandDims": () => tf.reverse(tf.tile(tf.expandDims(noise(3), 0), [2, 2]), 1),
  range: () => tf.cast(tf.range(0, 7, 1, "int32"), "float32"),
  bandPart: () => tf.linalg.bandPart(noise(5, 5), -1, 0),
};

/** The op's values, or the first line of what it threw. */
async function run(backend, op) {
  await tf.setBackend(backend);
  counter = 0;
  try {
    return await tf.tidy(op).data();
  } catch (error) {
    return error.message.split("\n")[0];
  }
}

let failed = 0;
for (const [name, op] of Object.entries(OPS)) {
  const expected = await run("cpu", op);
  const received = await run("tensorflow", op);
  let verdict;
  if (typeof expected === "string") verdict = `cpu: ${expected}`;
  else if (typeof received === "string") verdict = received;
  else {
    const worst = expected.reduce((most, value, index) => Math.max(most, Math.abs(value - received[index])), 0);
    if (received.length !== expected.length || !(worst <= TOLERANCE)) verdict = `differs by ${worst}`;
  }
  if (verdict) console.log(`${name}: ${verdict}`);
  failed += verdict ? 1 : 0;
}
await tf.setBackend("tensorflow");
const version = tf.backend().binding.TF_Version;
console.log(
  `TensorFlow ${version}, Node ${process.version}: ${Object.keys(OPS).length - failed} ops agree, ${failed} do not`,
);
process.exitCode = failed > 0 ? 1 : 0;
