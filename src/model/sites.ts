import type { DecoderConfig } from "./config.js";

/** The activations that the decoder announces. */

/** A letter of a shape; the glossary is the decoder's. Rc are the first rows, those that read a text. */
export type ShapeLetter = "B" | "R" | "Rc" | "T" | "T'" | "S" | "D" | "H" | "Dh" | "4D" | "K" | "V" | "1";

/** A site and its shape. */
export interface DecoderSite {
  readonly site: string;
  readonly shape: readonly ShapeLetter[];
}

const STATES = ["R", "T", "D"] as const;
const READING = ["Rc", "T", "D"] as const;

function normSites(name: string, shape: readonly ShapeLetter[]): readonly DecoderSite[] {
  return [
    { site: `${name}.hook_scale`, shape: [...shape.slice(0, -1), "1"] },
    { site: `${name}.hook_normalized`, shape },
  ];
}

function attentionSites(name: string, rows: "R" | "Rc", keys: "T" | "S", seen: "T'" | "S"): readonly DecoderSite[] {
  return [
    { site: `${name}.hook_q`, shape: [rows, "T", "H", "Dh"] },
    { site: `${name}.hook_k`, shape: [rows, keys, "H", "Dh"] },
    { site: `${name}.hook_v`, shape: [rows, keys, "H", "Dh"] },
    { site: `${name}.hook_attn_scores`, shape: [rows, "H", "T", seen] },
    { site: `${name}.hook_pattern`, shape: [rows, "H", "T", seen] },
    { site: `${name}.hook_z`, shape: [rows, "T", "H", "Dh"] },
    { site: `${name}.hook_result`, shape: [rows, "T", "H", "D"] },
  ];
}

const SELF_ATTENTION: readonly DecoderSite[] = [
  { site: "hook_resid_pre", shape: STATES },
  ...normSites("ln1", STATES),
  ...attentionSites("attn", "R", "T", "T'"),
  { site: "hook_attn_out", shape: STATES },
  { site: "hook_resid_mid", shape: STATES },
];

const CROSS_ATTENTION: readonly DecoderSite[] = [
  ...normSites("ln2", READING),
  ...attentionSites("cross_attn", "Rc", "S", "S"),
  { site: "hook_cross_attn_out", shape: STATES },
  { site: "hook_resid_mid_cross", shape: STATES },
];

const MLP: readonly DecoderSite[] = [
  ...normSites("ln3", STATES),
  { site: "mlp.hook_pre", shape: ["R", "T", "4D"] },
  { site: "mlp.hook_post", shape: ["R", "T", "4D"] },
  { site: "hook_mlp_out", shape: STATES },
  { site: "hook_resid_post", shape: STATES },
];

/**
 * Every site of the decoder in the order in which it is announced. Those of the cross-attention are announced only where
 * some row reads a text; `hook_guided_logits` only while generating.
 */
export function decoderSites({ layers, crossAttention }: DecoderConfig): readonly DecoderSite[] {
  const block = [...SELF_ATTENTION, ...(crossAttention ? CROSS_ATTENTION : []), ...MLP];
  return [
    { site: "hook_embed", shape: STATES },
    { site: "hook_pos_embed", shape: ["T", "D"] },
    ...Array.from({ length: layers }, (_, layer) =>
      block.map(({ site, shape }) => ({ site: `blocks.${layer}.${site}`, shape })),
    ).flat(),
    ...normSites("ln_final", STATES),
    { site: "hook_logits", shape: ["R", "K", "T", "V"] },
    { site: "hook_guided_logits", shape: ["B", "K", "T", "V"] },
  ];
}
