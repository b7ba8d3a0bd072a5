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
  readonly shape: readonly string[]; // in the letters of the network's file, or numbers where they are fixed
}

/** Every site of a model in the order in which they are announced: text encoder, decoder, codec. */
export function siteCatalogue({ text, decoder, codec }: MusicGenConfig): readonly Site[] {
  return [
    ...textSites(text).map(({ site, shape }) => entry(site, "text", shape)),
    ...decoderSites(decoder).map(({ site, shape }) => entry(site, "decoder", shape)),
    ...codecSites(codec).map(({ site, hop, width }) =>
      entry(site, "codec", ["1", hop === 1 ? "N" : `N/${hop}`, `${width}`]),
    ),
  ];
}

function entry(site: string, network: Site["network"], shape: readonly string[]): Site {
  return { site, network, layer: layerOf(site), shape };
}
