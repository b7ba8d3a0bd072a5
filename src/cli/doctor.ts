import { Command } from "commander";

import { backendStatus, type BackendStatus } from "../runtime/backend.js";
import { selfTest, type SelfTestResult } from "../self-test.js";
import { jsonOption } from "./options.js";
import { printResult } from "./output.js";

/** Which of the native backend's kernels run, and which others could. */
interface NativeStatus {
  readonly kernels: string;
  readonly available: readonly string[]; // that this processor can run, fastest first
  readonly threads: number;
  readonly usableThreads: number;
}

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
  const native = rows.some(({ name, usable }) => name === "native" && usable) ? await nativeStatus() : null;
  const wrong = rows.filter(({ test }) => test?.passed === false);
  printResult(
    json === true,
    { node: process.version, platform: `${process.platform} ${process.arch}`, backends: rows, native },
    [
      `Node ${process.version} on ${process.platform} ${process.arch}`,
      ...rows.map(describe),
      ...(native
        ? nativeAdvice(native)
        : ["native would be faster: its line says why it is missing, and `npm run build:native` builds it"]),
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

async function nativeStatus(): Promise<NativeStatus> {
  const { registerNativeBackend } = await import("../runtime/native/register.js");
  const { addon } = registerNativeBackend();
  return {
    kernels: addon.kernelSet(),
    available: addon.kernelSets(),
    threads: addon.threads(),
    usableThreads: addon.usableThreads(),
  };
}

function nativeAdvice({ kernels, available, threads, usableThreads }: NativeStatus): string[] {
  const [fastest = kernels] = available;
  const lines = [`native kernels: ${kernels} on ${threads} of ${usableThreads} threads`];
  if (kernels === fastest) lines.push(`  the fastest that this processor runs (of ${available.join(", ")})`);
  else lines.push(`  ${fastest} is faster and runs here: unset TONEARM_CPU`);
  if (threads < usableThreads) lines.push(`  unset TONEARM_THREADS to use all ${usableThreads} threads`);
  return lines;
}
