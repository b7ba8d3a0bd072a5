import { join } from "node:path";

import { expect, it } from "vitest";

import { captureActivations } from "../../src/activations/capture.js";
import { openCapture } from "../../src/activations/store.js";
import { TINY_SHAPE, writeRandomCheckpoint } from "../../src/model/random-checkpoint.js";
import { MusicGen } from "../../src/musicgen.js";
import { fromCapture, streamMoments } from "../../src/probes/capture.js";
import { probeMoments } from "../../src/probes/moments.js";
import { sweepProbes } from "../../src/probes/sweep.js";
import { readVectors, requireSameModel, writeVectors } from "../../src/probes/vectors.js";
import { temporaryDirectory } from "../support/temporary.js";

it("a capture is probed, its vectors fit the model that made it, and sums read in batches equal those of all rows", async () => {
  const folder = await temporaryDirectory();
  const output = join(folder, "capture");
  await writeRandomCheckpoint(join(folder, "model"), TINY_SHAPE, 1);
  const model = await MusicGen.load(join(folder, "model"));
  try {
    const { codebooks, codebookSize } = model.config.decoder;
    const items = Array.from({ length: 12 }, (_, clip) => ({
      id: `clip ${String(clip).padStart(2, "0")}`,
      codes: {
        codebooks,
        frames: 4,
        values: Int32Array.from({ length: codebooks * 4 }, (_, index) => {
          return clip % 2 === 0 ? 3 : (clip * 7 + index * 5) % codebookSize;
        }),
      },
      labels: { kind: clip % 2 === 0 ? "still" : "moving" },
    }));
    const sites = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z"];
    await captureActivations(model, { items, sites, output, mode: "forced", rows: "null", reduction: "mean" });
    const capture = await openCapture(output);

    const data = fromCapture(capture, { sites: ["blocks.*.hook_resid_post"] });
    expect(data.sites.map(({ site }) => site)).toEqual(["blocks.0.hook_resid_post"]);
    expect(data.columns.get("item")?.[3]).toBe("clip 03");
    expect(() => fromCapture(capture, { sites: ["blocks.7.*"] })).toThrow(/blocks.0.hook_resid_post/);
    expect(() => fromCapture(capture, { role: "cond" })).toThrow(/no row of the role cond/);

    const { units, vectors, groups } = await sweepProbes(fromCapture(capture), { label: "kind", estimator: "ridge" });
    expect(groups).toBe(12);
    expect(units.some(({ aboveChance }) => aboveChance)).toBe(true);
    await writeVectors(join(folder, "kind.safetensors"), vectors);
    const read = await readVectors(join(folder, "kind.safetensors"));
    expect(() => {
      requireSameModel(read, { fingerprint: model.fingerprint, config: model.config.decoder });
    }).not.toThrow();

    const y = Float64Array.from(items, (_, clip) => clip % 2);
    const { values, rows, width } = await capture.read("blocks.0.hook_resid_post");
    const whole = await probeMoments({ rows, columns: width, values }, y);
    const streamed = await streamMoments(capture, "blocks.0.hook_resid_post", y, { size: 5 });
    const largest = Math.max(...whole.scatter);
    expect(streamed.scatter).toBeAllClose(whole.scatter, { within: 1e-10 * largest });
    expect(streamed.cross).toBeAllClose(whole.cross, { within: 1e-10 * Math.max(...whole.cross) });
  } finally {
    await model.dispose();
  }
});
