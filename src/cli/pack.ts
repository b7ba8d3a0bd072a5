import { Command, Option } from "commander";

import { packCheckpoint } from "../checkpoint/pack.js";
import type { PackedStorage } from "../checkpoint/pack-format.js";
import { WEIGHT_STORAGES } from "../runtime/linear.js";
import { listenForInterrupt } from "./interrupt.js";
import { jsonOption } from "./options.js";
import { bytes, printResult, ProgressLine } from "./output.js";

interface Options {
  readonly output: string;
  readonly weights: PackedStorage;
  readonly json?: boolean;
}

/** `tonearm pack`: a checkpoint laid out for the native backend. */
export function packCommand(): Command {
  const storages = WEIGHT_STORAGES.filter((storage) => storage !== "exact");
  return new Command("pack")
    .description("lay a checkpoint out for the native backend, so that it loads without converting anything")
    .argument("<model>", "checkpoint directory in the Hugging Face layout")
    .requiredOption("-o, --output <dir>", "a new directory for the packed checkpoint")
    .addOption(
      new Option("--weights <storage>", "how the decoder's matrices are stored; int8 and int4 are not exact")
        .choices(storages)
        .makeOptionMandatory(),
    )
    .addOption(jsonOption())
    .action(run);
}

async function run(model: string, { output, weights, json }: Options): Promise<void> {
  const progress = new ProgressLine(json !== true);
  const interrupt = listenForInterrupt();
  try {
    const onProgress = (done: number, total: number): void => progress.update("packing", done, total);
    const summary = await packCheckpoint(model, output, { weights, onProgress, signal: interrupt.signal });
    progress.finish();
    printResult(json === true, { ...summary, weights }, [
      `wrote ${summary.file}: ${bytes(summary.bytes)} for ${bytes(summary.originalBytes)}`,
      `${summary.matrices} matrices, the decoder's as ${weights}, ${summary.exact ? "every value exact" : "rounded"}`,
    ]);
  } finally {
    interrupt.release();
    progress.finish();
  }
}
