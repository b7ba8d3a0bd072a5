import { describe, expect, it } from "vitest";

import { readEncodecConfig } from "../../src/encodec/config.js";
import { CheckpointError } from "../../src/errors.js";
import { blockOf, changedBlock } from "./fixture.js";

/** The audio_encoder block of facebook/musicgen-small, as spelled in spec and hub: encodec_32khz. */
const OFFICIAL = {
  model_type: "encodec",
  sampling_rate: 32000,
  audio_channels: 1,
  normalize: false,
  chunk_length_s: null,
  overlap: null,
  hidden_size: 128,
  num_filters: 64,
  num_residual_layers: 1,
  upsampling_ratios: [8, 5, 4, 4],
  norm_type: "weight_norm",
  kernel_size: 7,
  last_kernel_size: 7,
  residual_kernel_size: 3,
  dilation_growth_rate: 2,
  use_causal_conv: false,
  pad_mode: "reflect",
  compress: 2,
  num_lstm_layers: 2,
  trim_right_ratio: 1.0,
  codebook_size: 2048,
  codebook_dim: 128,
  use_conv_shortcut: false,
  target_bandwidths: [2.2],
};

describe("readEncodecConfig", () => {
  it("reads the official codec: 640 samples a frame, 50 frames a second, 4 codebooks of 2048", () => {
    const block = blockOf(OFFICIAL);
    expect(readEncodecConfig(block)).toEqual({
      sampleRate: 32000,
      ratios: [8, 5, 4, 4],
      filters: 64,
      latentWidth: 128,
      kernel: 7,
      lastKernel: 7,
      residualKernel: 3,
      residualDilations: [1],
      residualShrink: 2,
      lstmLayers: 2,
      codebooks: 4,
      codebookSize: 2048,
      hop: 640,
      frameRate: 50,
    });
    block.finish();
  });

  it("rounds the frame rate up and counts codebooks by whole bits, as transformers 5.18.0", () => {
    const config = readEncodecConfig(
      blockOf({ ...OFFICIAL, sampling_rate: 32001, num_residual_layers: 3, target_bandwidths: [2.9] }),
    );
    expect(config.frameRate).toBe(51);
    expect(config.codebooks).toBe(5); // floor(2900 / (51 · 11))
    expect(config.residualDilations).toEqual([1, 2, 4]);
  });

  it.each([
    ["use_causal_conv", true],
    ["use_causal_conv", undefined], // transformers' default is true
    ["pad_mode", "constant"],
    ["chunk_length_s", 1.0],
    ["normalize", true],
    ["norm_type", "time_group_norm"],
    ["use_conv_shortcut", true],
    ["audio_channels", 2],
    ["trim_right_ratio", 0.5],
    ["model_type", "dac"],
    ["codebook_dim", 8],
    ["codebook_size", 60],
    ["target_bandwidths", [2.2, 4.4]],
    ["target_bandwidths", []],
    ["target_bandwidths", [0.1]],
    ["upsampling_ratios", []],
    ["upsampling_ratios", [8, 0]],
    ["num_filters", 0],
    ["num_lstm_layers", "two"],
  ])("refuses %s = %j by name", async (key, value) => {
    const block = await changedBlock({ [key]: value });
    expect(() => readEncodecConfig(block)).toThrow(CheckpointError);
    expect(() => readEncodecConfig(block)).toThrow(key);
  });

  it("leaves an unknown key for finish() to name", async () => {
    const block = await changedBlock({ use_bias: false });
    readEncodecConfig(block);
    expect(() => block.finish()).toThrow("use_bias");
  });
});
