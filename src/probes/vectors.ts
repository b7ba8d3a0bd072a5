import { SafetensorsFile, writeSafetensors, type NamedTensor } from "../checkpoint/safetensors.js";
import { CheckpointError } from "../errors.js";
import type { DecoderConfig } from "../model/config.js";
import { decoderSites } from "../model/sites.js";

/**
 * What probes found, on disk: for each site one direction per concept, with what is needed to read a concept (gain,
 * bias) and to steer by it (means, deviations, norms).
 *
 * A file is safetensors. The tensor named like the site holds the directions; what belongs to them follows as
 * `<site>/gain`, `/bias`, `/score`, `/deviation`, `/mean` and `/norm`. Metadata says where all of it came from.
 */

/** The directions at one site. A site has U units: the heads of `hook_z`, one otherwise. C concepts, W values a unit. */
export interface SiteVectors {
  readonly site: string;
  /** Shape of one direction: [D], or [H, Dh] for a site with heads. */
  readonly shape: readonly number[];
  /** One direction per concept, in the units of the activation, not normalised: [C, ...shape]. */
  readonly directions: Float32Array;
  /** The probe reads `gain · (direction · x) + bias`, x the activation or, with `normalized`, x / ‖x‖: [C, U]. */
  readonly gain: Float32Array;
  readonly bias: Float32Array; // [C, U]
  /** Held-out score of each unit, from {@link SteeringVectors.scoring}: [U]. */
  readonly score: Float32Array;
  /** Standard deviation of the activations' projection on the unit direction: [C, U]. */
  readonly deviation: Float32Array;
  /** Mean activation of each concept's rows; for a number, of all rows: [C, ...shape]. */
  readonly mean: Float32Array;
  /** Mean Euclidean norm of the activations: [U]. */
  readonly norm: Float32Array;
}

/** A set of directions and where they came from. */
export interface SteeringVectors {
  /** What each direction leads towards: a class, or larger values of the label. */
  readonly concepts: readonly string[];
  readonly label: string; // the label column of the capture
  readonly target: "classes" | "value";
  readonly estimator: string;
  readonly settings: Readonly<Record<string, string | number | boolean>>; // of the estimator
  readonly scoring: string; // what `score` is: "balanced accuracy", "R²"
  readonly normalized: boolean; // whether the probe reads rows of length 1
  readonly model: string; // fingerprint of the weights that made the activations
  readonly data: string; // hash of activations and labels
  readonly seed: number; // of the splits
  readonly tonearm: string; // version that made it
  readonly sites: ReadonlyMap<string, SiteVectors>;
}

const FORMAT = "tonearm steering vectors 1";
const PARTS = ["gain", "bias", "score", "deviation", "mean", "norm"] as const;

type Part = (typeof PARTS)[number];

/** The direction of a concept at a site: a view of C · shape values. @throws {CheckpointError} if there is none. */
export function directionOf(vectors: SteeringVectors, site: string, concept: string): Float32Array {
  const asked = `take the direction of "${concept}" at ${site}`;
  const found = vectors.sites.get(site);
  if (!found) {
    const sites = [...vectors.sites.keys()];
    throw new CheckpointError({ asked, found: "no vectors at that site", todo: `Choose one of ${listed(sites)}` });
  }
  const index = vectors.concepts.indexOf(concept);
  if (index < 0) {
    throw new CheckpointError({ asked, found: "no such concept", todo: `Choose one of ${listed(vectors.concepts)}` });
  }
  const width = sizeOf(found.shape);
  return found.directions.subarray(index * width, (index + 1) * width);
}

/**
 * Writes vectors as one safetensors file; an existing file is replaced.
 *
 * @throws {CheckpointError} if there is no site, a size contradicts another, a value is not finite, or the file can't be
 *   written.
 */
