import { fileURLToPath } from "node:url";

import { expect, it } from "vitest";

import { SafetensorsFile } from "../src/checkpoint/safetensors.js";
import { MusicGen } from "../src/musicgen.js";
import { describeOnEachBackend } from "./support/backends.js";
import { fixtureDirectory } from "./support/fixtures.js";

const TEXT = "a slow trumpet melody";
const DEMO = fileURLToPath(new URL("../weights/demo", import.meta.url));

describeOnEachBackend("the checkpoint that comes with the package", (backend) => {
  // Made with transformers 5.18.0 by tools/reference/make_demo.py.
  it("gives transformers' logits and sound", async () => {
    const golden = await SafetensorsFile.open(`${fixtureDirectory("demo")}/golden.safetensors`);
    const codes = await golden.integers("codes");
    const logits = await golden.floats("logits");
    const audio = await golden.floats("audio");
    await golden.close();
    const model = await MusicGen.load(DEMO, { backend });
    const given = { values: codes, codebooks: 4, frames: 8 };
    const ours = await model.forward({ text: TEXT, codes: given, rows: ["cond"] });
    expect(ours.shape).toEqual([1, 4, 12, 1024]);
    expect(await ours.data()).toBeAllClose(logits, { within: 2e-4 });
    ours.dispose();
    const sound = await model.decodeCodes(given);
    expect(sound.channels[0]).toBeAllClose(audio, { within: 1e-4 });
    await model.dispose();
  });
});
