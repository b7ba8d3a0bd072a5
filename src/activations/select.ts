import { SiteError } from "../errors.js";
import type { Site } from "./catalogue.js";

/**
 * How sites are chosen: by name (`"blocks.3.hook_resid_post"`), by glob (`"blocks.*.attn.hook_z"`; `*` stands for
 * anything but a dot, `**` for anything), by shorthand (`["pattern", 3]`), by a list of these, or by a predicate.
 * Layers count from the end when negative: `"blocks.-1.hook_resid_post"`, `["resid_post", -1]`.
 */
export type SiteSelection = string | SiteShorthand | readonly SiteSelection[] | ((site: string) => boolean);

/** What comes after `hook_` in a decoder block's site, and the layer: `["resid_post", 3]`, `["cross_attn.z", -1]`. */
export type SiteShorthand = readonly [name: string, layer: number];

/**
 * The sites that a selection stands for.
 *
 * @throws {SiteError} if a name, glob or shorthand matches no site, with the nearest names or the range of layers; or if a
 *   predicate accepts none.
 */
export function selectSites(selection: SiteSelection, catalogue: readonly Site[]): ReadonlySet<string> {
  if (typeof selection === "function") {
    return required(
      catalogue.filter(({ site }) => selection(site)),
      "a predicate over sites",
      `it accepts none of the ${catalogue.length}`,
    );
  }
  if (typeof selection === "string") return selectByPattern(selection, catalogue);
  if (isShorthand(selection)) return selectByShorthand(selection, catalogue);
  if (selection.length === 0) return required([], "an empty list of sites", "it names no site");
  return new Set(selection.flatMap((part) => [...selectSites(part, catalogue)]));
}

function isShorthand(selection: SiteShorthand | readonly SiteSelection[]): selection is SiteShorthand {
  return selection.length === 2 && typeof selection[0] === "string" && typeof selection[1] === "number";
}

function selectByPattern(pattern: string, catalogue: readonly Site[]): ReadonlySet<string> {
  const counted = countLayersFromStart(pattern, catalogue);
  const expression = globExpression(counted);
  const matches = catalogue.filter(({ site }) => expression.test(site));
  if (matches.length > 0) return new Set(matches.map(({ site }) => site));
  throw noSuchSite(pattern, catalogue);
}

/** "blocks.-1.hook_resid_post" → "blocks.23.hook_resid_post" of 24; other names are left as they are. */
export function countLayersFromStart(pattern: string, catalogue: readonly Site[]): string {
  return pattern.replace(/^(text\.)?blocks\.(-\d+)\./, (_, prefix: string | undefined, layer: string) => {
    const count = layerCount(catalogue, prefix ? "text" : "decoder");
    return `${prefix ?? ""}blocks.${count + Number(layer)}.`;
  });
}

function layerCount(catalogue: readonly Site[], network: Site["network"]): number {
  return 1 + Math.max(-1, ...catalogue.filter((site) => site.network === network).map(({ layer }) => layer ?? -1));
}

function globExpression(pattern: string): RegExp {
  const parts = pattern.split(/(\*\*|\*)/).map((part) => {
    if (part === "**") return ".*";
    if (part === "*") return "[^.]*";
    return part.replace(/[\\^$.+?()[\]{}|]/g, "\\$&");
  });
  return new RegExp(`^${parts.join("")}$`);
}

function selectByShorthand([name, layer]: SiteShorthand, catalogue: readonly Site[]): ReadonlySet<string> {
  const asked = `["${name}", ${layer}]`;
  const count = layerCount(catalogue, "decoder");
  const wanted = layer < 0 ? count + layer : layer;
  const dot = name.lastIndexOf(".");
  const ending = `${name.slice(0, dot + 1)}hook_${name.slice(dot + 1)}`;
  const inBlock = catalogue.filter((site) => site.network === "decoder" && site.layer !== undefined);
  // "z" is the self-attention's; the cross-attention's is "cross_attn.z".
  const inside = [`blocks.${wanted}.${ending}`, `blocks.${wanted}.attn.${ending}`, `blocks.${wanted}.mlp.${ending}`];
  const match = inBlock.find(({ site }) => inside.includes(site));
  if (match) return new Set([match.site]);
  if (wanted < 0 || wanted >= count || !Number.isInteger(layer)) throw layerOutOfRange(asked, count);
  const names = inBlock.filter((site) => site.layer === 0).map(({ site }) => shorthandOf(site));
  throw new SiteError({
    asked: `select ${asked}`,
    found: `no site of a block is called "${name}"; nearest: ${nearest(name, names).join(", ")}`,
    todo: "List all sites with `tonearm sites` or model.sites()",
  });
}

/** "blocks.0.attn.hook_z" → "z", "blocks.0.cross_attn.hook_z" → "cross_attn.z". */
function shorthandOf(site: string): string {
  return site
    .replace(/^blocks\.\d+\./, "")
    .replace(/^(attn|mlp)\./, "")
    .replace("hook_", "");
}

function noSuchSite(pattern: string, catalogue: readonly Site[]): SiteError {
  const layer = /^(text\.)?blocks\.(-?\d+)\./.exec(pattern);
  if (layer) {
    const count = layerCount(catalogue, layer[1] ? "text" : "decoder");
    const wanted = Number(layer[2]);
    if (wanted >= count || wanted < -count) return layerOutOfRange(`"${pattern}"`, count);
  }
  const names = catalogue.map(({ site }) => site);
  const crossing = /^blocks\..*(cross|\.ln2\.)/;
  if (crossing.test(pattern) && !names.some((name) => crossing.test(name))) {
    return new SiteError({
      asked: `select "${pattern}"`,
      found: "a model without cross-attention: it reads its text as the first positions of the sequence",
      todo: "Take the self-attention's site instead",
    });
  }
  return new SiteError({
    asked: `select "${pattern}"`,
    found: `no site of that name; nearest: ${nearest(pattern, names).join(", ")}`,
    todo: "List all sites with `tonearm sites` or model.sites()",
  });
}

function layerOutOfRange(asked: string, count: number): SiteError {
  return new SiteError({
    asked: `select ${asked}`,
    found: `a layer out of range`,
    todo: `This network has layers 0 … ${count - 1}, or -1 … -${count} from the end`,
  });
}

function required(sites: readonly Site[], asked: string, found: string): ReadonlySet<string> {
  if (sites.length > 0) return new Set(sites.map(({ site }) => site));
  throw new SiteError({
    asked: `select ${asked}`,
    found,
    todo: "List all sites with `tonearm sites` or model.sites()",
  });
}

const NEAREST = 3; // names in an error

/** The names that differ from `name` by the fewest insertions, deletions and substitutions. */
export function nearest(name: string, names: readonly string[]): readonly string[] {
  return names
    .map((candidate) => ({ candidate, distance: editDistance(name, candidate) }))
    .toSorted((a, b) => a.distance - b.distance)
    .slice(0, NEAREST)
    .map(({ candidate }) => candidate);
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(substitution, (previous[j] ?? 0) + 1, (current[j - 1] ?? 0) + 1));
    }
    previous = current;
  }
  return previous[b.length] ?? 0;
}
