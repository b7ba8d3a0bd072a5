import { Command } from "commander";

import { MusicGen } from "../musicgen.js";
import { verifyCheckpoint, type Verification, type VerifiedCase } from "../verify.js";
import { backendOption, jsonOption, modelDirectory } from "./options.js";
import { printResult, ProgressLine } from "./output.js";

interface Options {
  readonly backend?: string;
  readonly json?: boolean;
}

/** `tonearm verify`: whether an official checkpoint gives the values that were published for it. */
export function verifyCommand(): Command {
  return new Command("verify")
    .description("check an official checkpoint against the values published for it")
    .argument("[model]", "checkpoint directory, or owner/name of a fetched model (default: the embedded one)")
    .addOption(backendOption())
    .addOption(jsonOption())
    .action(run);
}

async function run(given: string | undefined, { backend, json }: Options): Promise<void> {
  const model = await MusicGen.load(modelDirectory(given), { backend });
  const progress = new ProgressLine(json !== true);
  try {
    const verification = await verifyCheckpoint(model, undefined, (done, total) =>
      progress.update("verifying", done, total),
    );
    progress.finish();
    const result = { ...verification, backend: model.backend, fingerprint: model.fingerprint };
    printResult(json === true, result, describe(verification));
    if (!verification.passed) process.exitCode = 1;
  } finally {
    progress.finish();
    await model.dispose();
  }
}

function describe({ model, passed, cases, notRun }: Verification): string[] {
  const width = Math.max(...[...cases.map(({ name }) => name), ...Object.keys(notRun)].map((name) => name.length));
  const line = ({ name, passed: right, largestDifference, expected, found }: VerifiedCase): string =>
    right
      ? `${name.padEnd(width)}  right (largest difference ${largestDifference.toExponential(1)})`
      : `${name.padEnd(width)}  WRONG (${found.toPrecision(5)} where ${expected} was published)`;
  return [
    ...cases.map(line),
    ...Object.entries(notRun).map(([name, reason]) => `${name.padEnd(width)}  not run: ${reason}`),
    passed
      ? `this is ${model}: it gives the values published for it`
      : `this does not give the values published for ${model}: other weights of its shape (a fine-tuned model?), or damage`,
  ];
}
