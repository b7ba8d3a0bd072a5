// Speed of the native kernels at musicgen-small's shapes, as JSON: `node bench/native-kernels.js [threads] [kernel set]`.
//
// Each figure is the median of several runs. Matrix-vector products are shown as bytes of weights read per second, next to
// what a plain sum over a large array reads; matrix products as floating-point operations per second.
import { createRequire } from "node:module";

const addon = createRequire(import.meta.url)("../native/build/tonearm.node");
const [threads, kernelSet] = process.argv.slice(2);
if (threads) addon.useThreads(Number(threads));
if (kernelSet && !addon.useKernelSet(kernelSet))
  throw new Error(`this processor runs ${addon.kernelSets().join(", ")}`);

const STORAGES = { f32: 0, f16: 1, int8: 2, int4: 3 };

/** Median seconds of one call. */
function time(call, atLeast = 0.4) {
  call();
  const seconds = [];
  const end = performance.now() + 1000 * atLeast;
  while (performance.now() < end || seconds.length < 5) {
    const start = performance.now();
    call();
    seconds.push((performance.now() - start) / 1000);
  }
  return seconds.sort((a, b) => a - b)[seconds.length >> 1];
}

const round = (value) => Number(value.toPrecision(4));
const random = (length) => Float32Array.from({ length }, () => Math.random() - 0.5);

function memoryBandwidth() {
  const [rows, length] = [64, 2 ** 20];
  const x = new Float32Array(rows * length).fill(1);
  const y = new Float32Array(rows);
  return round((4 * x.length) / time(() => addon.reduce(0, x, y, rows, length, 1)) / 1e9);
}

/** One decoding step's weights of musicgen-small: 24 blocks of qkv, out, cross q, cross out, fc1 and fc2, and the heads. */
function stepWeights(storage) {
  const shapes = [];
  for (let block = 0; block < 24; block++) {
    shapes.push([1024, 3072], [1024, 1024], [1024, 1024], [1024, 1024], [1024, 4096], [4096, 1024]);
  }
  shapes.push([1024, 8192]);
  const source = random(1024 * 8192);
  return shapes.map(([inputs, outputs]) => ({
    inputs,
    outputs,
    handle: addon.makeWeight([source.subarray(0, inputs * outputs)], inputs, STORAGES[storage]),
  }));
}

function guidedStepLinears(storage, rows) {
  const weights = stepWeights(storage);
  const bytes = weights.reduce((sum, { handle }) => sum + addon.weightBytes(handle), 0);
  const x = random(rows * 4096);
  const y = new Float32Array(rows * 8192);
  const seconds = time(() => {
    for (const { handle, inputs, outputs } of weights) {
      addon.linear(handle, x.subarray(0, rows * inputs), rows, null, null, 0, y.subarray(0, rows * outputs));
    }
  }, 1.5);
  weights.forEach(({ handle }) => addon.releaseWeight(handle));
  return {
    milliseconds: round(1000 * seconds),
    gigabytes: round(bytes / 1e9),
    gigabytesPerSecond: round(bytes / seconds / 1e9),
  };
}

function product(m, k, n, storage) {
  const handle = addon.makeWeight([random(k * n)], k, STORAGES[storage]);
  const [x, y] = [random(m * k), new Float32Array(m * n)];
  const seconds = time(() => addon.linear(handle, x, m, null, null, 0, y));
  return { milliseconds: round(1000 * seconds), gigaflops: round((2 * m * n * k) / seconds / 1e9) };
}

function attention(rows, heads, queries, positions, causal, storage = "f32") {
  const width = 64;
  const stores = [0, 1].map(() => {
    const store = addon.makeStore(rows * heads, width, positions, STORAGES[storage]);
    addon.appendToStore(store, random(rows * heads * positions * width), positions);
    return store;
  });
  const [q, y] = [random(rows * heads * queries * width), new Float32Array(rows * heads * queries * width)];
  const strides = [heads * queries * width, queries * width, width];
  const shape = Int32Array.of(rows, heads, queries, width, ...strides, ...strides);
  const counts = Int32Array.of(positions);
  const seconds = time(() => addon.attend(q, y, shape, [stores[0]], [stores[1]], counts, 0.125, causal, null, 0, 0));
  stores.forEach((store) => addon.releaseStore(store));
  const bytes = (storage === "f16" ? 4 : 8) * rows * heads * positions * width;
  return { milliseconds: round(1000 * seconds), gigabytesPerSecond: round(bytes / seconds / 1e9) };
}

function lstmStep(units, steps) {
  const handle = addon.makeWeight([random(4 * units * units)], units, 0);
  const [gates, first, cell] = [random(steps * 4 * units), new Float32Array(units), new Float32Array(units)];
  const hidden = new Float32Array(steps * units);
  const seconds = time(() => addon.lstm(handle, gates, 1, steps, first, cell, hidden)) / steps;
  return { milliseconds: round(1000 * seconds), gigabytesPerSecond: round((16 * units * units) / seconds / 1e9) };
}

function convolution(positions, inputs, outputs, taps, stride) {
  const length = (positions - 1) * stride + taps;
  const [x, filter] = [random(length * inputs), random(taps * inputs * outputs)];
  const y = new Float32Array(positions * outputs);
  const shape = Int32Array.of(1, length, inputs, outputs, taps, stride, 1, positions);
  const seconds = time(() => addon.convolve(x, filter, y, null, null, 0, shape));
  return {
    milliseconds: round(1000 * seconds),
    gigaflops: round((2 * positions * inputs * outputs * taps) / seconds / 1e9),
  };
}

function elementwise(op, length) {
  const [x, y] = [random(length), new Float32Array(length)];
  return { millionPerSecond: round(length / time(() => addon.unary(op, x, y)) / 1e6) };
}

const report = { kernelSet: addon.kernelSet(), threads: addon.threads(), memoryGigabytesPerSecond: memoryBandwidth() };
report.guidedStepLinears = Object.fromEntries(Object.keys(STORAGES).map((name) => [name, guidedStepLinears(name, 2)]));
report.products = {};
for (const storage of Object.keys(STORAGES)) {
  report.products[`500 × 1024 × 4096, ${storage}`] = product(500, 1024, 4096, storage);
}
report.products["500 × 4096 × 1024, f32"] = product(500, 4096, 1024, "f32");
for (const rows of [1, 2, 4, 8, 16, 23, 24, 32, 64]) {
  report.products[`${rows} × 1024 × 4096, f32`] = product(rows, 1024, 4096, "f32");
}
report.attention = {
  "one query of 2 rows, T = 100": attention(2, 16, 1, 100, false),
  "one query of 2 rows, T = 1500": attention(2, 16, 1, 1500, false),
  "the same in 16 bits": attention(2, 16, 1, 1500, false, "f16"),
  "500 causal queries": attention(1, 16, 500, 500, true),
};
report.lstmStep = lstmStep(1024, 100);
report.convolutions = {
  "10 s × 1 → 64, width 7": convolution(320_000, 1, 64, 7, 1),
  "10 s × 64 → 32, width 3": convolution(320_000, 64, 32, 3, 1),
  "10 s × 64 → 1, width 7": convolution(320_000, 64, 1, 7, 1),
  "2.5 s × 64 → 128, width 8, stride 4": convolution(80_000, 64, 128, 8, 4),
  "500 × 1024 → 4096, width 2": convolution(500, 1024, 4096, 2, 1),
};
report.elementwise = { erf: elementwise(7, 1e6), elu: elementwise(11, 1e6), gelu: elementwise(12, 1e6) };
console.log(JSON.stringify(report, null, 2));
