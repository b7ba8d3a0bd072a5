import { writeFile } from "node:fs/promises";

import { Command } from "commander";

import { probeReport } from "../experiments/report.js";
import { readSummary, verdict } from "../probes/summary.js";
import { checkWritable } from "./clips.js";
import { jsonOption } from "./options.js";
import { printResult } from "./output.js";

/** `tonearm report`: probe results as one HTML page. */
export function reportCommand(): Command {
  return new Command("report")
    .description("plot probe results by layer and head: one HTML file that needs nothing else")
    .argument("<results.json...>", "what `tonearm probe --results` wrote")
    .requiredOption("-o, --output <file.html>", "where the page goes")
    .addOption(jsonOption())
    .action(run);
}

async function run(paths: readonly string[], { output, json }: { readonly output: string; readonly json?: boolean }) {
  await checkWritable([output]);
  const summaries = [];
  for (const path of paths) summaries.push(await readSummary(path));
  await writeFile(output, probeReport(summaries));
  printResult(json === true, { file: output, results: summaries.length }, [
    `wrote ${output}`,
    ...summaries.flatMap((summary) => [`${summary.label} (${summary.estimator}):`, ...verdict(summary)]),
  ]);
}
