/**
 * Numbers that the authors of Hugging Face's port published for the released checkpoints: the values that transformers'
 * integration tests look at, transcribed from `tests/models/musicgen/test_modeling_musicgen.py` and
 * `tests/models/musicgen_melody/test_modeling_musicgen_melody.py` at commit 01080c629600d4ff3121446bb4f4a2e240c2cf41
 * (Apache-2.0). They are rounded to the digits that stand here, and were computed in float32.
 */

/** One run and the values that it should give. */
export interface PublishedCase {
  readonly name: string; // the test's, with the channel where it looks at two
  readonly run: LogitsCase | ClipCase;
  readonly from: number; // of the first value; counted from the end if below 0
  readonly values: readonly number[];
}

/** The first text's logits of the first codebook at the BOS column. */
export interface LogitsCase {
  readonly kind: "logits";
}

/** A greedy clip: the first of as many as there are texts, or one without a text. */
export interface ClipCase {
  readonly kind: "clip";
  readonly text: boolean;
  readonly guidance: number;
  /** Whether it continues the sounds of {@link promptSounds}; `frames` counts theirs as well. */
  readonly audio: boolean;
  readonly frames: number;
  readonly channel: number;
}

/** The published values of one checkpoint. */
export interface PublishedValues {
  readonly model: string; // its name on the hub
  /** What tells it from the other checkpoints. */
  readonly shape: {
    readonly layers: number;
    readonly width: number;
    readonly audioChannels: 1 | 2;
    readonly readsMelody: boolean;
  };
  readonly cases: readonly PublishedCase[];
  /** Published too, but not run, and why. */
  readonly notRun: Readonly<Record<string, string>>;
}

/** The texts of all cases, in one batch. */
export const PUBLISHED_TEXTS: readonly string[] = ["80s music", "Club techno"];

/** As in those tests: absolute, plus relative to the expected value. */
export const PUBLISHED_TOLERANCE: { readonly absolute: number; readonly relative: number } = {
  absolute: 1e-4,
  relative: 1e-4,
};

const SAMPLING = "its random numbers are PyTorch's own";
const PROMPTED_FRAMES = 50; // a second

/** All of them. */
export const PUBLISHED_VALUES: readonly PublishedValues[] = [
  {
    model: "facebook/musicgen-small",
    shape: { layers: 24, width: 1024, audioChannels: 1, readsMelody: false },
    cases: [
      {
        name: "logits_text_prompt",
        run: { kind: "logits" },
        from: 0,
        values: [
          ...[-0.9708, -3.0149, -4.6415, -1.4754, -0.2786, -2.3523, -2.6049, -6.7467],
          ...[-1.0206, -3.2984, -3.3968, -1.5108, -1.5786, -3.1493, -1.1503, -0.0545],
        ],
      },
      {
        name: "generate_text_prompt_greedy",
        run: { kind: "clip", text: true, guidance: 1, audio: false, frames: 7, channel: 0 },
        from: 0,
        values: [
          ...[-1.1998e-4, -2.2302e-4, 4.6296e-4, 1.0524e-3, 2.4827e-4],
          ...[-4.0288e-5, -1.2468e-4, 4.9846e-5, 7.1485e-4, 4.4197e-4],
        ],
      },
      {
        name: "generate_text_prompt_greedy_cfg3",
        run: { kind: "clip", text: true, guidance: 3, audio: false, frames: 7, channel: 0 },
        from: 0,
        values: [
          ...[0.0283, 0.0246, 0.065, 0.064, 0.0599, 0.0711, 0.042, 0.0112],
          ...[0.0511, 0.0746, 0.1363, 0.1213, 0.0185, -0.0578, -0.0908, 0.0443],
        ],
      },
      {
        name: "generate_text_audio_prompt",
        run: { kind: "clip", text: true, guidance: 1, audio: true, frames: PROMPTED_FRAMES + 7, channel: 0 },
        from: -16,
        values: [
          ...[-0.0036, -0.013, -0.0261, -0.0384, -0.0557, -0.0718, -0.068, -0.0632],
          ...[-0.0529, -0.0403, -0.0289, -0.0198, -0.0136, -0.0101, -0.0095, -0.004],
        ],
      },
    ],
    notRun: {
      logits_text_audio_prompt: "it runs codes that are not laid out along the delay pattern, which tonearm never does",
      generate_unconditional_greedy:
        "so short a clip that transformers leaves out the delay pattern, which tonearm never does",
      generate_unconditional_sampling: SAMPLING,
      generate_text_prompt_sampling: SAMPLING,
    },
  },
  {
    model: "facebook/musicgen-stereo-small",
    shape: { layers: 24, width: 1024, audioChannels: 2, readsMelody: false },
    cases: [
      {
        name: "generate_unconditional_greedy left",
        run: { kind: "clip", text: false, guidance: 1, audio: false, frames: 9, channel: 0 },
        from: 0,
        values: [
          ...[0.0017, 0.0004, 0.0004, 0.0005, 0.0002, 0.0002, -0.0002, -0.0013],
          ...[-0.001, -0.0015, -0.0018, -0.0032, -0.006, -0.0082, -0.0096, -0.0099],
        ],
      },
      {
        name: "generate_unconditional_greedy right",
        run: { kind: "clip", text: false, guidance: 1, audio: false, frames: 9, channel: 1 },
        from: 0,
        values: [
          ...[0.0038, 0.0028, 0.0031, 0.0032, 0.0031, 0.0032, 0.003, 0.0019],
          ...[0.0021, 0.0015, 0.0009, -0.0008, -0.004, -0.0067, -0.0087, -0.0096],
        ],
      },
      {
        name: "generate_text_audio_prompt left",
        run: { kind: "clip", text: true, guidance: 3, audio: true, frames: PROMPTED_FRAMES + 9, channel: 0 },
        from: -16,
        values: [
          ...[0.2535, 0.2008, 0.1471, 0.0896, 0.0306, -0.02, -0.0501, -0.0728],
          ...[-0.0832, -0.0856, -0.0867, -0.0884, -0.0864, -0.0866, -0.0744, -0.043],
        ],
      },
      {
        name: "generate_text_audio_prompt right",
        run: { kind: "clip", text: true, guidance: 3, audio: true, frames: PROMPTED_FRAMES + 9, channel: 1 },
        from: -16,
        values: [
          ...[0.1695, 0.1213, 0.0732, 0.0239, -0.0264, -0.0705, -0.0935, -0.1103],
          ...[-0.1163, -0.1139, -0.1104, -0.1082, -0.1027, -0.1004, -0.09, -0.0614],
        ],
      },
    ],
    notRun: {},
  },
  {
    model: "facebook/musicgen-melody",
    shape: { layers: 48, width: 1536, audioChannels: 1, readsMelody: true },
    cases: [
      {
        name: "logits_text_prompt",
        run: { kind: "logits" },
        from: 0,
        values: [
          ...[1.11, -2.1065, -3.7699, -0.7102, 1.3707, -1.7028, -2.6802, -6.0367],
          ...[1.0504, -2.5358, -4.3497, 0.7338, 0.4823, -2.526, 1.2717, 1.5427],
        ],
      },
    ],
    notRun: {
      logits_text_audio_prompt: "its melody goes through an extractor that pads a batch to one length",
      generate_text_prompt_greedy:
        "all greedy clips of this model are published with the same near-silent samples, whatever text and guidance: they " +
        "would not tell a right model from one that reads no text",
      generate_text_prompt_greedy_cfg3: "as generate_text_prompt_greedy",
      generate_text_audio_prompt: "as generate_text_prompt_greedy",
    },
  },
];
