import * as tf from "@tensorflow/tfjs-core";
import fc from "fast-check";
import { expect, it } from "vitest";

import { lstm, type LstmLayer } from "../../src/encodec/lstm.js";
import { linearWeight } from "../../src/runtime/linear.js";
import { disposeTree } from "../../src/runtime/owner.js";
import { describeOnEachBackend } from "../support/backends.js";

const WIDTH = 5;

describeOnEachBackend("lstm", () => {
  it("goes on from a state as if it had never stopped, wherever the cut is", () =>
    fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 3 }), async (cut, batch) => {
        const layers = [someLayer(0), someLayer(1)];
        const x = someSignal(batch, 9);
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
    const x = someSignal(2, 4);
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
    input: { weight: someWeight(seed), bias: tf.tensor1d(someValues(4 * WIDTH, seed)) },
    recurrent: someWeight(seed + 0.5),
  };
}

function someWeight(seed: number): tf.Tensor2D {
  return linearWeight({ values: someValues(4 * WIDTH * WIDTH, seed), rows: 4 * WIDTH, columns: WIDTH }); // [C, 4C]
}

function someSignal(batch: number, positions: number): tf.Tensor3D {
  return tf.tensor3d(someValues(batch * positions * WIDTH, 2), [batch, positions, WIDTH]);
}

function someValues(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, (_, index) => Math.sin(0.11 * index * index + 1.3 * index + seed));
}
