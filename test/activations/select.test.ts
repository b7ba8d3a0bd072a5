import { describe, expect, it } from "vitest";

import { siteCatalogue } from "../../src/activations/catalogue.js";
import { selectSites, type SiteSelection } from "../../src/activations/select.js";
import { readMusicGenConfig } from "../../src/model/checkpoint.js";
import { fixtureDirectory } from "../support/fixtures.js";

const config = await readMusicGenConfig(fixtureDirectory("mono-layers"));
const catalogue = siteCatalogue(config);
const select = (selection: SiteSelection): string[] => [...selectSites(selection, catalogue)];

describe("a selection of sites", () => {
  it.each<[string, SiteSelection, string[]]>([
    ["a name", "blocks.3.attn.hook_pattern", ["blocks.3.attn.hook_pattern"]],
    ["a name outside blocks", "hook_logits", ["hook_logits"]],
    ["a layer from the end", "blocks.-1.hook_resid_post", ["blocks.3.hook_resid_post"]],
    ["the text encoder's last layer", "text.blocks.-1.hook_mlp_out", ["text.blocks.1.hook_mlp_out"]],
    ["a glob over layers", "blocks.*.attn.hook_z", [0, 1, 2, 3].map((layer) => `blocks.${layer}.attn.hook_z`)],
    ["a glob inside a name", "blocks.1.hook_resid_m*", ["blocks.1.hook_resid_mid", "blocks.1.hook_resid_mid_cross"]],
    ["a glob across dots", "blocks.2.**z", ["blocks.2.attn.hook_z", "blocks.2.cross_attn.hook_z"]],
    ["a shorthand", ["pattern", 3], ["blocks.3.attn.hook_pattern"]],
    ["a shorthand from the end", ["resid_post", -1], ["blocks.3.hook_resid_post"]],
    ["a shorthand of the cross-attention", ["cross_attn.q", 0], ["blocks.0.cross_attn.hook_q"]],
    ["a shorthand of the feed-forward part", ["post", 1], ["blocks.1.mlp.hook_post"]],
    ["a shorthand of a norm", ["ln2.scale", 1], ["blocks.1.ln2.hook_scale"]],
    ["a list of all of these", ["hook_embed", ["z", 0], ["hook_embed"]], ["hook_embed", "blocks.0.attn.hook_z"]],
    ["a predicate", (site) => site.startsWith("ln_final"), ["ln_final.hook_scale", "ln_final.hook_normalized"]],
  ])("%s", (_, selection, expected) => {
    expect(select(selection)).toEqual(expected);
  });

  it("takes every site for **, and the decoder's alone where the glob stays in its names", () => {
    expect(select("**")).toHaveLength(catalogue.length);
    expect(select("blocks.**").every((site) => site.startsWith("blocks."))).toBe(true);
  });

  it.each<[string, SiteSelection, RegExp]>([
    ["a misspelt name: the nearest", "blocks.2.hook_resid_pots", /nearest: blocks\.2\.hook_resid_post/],
    ["a name without its prefix", "blocks.2.attn.pattern", /nearest: blocks\.2\.attn\.hook_pattern/],
    ["a misspelt glob: the nearest", "blocks.*.hook_resid_pst", /nearest: blocks\.0\.hook_resid_post/],
    ["how to list all", "nonsense", /tonearm sites/],
    ["a layer beyond the last: the range", "blocks.4.hook_resid_post", /layers 0 … 3, or -1 … -4/],
    ["a layer before the first: the range", "blocks.-5.hook_resid_post", /layers 0 … 3, or -1 … -4/],
    ["a shorthand's layer: the range", ["pattern", 99], /layers 0 … 3/],
    ["a shorthand's fractional layer", ["pattern", 1.5], /layers 0 … 3/],
    ["a layer of the text encoder: its range", "text.blocks.2.hook_mlp_out", /layers 0 … 1, or -1 … -2/],
    ["a shorthand that no block has: the nearest", ["patern", 3], /nearest: pattern/],
    ["a misspelt name within a list", ["hook_embed", "hook_embedd"], /select "hook_embedd"/],
    ["an empty list", [], /names no site/],
    ["a predicate that accepts nothing", () => false, /accepts none of the/],
  ])("refuses with %s", (_, selection, message) => {
    expect(() => select(selection)).toThrow(message);
    expect(() => select(selection)).toThrow(expect.objectContaining({ code: "site" }));
  });

  it("says so where a model has no cross-attention", () => {
    const melody = siteCatalogue({ ...config, decoder: { ...config.decoder, crossAttention: false } });
    expect(() => selectSites("blocks.*.cross_attn.hook_z", melody)).toThrow("a model without cross-attention");
    expect(() => selectSites("blocks.0.hook_resid_mid_cross", melody)).toThrow("a model without cross-attention");
  });
});
