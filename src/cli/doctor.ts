import { Command } from "commander";

import { backendStatus, type BackendStatus } from "../runtime/backend.js";
import { selfTest, type SelfTestResult } from "../self-test.js";
import { jsonOption } from "./options.js";
import { printResult } from "./output.js";

/** `tonearm doctor`: which backends are usable, why the others aren't, and whether their numbers are right. */
export function doctorCommand(): Command {
  return new Command("doctor")
    .description("test every tensor backend of this machine")
    .addOption(jsonOption())
    .action(run);
}

async function run({ json }: { readonly json?: boolean }): Promise<void> {
  const rows: (BackendStatus & { readonly test?: SelfTestResult })[] = [];
  for (const status of await backendStatus()) {
    rows.push(status.usable ? { ...status, test: await selfTest(status.name) } : status);
  }
  const wrong = rows.filter(({ test }) => test?.passed === false);
  printResult(
    json === true,
    { node: process.version, platform: `${process.platform} ${process.arch}`, backends: rows },
    [
      `Node ${process.version} on ${process.platform} ${process.arch}`,
      ...rows.map(describe),
      wrong.length === 0 ? "all usable backends give the reference's numbers" : "some backends give wrong numbers",
    ],
  );
  if (wrong.length > 0) process.exitCode = 1;
}

function describe({ name, usable, reason, test }: BackendStatus & { readonly test?: SelfTestResult }): string {
  const label = name.padEnd(14);
  if (!usable || !test) return `${label} not usable: ${reason}`;
  const verdict = test.passed ? "right" : "WRONG";
  const details = test.failure ?? `largest difference ${test.difference.toExponential(1)}, ${test.milliseconds} ms`;
  return `${label} ${verdict} (${details}): ${reason}`;
}
