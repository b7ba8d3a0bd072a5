import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";

import { SafetensorsFile } from "../src/checkpoint/safetensors.js";
import type { Codes } from "../src/model/delay.js";
import { MusicGen } from "../src/musicgen.js";
import { describeOnEachBackend } from "./support/backends.js";

/**
 * Parity at the real shapes of musicgen-small. The checkpoint is 2.4 GB, so it is made on demand:
 *
 *   python tools/reference/make_real_shapes.py --model small --tokenizer tokenizer.json --expected -o DIR
 *   TONEARM_REAL_SHAPES=DIR npx vitest run test/real-shapes.test.ts
 */
const directory = process.env["TONEARM_REAL_SHAPES"];
const reason = directory === undefined ? " (skipped: TONEARM_REAL_SHAPES names no checkpoint)" : "";

const MINUTES = 60_000;

async function reference(names: readonly string[]): Promise<readonly (Float32Array | Int32Array)[]> {
  const file = await SafetensorsFile.open(`${directory ?? ""}/expected.safetensors`);
  try {
    const read = async (name: string): Promise<Float32Array | Int32Array> =>
      file.tensors.get(name)?.dtype === "I32" ? file.integers(name) : file.floats(name);
    return await Promise.all(names.map(read));
  } finally {
    await file.close();
  }
}

/** The first 15 of 16 positions of [2, K, 16, V]: the reference leaves the last one out, which predicts nothing. */
function withoutLastPosition(logits: tf.Tensor): tf.Tensor {
  const [rows = 0, codebooks = 0, positions = 0, entries = 0] = logits.shape;
  return tf.slice(logits, [0, 0, 0, 0], [rows, codebooks, positions - 1, entries]);
}

describeOnEachBackend(`musicgen-small's real shapes${reason}`, (backend) => {
  it.skipIf(directory === undefined || backend === "cpu")(
    "gives the reference's residual stream at every layer and its logits, with text and without",
    async () => {
      const model = await MusicGen.load(directory ?? "", { backend });
      const [ids, mask, codes, logits, nullLogits] = await reference([
        "input_ids",
        "attention_mask",
        "codes",
        "logits",
        "null_logits",
      ]);
      const text = { ids: Int32Array.from(ids ?? []), mask: Int32Array.from(mask ?? []), batch: 2, length: 20 };
      const clips = [0, 1].map((item): Codes => {
        const values = Int32Array.from((codes ?? []).slice(item * 48, (item + 1) * 48));
        return { values, codebooks: 4, frames: 12 };
      });
      const sites = "blocks.*.hook_resid_post";
      const conditional = await model.runWithCache({ text, codes: clips }, { sites });
      expect(await withoutLastPosition(conditional.logits).data()).toBeAllClose(logits ?? [], { within: 1e-4 });
      for (let layer = 0; layer < 24; layer++) {
        const [states] = await reference([`decoder_hidden_states.${layer + 1}`]); // 0 is the embedding
        const found = conditional.cache[`blocks.${layer}.hook_resid_post`];
        if (!found) throw new Error(`no residual stream of layer ${layer}`);
        const all = tf.slice(found, [0, 0, 0], [2, 15, 1024]);
        expect(await all.data()).toBeAllClose(states ?? [], { within: 1e-4 });
      }
      const unconditional = await model.forward({ text: null, codes: clips });
      expect(await withoutLastPosition(unconditional).data()).toBeAllClose(nullLogits ?? [], { within: 1e-4 });
      await model.dispose();
    },
    10 * MINUTES,
  );

  it.skipIf(directory === undefined || backend === "cpu")(
    "gives the reference's codes of a sound, and its sound of codes",
    async () => {
      const model = await MusicGen.load(directory ?? "", { backend, onDemand: true });
      const [wav, codes, decoded] = await reference(["wav", "encodec_codes", "encodec_decoded"]);
      const sound = { sampleRate: 32_000, channels: [Float32Array.from(wav ?? [])] };
      const encoded = await model.encodeAudio(sound);
      expect([...encoded.values]).toEqual([...(codes ?? [])]);
      const audio = await model.decodeCodes(encoded);
      expect(audio.channels[0]).toBeAllClose(decoded ?? [], { within: 1e-4 });
      await model.dispose();
    },
    10 * MINUTES,
  );
});
