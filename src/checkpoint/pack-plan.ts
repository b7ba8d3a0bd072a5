import type { CheckpointEntry } from "./checkpoint.js";

/** Which tensors of a MusicGen checkpoint packing turns into matrices, and in what order they lie in the file. */

/** The decoder's matrices, stored as asked. Within one block in the order in which they are multiplied as one. */
const DECODER =
  /^decoder\.(?:model\.decoder\.layers\.(\d+)\.((?:self_attn|encoder_attn)\.[qkv]_proj|(?:self_attn|encoder_attn)\.out_proj|fc[12])|lm_heads\.(\d+))\.weight$/;

/** The text encoder's, which stay exact. */
const TEXT =
  /^text_encoder\.encoder\.block\.(\d+)\.layer\.\d+\.(?:SelfAttention\.([qkvo])|DenseReluDense\.(w[io]))\.weight$/;

const PROJECTION = /^(?:audio_)?enc_to_dec_proj\.weight$/;

const DECODER_ROLES = [
  "self_attn.q_proj",
  "self_attn.k_proj",
  "self_attn.v_proj",
  "self_attn.out_proj",
  "encoder_attn.q_proj",
  "encoder_attn.k_proj",
  "encoder_attn.v_proj",
  "encoder_attn.out_proj",
  "fc1",
  "fc2",
];

const TEXT_ROLES = ["q", "k", "v", "o", "wi", "wo"];

/** A tensor to be packed as a matrix. */
export interface PlannedMatrix {
  readonly entry: CheckpointEntry;
  /** Whether it is stored as asked; if not, in the smallest way that keeps every value. */
  readonly isDecoder: boolean;
  /** Itself and those that it is multiplied as one with: they are stored alike. */
  readonly group: readonly CheckpointEntry[];
}

/** What becomes of each tensor. */
export interface PackPlan {
  readonly matrices: readonly PlannedMatrix[];
  readonly others: readonly CheckpointEntry[];
}

/** Sorts the tensors of a checkpoint: matrices in the order of their layers, the others wide values first. */
export function planPack(entries: Iterable<CheckpointEntry>): PackPlan {
  const ranked: { readonly entry: CheckpointEntry; readonly rank: readonly number[] }[] = [];
  const others: CheckpointEntry[] = [];
  for (const entry of entries) {
    const rank = rankOf(entry);
    if (rank) ranked.push({ entry, rank });
    else others.push(entry);
  }
  ranked.sort((a, b) => compare(a.rank, b.rank));
  const groups = new Map<string, CheckpointEntry[]>();
  for (const { entry } of ranked) groups.set(groupOf(entry), [...(groups.get(groupOf(entry)) ?? []), entry]);
  return {
    matrices: ranked.map(({ entry, rank }) => ({
      entry,
      isDecoder: rank[0] === 2,
      group: groups.get(groupOf(entry)) ?? [entry],
    })),
    others: others.toSorted((a, b) => (b.end - b.start) / (b.size || 1) - (a.end - a.start) / (a.size || 1)),
  };
}

/** q, k and v of one attention have the same; every other matrix has one of its own. */
function groupOf({ name }: CheckpointEntry): string {
  return name.replace(/\b[qkv](_proj)?\.weight$/, "qkv");
}

/** Network, layer and role, or undefined if the tensor is not to be packed. */
function rankOf({ name, shape }: CheckpointEntry): readonly number[] | undefined {
  if (shape.length !== 2 || shape.includes(0)) return undefined;
  const text = TEXT.exec(name);
  if (text) return [0, Number(text[1]), TEXT_ROLES.indexOf(text[2] ?? text[3] ?? "")];
  if (PROJECTION.test(name)) return [1, name.length, 0];
  const decoder = DECODER.exec(name);
  if (!decoder) return undefined;
  const [, layer, role = "", head] = decoder;
  return head === undefined ? [2, Number(layer), DECODER_ROLES.indexOf(role)] : [2, Infinity, Number(head)];
}

function compare(a: readonly number[], b: readonly number[]): number {
  const index = a.findIndex((value, at) => value !== b[at]);
  return index < 0 ? 0 : (a[index] ?? 0) - (b[index] ?? 0);
}