export async function writeVectors(path: string, vectors: SteeringVectors): Promise<void> {
  if (vectors.sites.size === 0 || vectors.concepts.length === 0) {
    throw damaged("write", path, "no site or no concept", "Fit a probe at one site at least");
  }
  const tensors: NamedTensor[] = [];
  for (const [site, found] of vectors.sites) {
    const shapes = partShapes(found.shape, vectors.concepts.length);
    for (const part of ["directions", ...PARTS] as const) {
      const name = part === "directions" ? site : `${site}/${part}`;
      const values = found[part];
      checkValues("write", path, name, values, shapes[part]);
      tensors.push({ name, shape: shapes[part], dtype: "F32", values });
    }
  }
  const { concepts, label, target, estimator, settings, scoring, normalized, model, data, seed, tonearm } = vectors;
  const scores = Object.fromEntries([...vectors.sites].map(([site, { score }]) => [site, Array.from(score)]));
  await writeSafetensors(path, tensors, {
    format: FORMAT,
    concepts: JSON.stringify(concepts),
    label,
    target,
    estimator,
    settings: JSON.stringify(settings),
    scoring,
    scores: JSON.stringify(scores),
    normalized: String(normalized),
    model,
    data,
    seed: String(seed),
    tonearm,
  });
}

/**
 * Reads a file of vectors.
 *
 * @throws {CheckpointError} if it is missing, damaged, or not a file of vectors.
 */
export async function readVectors(path: string): Promise<SteeringVectors> {
  const file = await SafetensorsFile.open(path);
  try {
    const metadata = readMetadata(file);
    const names = [...file.tensors.keys()];
    const sites = new Map<string, SiteVectors>();
    for (const site of names.filter((name) => !name.includes("/"))) {
      sites.set(site, await readSite(file, site, metadata.concepts.length));
    }
    const extra = names.find((name) => name.includes("/") && !isPart(name, sites));
    if (extra !== undefined || sites.size === 0) {
      const found = extra === undefined ? "no site" : `a tensor "${extra}" that belongs to no site`;
      throw damaged("read", path, found, "Write the file anew with `tonearm probe`");
    }
    return { ...metadata, sites };
  } finally {
    await file.close();
  }
}

/**
 * Makes sure that vectors fit a model: its weights made the activations, and it has each site with the same shape.
 *
 * @throws {CheckpointError} that names the first mismatch and its reason.
 */
export function requireSameModel(
  vectors: SteeringVectors,
  model: { fingerprint: string; config: DecoderConfig },
): void {
  const asked = `steer with the ${vectors.estimator} vectors of "${vectors.label}"`;
  const todo = "Capture activations of this model and fit the probe on them, or load the model they came from";
  for (const { site, shape } of vectors.sites.values()) {
    const own = directionShape(site, model.config);
    if (own === undefined) {
      throw new CheckpointError({ asked, found: `vectors at ${site}, a site that this model lacks`, todo });
    }
    if (own.join() !== shape.join()) {
      const found = `vectors of shape [${shape.join(", ")}] at ${site}, where this model has [${own.join(", ")}]`;
      throw new CheckpointError({ asked, found, todo });
    }
  }
  if (vectors.model !== model.fingerprint) {
    const found = `vectors of the model ${short(vectors.model)}, while this one is ${short(model.fingerprint)}`;
    throw new CheckpointError({ asked, found, todo });
  }
}

/**
 * The shape of a direction at a site of the decoder: the axes that follow rows and positions, [D] or [H, Dh]. Undefined
 * where there is no such site, or its values lie along positions rather than features (patterns, scores, logits).
 */
export function directionShape(site: string, config: DecoderConfig): readonly number[] | undefined {
  const found = decoderSites(config).find((candidate) => candidate.site === site);
  if (!found) return undefined;
  const sizes: Partial<Record<string, number>> = {
    D: config.width,
    "4D": config.ffnWidth,
    H: config.heads,
    Dh: config.headWidth,
  };
  const [rows, positions, ...features] = found.shape;
  const isRow = rows === "R" || rows === "Rc";
  if (!isRow || (positions !== "T" && positions !== "S")) return undefined;
  const shape = features.map((letter) => sizes[letter]);
  return shape.every((size) => size !== undefined) ? shape : undefined;
}

