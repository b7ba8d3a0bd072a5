import { beforeAll, describe } from "vitest";

import { backendStatus, useBackend, type BackendName } from "../../src/runtime/backend.js";

const statuses = await backendStatus();

/**
 * Runs a suite on every backend of this machine. One that is missing shows up as a skipped suite that says why.
 * `TONEARM_TEST_BACKENDS=cpu,wasm` narrows the choice.
 */
export function describeOnEachBackend(claim: string, suite: (backend: BackendName) => void): void {
  const chosen = process.env["TONEARM_TEST_BACKENDS"]?.split(",");
  for (const { name, usable, reason } of statuses) {
    if (chosen && !chosen.includes(name)) continue;
    if (!usable) {
      describe.skip(`${claim} [${name}: skipped, ${reason}]`, () => {
        suite(name);
      });
      continue;
    }
    describe(`${claim} [${name}]`, () => {
      beforeAll(async () => {
        await useBackend(name);
      });
      suite(name);
    });
  }
}
