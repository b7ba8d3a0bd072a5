import * as tf from "@tensorflow/tfjs-core";
import fc from "fast-check";
import { expect, it } from "vitest";

import { lstm, type LstmLayer } from "../../src/encodec/lstm.js";
import { disposeTree } from "../../src/runtime/owner.js";
import { describeOnEachBackend } from "../support/backends.js";

const WIDTH = 5;

describeOnEachBackend("lstm", () => {
  it("goes on from a state as if it had never stopped, wherever the cut is", () =>
    fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 3 }), async (cut, batch) => {
        const layers = [someLayer(0), someLayer(1)];
        const x = someTensor<tf.Rank.R3>([batch, 9, WIDTH], 2);
        const whole = lstm(layers, x);
        const first = lstm(layers, tf.slice(x, [0, 0, 0], [batch, cut, WIDTH]));
        const second = lstm(layers, tf.slice(x, [0, cut, 0], [batch, 9 - cut, WIDTH]), first.state);
        const joined = tf.concat([first.output, second.output], 1);
        expect(await joined.data()).toBeAllClose(await whole.output.data(), { within: 1e-6 });
        for (const [layer, { hidden, cell }] of second.state.entries()) {
          const expected = whole.state[layer];
          if (!expected) throw new Error("a state is missing");
          expect(await hidden.data()).toBeAllClose(await expected.hidden.data(), { within: 1e-6 });
          expect(await cell.data()).toBeAllClose(await expected.cell.data(), { within: 1e-6 });
        }
      }),
      { numRuns: 10 },
    ));

  it("returns its output and states, which the caller owns, and keeps nothing else", () => {
    const layers = [someLayer(0), someLayer(1)];
    const x = someTensor<tf.Rank.R3>([2, 4, WIDTH], 2);
    const before = tf.memory().numTensors;
    const first = lstm(layers, x);
    expect(tf.memory().numTensors).toBe(before + 5);
    const second = lstm(layers, x, first.state);
    expect(tf.memory().numTensors).toBe(before + 10);
    disposeTree([first.output, first.state, second.output, second.state]);
    expect(tf.memory().numTensors).toBe(before);
    disposeTree([layers, x]);
  });
});

function someLayer(seed: number): LstmLayer {
  return {
    input: {
      weight: someTensor<tf.Rank.R2>([WIDTH, 4 * WIDTH], seed),
      bias: someTensor<tf.Rank.R1>([4 * WIDTH], seed),
    },
    recurrent: someTensor<tf.Rank.R2>([WIDTH, 4 * WIDTH], seed + 0.5),
  };
}

function someTensor<R extends tf.Rank>(shape: tf.ShapeMap[R], seed: number): tf.Tensor<R> {
  const count = (shape as readonly number[]).reduce((product, size) => product * size, 1);
  const values = Float32Array.from({ length: count }, (_, index) =>
    Math.sin(0.11 * index * index + 1.3 * index + seed),
  );
  return tf.tensor(values, shape);
}
