import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { backendStatus } from "../src/runtime/backend.js";

/** Says once, before the tests, which of them this machine can't run and why. Vitest itself shows only their number. */
export default async function announceSkips(): Promise<void> {
  for (const { name, usable, reason } of await backendStatus()) {
    if (!usable) console.log(`skipped: every test on backend ${name}: ${reason}`);
  }
  if (!existsSync(fileURLToPath(new URL("../../shared/assets/t5/tokenizer.json", import.meta.url)))) {
    console.log("skipped: tokenizer tests with T5's own vocabulary: it is not part of this repository");
  }
  if (process.env["TONEARM_LONG"] !== "1") {
    console.log("skipped: ten thousand steps of generation without a leak: TONEARM_LONG=1 runs it");
  }
  if (process.env["TONEARM_REAL_SHAPES"] === undefined) {
    console.log("skipped: parity at musicgen-small's real shapes: TONEARM_REAL_SHAPES names no checkpoint");
  }
}
