import { codecSites } from "../encodec/sites.js";
import type { MusicGenConfig } from "../model/checkpoint.js";
import { decoderSites } from "../model/sites.js";
import { textSites } from "../text/t5.js";
import { layerOf } from "./activation.js";

/** A site of a model. */
export interface Site {
  readonly site: string;
  readonly network: "text" | "decoder" | "codec";
  readonly layer: number | undefined; // block, from 0
  /**
   * Its axes in the letters of the network. Decoder: B batch items, R rows, Rc rows that read a text, T positions of the
   * pass, T' positions so far, S text tokens, D width, H heads, Dh head width, 4D feed-forward width, K codebooks,
   * V codebook entries. Text encoder: B texts, S tokens, D, H, Dh, Dff feed-forward width. Codec: N samples.
   */
  readonly shape: readonly string[];
  /** The same with numbers where the model fixes them: `["R", "T", "1024"]`. */
  readonly sizes: readonly string[];
}

/**
 * Every site of a model in the order in which it is announced: text encoder, decoder, codec.
 *
 * A pass announces the sites of the networks that it runs, those of the cross-attention only where some row reads a text,
 * and `hook_guided_logits` only while generating.
 */
export function siteCatalogue(config: MusicGenConfig): readonly Site[] {
  const text = fixedLetters(config, "text");
  const decoder = fixedLetters(config, "decoder");
  return [
    ...textSites(config.text).map(({ site, shape }) => entry(site, "text", shape, text)),
    ...decoderSites(config.decoder).map(({ site, shape }) => entry(site, "decoder", shape, decoder)),
    ...codecSites(config.codec).map(({ site, hop, width }) =>
      entry(site, "codec", ["1", hop === 1 ? "N" : `N/${hop}`, `${width}`], {}),
    ),
  ];
}

/** What a letter of a shape stands for, where the model alone says so. */
export function fixedLetters(config: MusicGenConfig, network: Site["network"]): Readonly<Record<string, number>> {
  if (network === "codec") return {};
  const { width, heads, headWidth, ffnWidth } = config[network];
  const shared = { D: width, H: heads, Dh: headWidth };
  if (network === "text") return { ...shared, Dff: ffnWidth };
  return { ...shared, "4D": ffnWidth, K: config.decoder.codebooks, V: config.decoder.codebookSize };
}

function entry(
  site: string,
  network: Site["network"],
  shape: readonly string[],
  fixed: Readonly<Record<string, number>>,
): Site {
  const sizes = shape.map((letter) => `${fixed[letter] ?? letter}`);
  return { site, network, layer: layerOf(site), shape, sizes };
}
