import { writeFile } from "node:fs/promises";

import { Command, Option } from "commander";

import { openCapture } from "../activations/store.js";
import { UsageError } from "../errors.js";
import { fromCapture } from "../probes/capture.js";
import { compareEstimators, type Comparison } from "../probes/compare.js";
import { interval, nameOf, summarize, verdict } from "../probes/summary.js";
import { ESTIMATORS, sweepProbes, type EstimatorName, type ProbeOptions } from "../probes/sweep.js";
import { writeVectors } from "../probes/vectors.js";
import { useBackend } from "../runtime/backend.js";
import { checkWritable } from "./clips.js";
import { backendOption, jsonOption, parseNumber } from "./options.js";
import { printResult, ProgressLine } from "./output.js";

interface Options {
  readonly label: string;
  readonly estimator: EstimatorName;
  readonly kind?: "classes" | "value";
  readonly group?: string;
  readonly sites?: readonly string[];
  readonly rows?: "cond" | "null";
  readonly folds: number;
  readonly seed: number;
  readonly normalize?: boolean;
  readonly penalty?: readonly string[];
  readonly draws: number;
  readonly control: boolean;
  readonly compare?: EstimatorName;
  readonly results?: string;
  readonly output?: string;
  readonly backend?: string;
  readonly json?: boolean;
}

/** `tonearm probe`: which layers and heads know a label, and along which direction. */
export function probeCommand(): Command {
  return new Command("probe")
    .description("fit probes on a capture: which layers and heads know a label, and along which direction")
    .argument("<capture...>", "folder of `tonearm capture`, or the folders of all its shards")
    .requiredOption("--label <column>", "what to probe for: a label column of the capture")
    .addOption(new Option("--estimator <name>", "how").choices(ESTIMATORS).default("ridge"))
    .addOption(
      new Option("--kind <kind>", "what the label is (default: numbers are values, all else classes)").choices([
        "classes",
        "value",
      ]),
    )
    .option("--group <column>", "rows that belong together, such as windows of one track (default: the clip)")
    .option("--sites <glob...>", "sites of the capture, such as 'blocks.*.hook_resid_post' (default: all)")
    .addOption(new Option("--rows <role>", "rows with the text or without").choices(["cond", "null"]))
    .option("--folds <n>", "grouped folds that scores are held out over", parseNumber("--folds"), 5)
    .option("--seed <n>", "of folds, shuffling and resampling", parseNumber("--seed"), 0)
    .option("--normalize", "divide each activation by its length (default: for adam, as published)")
    .option("--penalty <number...>", "penalties to choose from, for ridge and logistic")
    .option("--draws <n>", "settings that rfm draws at random and chooses from; 0: its own", parseNumber("--draws"), 0)
    .option("--no-control", "leave out the probe of shuffled labels, which takes half the time")
    .addOption(
      new Option("--compare <estimator>", "a second estimator on the same folds, unit by unit").choices(ESTIMATORS),
    )
    .option("--results <file.json>", "where the scores go, for `tonearm report`")
    .option("-o, --output <file.safetensors>", "where the directions go")
    .addOption(backendOption())
    .addOption(jsonOption())
    .action(run);
}

async function run(directories: readonly string[], options: Options): Promise<void> {
  const { label, kind, group, sites, rows, folds, seed, normalize, control, compare, results, output, json } = options;
  await checkWritable([output, results].filter((path) => path !== undefined));
  await useBackend(options.backend);
  const data = fromCapture(await openCapture(directories), { sites, role: rows });
  const progress = new ProgressLine(json !== true);
  const penalties = options.penalty?.map(readPenalty);
  const sweepOptions: Omit<ProbeOptions, "estimator"> = {
    ...{ label, kind, group, folds, seed, normalize, control },
    options: { rfm: { draws: options.draws }, ...(penalties && { ridge: { penalties }, logistic: { penalties } }) },
    onProgress: (done, total) => {
      progress.update("probing sites", done, total);
    },
  };
  const comparison =
    compare === undefined
      ? undefined
      : await compareEstimators(data, [options.estimator, compare], sweepOptions).finally(() => progress.finish());
  const sweep =
    comparison?.sweeps[0] ??
    (await sweepProbes(data, { ...sweepOptions, estimator: options.estimator }).finally(() => progress.finish()));
  const summary = summarize(sweep);
  if (output !== undefined) await writeVectors(output, sweep.vectors);
  if (results !== undefined) await writeFile(results, `${JSON.stringify(summary)}\n`);
  printResult(json === true, { ...summary, comparison: comparison && comparisonJson(comparison) }, [
    ...(output === undefined ? [] : [`wrote ${output}`]),
    ...(results === undefined ? [] : [`wrote ${results}`]),
    ...verdict(summary),
    ...(comparison ? comparisonLines(comparison) : []),
  ]);
}

function readPenalty(text: string): number {
  const value = parseNumber("--penalty")(text);
  if (value > 0) return value;
  throw new UsageError({ asked: `--penalty ${text}`, found: "no penalty above 0", todo: "Give positive numbers" });
}

const LISTED = 12;

/** The units where the two together score best, and who wins how often. */
function comparisonLines({ estimators: [one, other], units, wins }: Comparison): readonly string[] {
  const best = units.toSorted((a, b) => b.first.value + b.second.value - a.first.value - a.second.value);
  return [
    `${one} against ${other}, held out, on the same folds:`,
    ...best.slice(0, LISTED).map(({ site, head, first, second, difference, cosines }) => {
      const name = nameOf({ site, head: head ?? null });
      const mean = cosines.reduce((sum, value) => sum + value, 0) / cosines.length;
      return `  ${name}: ${interval(first)} and ${interval(second)}, difference ${interval(difference)}, cosine ${mean.toFixed(2)}`;
    }),
    ...(units.length > LISTED ? [`  and ${units.length - LISTED} more units (--json lists all)`] : []),
    `${one} is better at ${wins[0]} of ${units.length} units, ${other} at ${wins[1]}, the rest can't be told apart.`,
  ];
}

function comparisonJson({ estimators, units, wins }: Comparison): object {
  return { estimators, wins, units };
}
