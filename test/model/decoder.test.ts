import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";

import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { readConfig } from "../../src/checkpoint/config.js";
import { readDecoderConfig } from "../../src/model/config.js";
import { disposeMemory, runDecoder, textMemory } from "../../src/model/decoder.js";
import { loadDecoder } from "../../src/model/decoder-weights.js";
import { complete, NO_TAPS } from "../../src/runtime/announce.js";
import { paddingMask } from "../../src/runtime/attention.js";
import { linear } from "../../src/runtime/linear.js";
import { describeOnEachBackend } from "../support/backends.js";
import { fixtureDirectory, golden } from "../support/fixtures.js";

describeOnEachBackend("the decoder", () => {
  it.each(["mono", "stereo"])("gives the reference's teacher-forced logits (%s)", async (kind) => {
    const directory = fixtureDirectory(kind);
    const root = await readConfig(`${directory}/config.json`);
    const config = readDecoderConfig(root.block("decoder"));
    const checkpoint = await openCheckpoint(directory);
    const { decoder, textProjection, positionTable } = await loadDecoder(checkpoint.scope(), config, 24);
    await checkpoint.close();
    const expected = golden(kind);
    const states = tf.tensor3d([...expected("t5_last_hidden_state").data], [2, 8, 24]);
    const real = expected("attention_mask").data;
    if (!textProjection) throw new Error("no projection");
    const memoryStates = tf.mul<tf.Tensor3D>(linear(states, textProjection), tf.tensor3d([...real], [2, 8, 1]));
    const memory = textMemory(decoder, config, memoryStates, paddingMask(real, 2));
    const ids = Int32Array.from(expected("decoder_input_ids").data);
    const { logits } = complete(
      runDecoder(
        decoder,
        config,
        { ids, batch: 2, positions: 11, rows: 2 },
        { state: undefined, memory, logits: "all", positionTable },
        NO_TAPS,
      ),
    );
    expect(await logits.data()).toBeAllClose(expected("logits").data, { within: 1e-5 });
    disposeMemory(memory);
  });
});
