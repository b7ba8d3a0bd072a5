import { Command } from "commander";

import { siteCatalogue, type Site } from "../activations/catalogue.js";
import { selectSites } from "../activations/select.js";
import { readMusicGenConfig } from "../model/checkpoint.js";
import { jsonOption, modelDirectory, modelOption } from "./options.js";
import { printResult } from "./output.js";

/** `tonearm sites`: every activation that can be read or changed, with its shape. Reads no weights. */
export function sitesCommand(): Command {
  return new Command("sites")
    .description("list every activation that can be read or changed, with its shape")
    .addOption(modelOption())
    .option("--filter <glob>", 'only these: "blocks.-1.**", "blocks.*.attn.hook_z", "text.**"', "**")
    .addOption(jsonOption())
    .action(run);
}

interface Options {
  readonly model?: string;
  readonly filter: string;
  readonly json?: boolean;
}

const LETTERS =
  "B items, R rows (items × guidance roles), Rc rows that read a text, T positions, T' positions so far, " +
  "S text tokens, N samples; in the text encoder B texts";

async function run({ model, filter, json }: Options): Promise<void> {
  const catalogue = siteCatalogue(await readMusicGenConfig(modelDirectory(model)));
  const chosen = selectSites(filter, catalogue);
  const sites = catalogue.filter(({ site }) => chosen.has(site));
  const width = Math.max(...sites.map(({ site }) => site.length));
  printResult(json === true, { sites }, [
    ...sites.map((site) => `${site.site.padEnd(width)}  ${shapeOf(site)}`),
    `${sites.length} of ${catalogue.length} sites. ${LETTERS}.`,
  ]);
}

/** "[R, T, D]  [R, T, 1024]", or once where letters and numbers are the same. */
function shapeOf({ shape, sizes }: Site): string {
  const [letters, numbers] = [shape, sizes].map((axes) => `[${axes.join(", ")}]`);
  return letters === numbers ? `${letters}` : `${letters}  ${numbers}`;
}