async function readSite(file: SafetensorsFile, site: string, concepts: number): Promise<SiteVectors> {
  const [stored, ...shape] = file.entry(site).shape;
  if (stored !== concepts || shape.length < 1 || shape.length > 2) {
    const found = `directions of shape [${file.entry(site).shape.join(", ")}] at ${site} for ${concepts} concepts`;
    throw damaged("read", file.path, found, "Write the file anew with `tonearm probe`");
  }
  const shapes = partShapes(shape, concepts);
  const part = async (name: Part | "directions"): Promise<Float32Array> => {
    const tensor = name === "directions" ? site : `${site}/${name}`;
    const values = await file.floats(tensor);
    checkValues("read", file.path, tensor, values, shapes[name]);
    return values;
  };
  return {
    site,
    shape,
    directions: await part("directions"),
    gain: await part("gain"),
    bias: await part("bias"),
    score: await part("score"),
    deviation: await part("deviation"),
    mean: await part("mean"),
    norm: await part("norm"),
  };
}

function partShapes(
  shape: readonly number[],
  concepts: number,
): Readonly<Record<Part | "directions", readonly number[]>> {
  const units = shape.length === 2 ? (shape[0] ?? 1) : 1;
  const perConcept = [concepts, units];
  const whole = [concepts, ...shape];
  return {
    directions: whole,
    gain: perConcept,
    bias: perConcept,
    score: [units],
    deviation: perConcept,
    mean: whole,
    norm: [units],
  };
}

function checkValues(
  verb: "read" | "write",
  path: string,
  name: string,
  values: Float32Array,
  shape: readonly number[],
): void {
  const todo = "Fit the probe again with `tonearm probe`";
  if (values.length !== sizeOf(shape)) {
    throw damaged(verb, path, `${values.length} values in "${name}", not those of [${shape.join(", ")}]`, todo);
  }
  const bad = values.find((value) => !Number.isFinite(value));
  if (bad !== undefined) throw damaged(verb, path, `${bad} in "${name}"`, todo);
}

function isPart(name: string, sites: ReadonlyMap<string, SiteVectors>): boolean {
  const slash = name.indexOf("/");
  return sites.has(name.slice(0, slash)) && PARTS.some((part) => part === name.slice(slash + 1));
}

function readMetadata({ path, metadata }: SafetensorsFile): Omit<SteeringVectors, "sites"> {
  const todo = "Give a file that `tonearm probe` wrote";
  if (metadata["format"] !== FORMAT) {
    throw damaged("read", path, "a safetensors file without steering vectors", todo);
  }
  const text = (key: string): string => {
    const value = metadata[key];
    if (value === undefined) throw damaged("read", path, `no "${key}" in its metadata`, todo);
    return value;
  };
  const json = (key: string): unknown => {
    try {
      return JSON.parse(text(key));
    } catch (cause) {
      throw damaged("read", path, `"${key}" in its metadata that is not JSON`, todo, cause);
    }
  };
  const concepts = json("concepts");
  if (!isTextList(concepts) || concepts.length === 0) {
    throw damaged("read", path, `"concepts" in its metadata that are no list of names`, todo);
  }
  const settings = json("settings");
  if (!isSettings(settings)) throw damaged("read", path, `"settings" in its metadata that are no settings`, todo);
  const target = text("target");
  if (target !== "classes" && target !== "value") throw damaged("read", path, `the target "${target}"`, todo);
  const seed = Number(text("seed"));
  if (!Number.isInteger(seed)) throw damaged("read", path, `the seed "${text("seed")}"`, todo);
  return {
    concepts,
    label: text("label"),
    target,
    estimator: text("estimator"),
    settings,
    scoring: text("scoring"),
    normalized: text("normalized") === "true",
    model: text("model"),
    data: text("data"),
    seed,
    tonearm: text("tonearm"),
  };
}

function isTextList(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

function isSettings(value: unknown): value is Readonly<Record<string, string | number | boolean>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  return Object.values(value).every((item) => ["string", "number", "boolean"].includes(typeof item));
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

const LISTED = 8;

function listed(names: readonly string[]): string {
  const rest = names.length - LISTED;
  return names.slice(0, LISTED).join(", ") + (rest > 0 ? ` and ${rest} more` : "");
}

function short(fingerprint: string): string {
  return fingerprint.slice(0, 12);
}

function damaged(verb: "read" | "write", path: string, found: string, todo: string, cause?: unknown): CheckpointError {
  return new CheckpointError({ asked: `${verb} the vectors ${path}`, found, todo, cause });
}
