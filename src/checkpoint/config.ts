import { CheckpointError } from "../errors.js";
import { isJsonObject, readJsonFile, type JsonObject } from "./json.js";

export { readJsonFile };

/** A JSON value without parts. `undefined` stands for a key that is absent. */
export type Scalar = string | number | boolean | null | undefined;

/** Bounds of a number, inclusive, and what an absent key means; without `default` the key must be there. */
export interface NumberRule {
  readonly min?: number;
  readonly max?: number;
  readonly default?: number;
}

/** Bounds of each number of a list, inclusive, its length, and what an absent key means. */
export interface ListRule {
  readonly min?: number;
  readonly max?: number;
  readonly length?: number;
  readonly default?: readonly number[];
}

/**
 * What every Hugging Face configuration may carry and no forward pass here depends on: the fields of `PretrainedConfig`
 * that transformers 4.31 (2023) dumped into every block, and those that 5.x writes. A reader that does depend on one
 * (a pad token, tied embeddings) reads it as well; ignoring a key that was read changes nothing.
 *
 * Not in the list: `model_type`, `quantization_config` (it changes every weight), `pruned_heads` (it changes shapes; see
 * {@link ConfigBlock.ignoreGeneric}).
 */
export const GENERIC_KEYS: readonly string[] = [
  // where the file came from
  ...["_name_or_path", "name_or_path", "_commit_hash", "architectures", "auto_map", "transformers_version"],
  ...["tokenizer_class", "finetuning_task", "task_specific_params", "_from_model_config"],
  // how PyTorch held and ran it; tonearm computes in float32
  ...["dtype", "torch_dtype", "torchscript", "use_bfloat16", "tf_legacy_loss", "xla_device", "gradient_checkpointing"],
  ...["attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "_experts_implementation"],
  ...["use_cache", "chunk_size_feed_forward"],
  // what Python's forward returns
  ...["return_dict", "output_attentions", "output_hidden_states", "_output_attentions", "tie_last_hidden_states"],
  // heads and labels of classifiers
  ...["id2label", "label2id", "num_labels", "problem_type", "classifier_dropout"],
  // roles and tied weights; the weights in the file decide
  ...["is_decoder", "is_encoder_decoder", "add_cross_attention", "cross_attention_hidden_size"],
  ...["tie_word_embeddings", "tie_encoder_decoder"],
  // tokens and generation settings; generation_config.json decides
  ...["bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "prefix"],
  ...[
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "num_return_sequences",
  ],
  ...["temperature", "top_k", "top_p", "typical_p", "diversity_penalty", "repetition_penalty", "length_penalty"],
  ...["no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens"],
  ...["begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"],
  ...["exponential_decay_length_penalty", "output_scores", "return_dict_in_generate"],
];

const OTHER_FILE = "Fetch the file again: it is damaged, or of another kind of model";

/**
 * One object of a configuration file, read key by key. Each key is checked when it is read, and remembered, so that
 * `finish()` can prove that no key of the file went unnoticed: an unknown key may mean an architecture that would load
 * and compute something else.
 *
 * ```ts
 * const block = (await readConfig("config.json")).block("decoder");
 * const layers = block.integer("num_hidden_layers", { min: 1 });
 * block.expect("activation_function", "gelu");
 * block.ignore("dropout", "layerdrop");
 * block.ignoreGeneric();
 * block.finish();
 * ```
 *
 * Every method throws a {@link CheckpointError} that names the file and the key's dotted path. A null counts as absent,
 * except for `expect` and `has`.
 */
export class ConfigBlock {
  readonly file: string;
  /** Dotted path inside the file, "" at its root. */
  readonly path: string;
  readonly #values: JsonObject;
  readonly #known = new Set<string>();
  readonly #blocks: ConfigBlock[] = [];

  constructor(values: JsonObject, file: string, path = "") {
    this.#values = values;
    this.file = file;
    this.path = path;
  }

  /** Whether the key is there, null included. Does not count as reading it. */
  has(name: string): boolean {
    return Object.hasOwn(this.#values, name);
  }

  /** A whole number. */
  integer(name: string, rule: NumberRule = {}): number {
    const value = this.#take(name, rule.default);
    if (!Number.isSafeInteger(value)) throw this.#wrong(name, value, "a whole number");
    return this.#bounded(name, Number(value), rule);
  }

  /** A finite number. */
  number(name: string, rule: NumberRule = {}): number {
    const value = this.#take(name, rule.default);
    if (!Number.isFinite(value)) throw this.#wrong(name, value, "a number");
    return this.#bounded(name, Number(value), rule);
  }

  /** A list of whole numbers. */
  integers(name: string, rule: ListRule = {}): readonly number[] {
    return this.#list(name, rule, "a list of whole numbers", Number.isSafeInteger);
  }

  /** A list of finite numbers. */
  numbers(name: string, rule: ListRule = {}): readonly number[] {
    return this.#list(name, rule, "a list of numbers", Number.isFinite);
  }

  /** A text that is not empty; one of `choices`, if there are any. */
  string<Choice extends string = string>(name: string, choices?: readonly Choice[]): Choice {
    const value = this.#take(name);
    if (typeof value !== "string" || value === "") throw this.#wrong(name, value, "a text");
    if (choices && !choices.some((choice) => choice === value)) {
      throw this.#wrong(name, value, `one of ${choices.map(show).join(", ")}`);
    }
    return value as Choice;
  }

  /** true or false. */
  boolean(name: string, rule: { readonly default?: boolean } = {}): boolean {
    const value = this.#take(name, rule.default);
    if (typeof value !== "boolean") throw this.#wrong(name, value, "true or false");
    return value;
  }

  /**
   * Refuses every value but `allowed`: for keys of which tonearm supports some values only. List `undefined` where the
   * key may be absent, which is right when Hugging Face's own default is among the others.
   */
  expect<Allowed extends Scalar>(name: string, ...allowed: readonly Allowed[]): Allowed {
    this.#known.add(name);
    const value = this.#get(name);
    const match = allowed.find((candidate) => candidate === value);
    if (match === undefined && (value !== undefined || !allowed.includes(undefined as Allowed))) {
      throw this.#wrong(name, value, allowed.map(show).join(" or "), "tonearm does not support this variant");
    }
    return match as Allowed;
  }

  /** Keys without effect on the forward pass, present or not. */
  ignore(...names: readonly string[]): void {
    for (const name of names) this.#known.add(name);
  }

  /** Ignores {@link GENERIC_KEYS}, and makes sure that no heads were pruned. */
  ignoreGeneric(): void {
    this.ignore(...GENERIC_KEYS, "pruned_heads");
    const pruned = this.#get("pruned_heads") ?? {};
    if (!isJsonObject(pruned) || Object.keys(pruned).length > 0) {
      throw this.#wrong("pruned_heads", pruned, "no pruned heads", "tonearm does not support this variant");
    }
  }

  /** The object under `name`; `finish()` covers it too. */
  block(name: string): ConfigBlock {
    const value = this.#take(name);
    if (!isJsonObject(value)) throw this.#wrong(name, value, "an object");
    const block = new ConfigBlock(value, this.file, this.#pathOf(name));
    this.#blocks.push(block);
    return block;
  }

  /** The list of objects under `name`; `finish()` covers them too. */
  blocks(name: string): readonly ConfigBlock[] {
    const values = this.list(name, isJsonObject, "a list of objects");
    const blocks = values.map((value, index) => new ConfigBlock(value, this.file, `${this.#pathOf(name)}.${index}`));
    this.#blocks.push(...blocks);
    return blocks;
  }

  /** A list whose items all pass `isItem`; `wanted` says in an error what they should be. */
  list<Item>(name: string, isItem: (item: unknown) => item is Item, wanted: string): readonly Item[] {
    const value = this.#take(name);
    if (!Array.isArray(value) || !value.every(isItem)) throw this.#wrong(name, value, wanted);
    return value;
  }

  /** Ends reading: proves that every key, here and in the blocks taken from here, was read or ignored by name. */
  finish(): void {
    const unknown = this.#unknownKeys();
    if (unknown.length === 0) return;
    throw new CheckpointError({
      asked: `read ${this.file}`,
      found: `${unknown.length === 1 ? "a key" : "keys"} that tonearm does not know: ${unknown.join(", ")}`,
      todo: "This model may compute something else than tonearm would: check what the key means before removing it",
    });
  }

  #unknownKeys(): string[] {
    const own = Object.keys(this.#values).filter((name) => !this.#known.has(name));
    return [...own.map((name) => this.#pathOf(name)), ...this.#blocks.flatMap((block) => block.#unknownKeys())];
  }

  #pathOf(name: string): string {
    return this.path === "" ? name : `${this.path}.${name}`;
  }

  #get(name: string): unknown {
    return this.has(name) ? this.#values[name] : undefined;
  }

  #take(name: string, fallback?: unknown): unknown {
    this.#known.add(name);
    const value = this.#get(name) ?? fallback;
    if (value !== undefined) return value;
    throw this.#wrong(name, this.#get(name), "a value");
  }

  #bounded(name: string, value: number, { min = -Infinity, max = Infinity }: NumberRule): number {
    if (value >= min && value <= max) return value;
    throw this.#wrong(name, value, bounds(min, max));
  }

  #list(name: string, rule: ListRule, what: string, isItem: (item: unknown) => boolean): readonly number[] {
    const value = this.#take(name, rule.default);
    if (!Array.isArray(value) || !value.every(isItem)) throw this.#wrong(name, value, what);
    const items = value as readonly number[];
    if (rule.length !== undefined && items.length !== rule.length) {
      throw this.#wrong(name, value, `${rule.length} numbers`);
    }
    const { min = -Infinity, max = Infinity } = rule;
    if (!items.every((item) => item >= min && item <= max)) throw this.#wrong(name, value, bounds(min, max));
    return items;
  }

  #wrong(name: string, value: unknown, wanted: string, todo = OTHER_FILE): CheckpointError {
    return new CheckpointError({
      asked: `read ${this.#pathOf(name)} of ${this.file}`,
      found: `${show(value)}, expected ${wanted}`,
      todo,
    });
  }
}

function bounds(min: number, max: number): string {
  if (max === Infinity) return `${min} or more`;
  if (min === -Infinity) return `${max} or less`;
  return `${min} to ${max}`;
}

function show(value: unknown): string {
  if (value === undefined) return "absent";
  const text = JSON.stringify(value);
  return text.length > 120 ? `${text.slice(0, 120)}…` : text;
}

/**
 * Opens a JSON configuration file.
 *
 * @throws {CheckpointError} as {@link readJsonFile}.
 */
export async function readConfig(path: string): Promise<ConfigBlock> {
  return new ConfigBlock(await readJsonFile(path), path);
}
