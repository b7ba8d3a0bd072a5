import { join } from "node:path";

import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it, onTestFinished } from "vitest";

import { openCheckpoint, type Checkpoint } from "../../src/checkpoint/checkpoint.js";
import { writeSafetensors, type NamedTensor } from "../../src/checkpoint/safetensors.js";
import { CheckpointError } from "../../src/errors.js";
import { describeOnEachBackend } from "../support/backends.js";
import { temporaryDirectory } from "../support/temporary.js";

async function checkpointOf(...tensors: readonly NamedTensor[]): Promise<Checkpoint> {
  const directory = await temporaryDirectory();
  await writeSafetensors(join(directory, "model.safetensors"), tensors);
  const checkpoint = await openCheckpoint(directory);
  onTestFinished(() => checkpoint.close());
  return checkpoint;
}

const WEIGHT: NamedTensor = {
  name: "layers.3.fc.weight",
  shape: [2, 3],
  dtype: "F16",
  values: Float32Array.of(1, 2, 3, 4, 5, 6),
};

describe("WeightScope", () => {
  it("reads by path, and knows what is there", async () => {
    const scope = (await checkpointOf(WEIGHT)).scope("layers", 3);
    expect(scope.has("fc.weight")).toBe(true);
    expect(scope.has("weight")).toBe(false);
    expect(scope.scope("fc").has("weight")).toBe(true);
    expect(scope.scope().has("fc.weight")).toBe(true);
    expect(await scope.values("fc.weight", [2, 3])).toEqual(WEIGHT.values);
    expect(await scope.scope("fc").matrix("weight", 2, 3)).toEqual({ values: WEIGHT.values, rows: 2, columns: 3 });
  });

  it.each([
    ["transposed", [3, 2], /"layers\.3\.fc\.weight" as \[3,2\]: \[2,3\] in .*model\.safetensors/],
    ["longer", [2, 3, 1], /as \[2,3,1\]: \[2,3\]/],
    ["shorter", [2], /as \[2\]: \[2,3\]/],
    ["flattened", [6], /as \[6\]: \[2,3\]/],
  ])("refuses a %s shape with both shapes", async (_, shape, message) => {
    const checkpoint = await checkpointOf(WEIGHT);
    const error: unknown = await checkpoint
      .scope("layers", 3, "fc")
      .values("weight", shape)
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(CheckpointError);
    expect(String(error)).toMatch(message);
  });

  it("refuses an absent tensor with its full name", async () => {
    const scope = (await checkpointOf(WEIGHT)).scope("layers", 4);
    await expect(scope.values("fc.weight", [2, 3])).rejects.toThrow(/"layers\.4\.fc\.weight".*no tensor of that name/);
  });

  it.each([NaN, Infinity, -Infinity])("refuses weights with %d by name", async (value) => {
    const values = Float32Array.of(0, 1, value, 3);
    const scope = (await checkpointOf({ name: "head.weight", shape: [4], dtype: "F32", values })).scope("head");
    await expect(scope.values("weight", [4])).rejects.toThrow(
      new RegExp(`"head\\.weight".*: ${value} at position 2 of 4`),
    );
    await expect(scope.tensor("weight", [4])).rejects.toBeInstanceOf(CheckpointError);
  });

  it("refuses integers where weights are wanted", async () => {
    const scope = (await checkpointOf({ name: "n", shape: [1], dtype: "I32", values: Int32Array.of(1) })).scope();
    await expect(scope.values("n", [1])).rejects.toThrow(/tensor "n".*I32/);
  });
});

describeOnEachBackend("WeightScope.tensor", () => {
  it("gives the caller a float32 tensor and leaves no other", async () => {
    const scope = (await checkpointOf(WEIGHT)).scope("layers", 3, "fc");
    const before = tf.memory().numTensors;
    const weight = await scope.tensor("weight", [2, 3]);
    expect(weight.shape).toEqual([2, 3]);
    expect(weight.dtype).toBe("float32");
    expect(await weight.data()).toEqual(WEIGHT.values);
    expect(tf.memory().numTensors).toBe(before + 1);
    weight.dispose();
    await expect(scope.tensor("weight", [6])).rejects.toBeInstanceOf(CheckpointError);
    expect(tf.memory().numTensors).toBe(before);
  });
});
