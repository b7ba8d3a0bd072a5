import { createRequire } from "node:module";
import { dirname, join, sep } from "node:path";

import * as tf from "@tensorflow/tfjs-core";

import { BackendError, UsageError } from "../errors.js";
import { makeWasmFailuresFatal } from "./wasm-failures.js";

/** The tensor runtimes, best first. `native` is ours; the TensorFlow ones are used where the user installed them. */
export const BACKENDS = ["tensorflow-gpu", "tensorflow", "native", "wasm", "cpu"] as const;

export type BackendName = (typeof BACKENDS)[number];

/** Whether a backend can be used here, and if not, why. */
export interface BackendStatus {
  readonly name: BackendName;
  readonly usable: boolean;
  readonly reason: string; // what it runs on, or why it can't
}

/** A backend that was found: `register` makes it known to TF.js under `registeredName`. */
interface Found {
  readonly registeredName: string;
  readonly description: string;
  readonly register: () => Promise<void>;
}

const require = createRequire(import.meta.url);

const FINDERS: Readonly<Record<BackendName, () => Promise<Found>>> = {
  "tensorflow-gpu": async () => tensorflow("@tensorflow/tfjs-node-gpu"),
  tensorflow: async () => tensorflow("@tensorflow/tfjs-node"),
  native: async () => {
    const { registerNativeBackend } = await import("./native/register.js");
    const { addon } = registerNativeBackend();
    return {
      registeredName: "native",
      description: `C++ kernels for ${addon.kernelSet()}, ${addon.threads()} threads`,
      register: async () => undefined,
    };
  },
  wasm: async () => ({
    registeredName: "wasm",
    description: "TF.js WebAssembly, one thread, 4 GiB heap",
    register: async () => {
      const wasm = await import("@tensorflow/tfjs-backend-wasm");
      wasm.setWasmPaths(join(dirname(require.resolve("@tensorflow/tfjs-backend-wasm")), sep));
      makeWasmFailuresFatal();
    },
  }),
  cpu: async () => ({
    registeredName: "cpu",
    description: "TF.js in plain JavaScript: exact but slow, for tiny models",
    register: async () => {
      await import("@tensorflow/tfjs-backend-cpu");
    },
  }),
};

async function tensorflow(packageName: string): Promise<Found> {
  require.resolve(packageName);
  return {
    registeredName: "tensorflow",
    description: `TensorFlow through ${packageName}`,
    register: async () => {
      await supplyRemovedUtilFunction();
      require(packageName);
    },
  };
}

/** tfjs-node 4.22.0 calls `util.isNullOrUndefined`, which Node 23 removed. */
async function supplyRemovedUtilFunction(): Promise<void> {
  const util = require("node:util") as Record<string, unknown>;
  util["isNullOrUndefined"] ??= (value: unknown) => value === null || value === undefined;
}

/**
 * Makes a backend the one that TF.js computes on.
 *
 * @param name the backend wanted; without it the first usable one of {@link BACKENDS}.
 * @returns the name of the backend in use.
 * @throws {UsageError} if there is no such backend; {@link BackendError} if the one asked for can't be used here.
 */
export async function useBackend(name?: string): Promise<BackendName> {
  if (name === undefined) {
    for (const candidate of BACKENDS) if (await tryBackend(candidate)) return candidate;
    throw new BackendError({
      asked: "choose a tensor backend",
      found: `none of ${BACKENDS.join(", ")} is usable`,
      todo: "Reinstall with `npm ci`: the cpu backend comes with the package",
    });
  }
  const wanted = BACKENDS.find((backend) => backend === name);
  if (wanted === undefined) {
    throw new UsageError({
      asked: `backend "${name}"`,
      found: "no backend of that name",
      todo: `Choose one of ${BACKENDS.join(", ")}`,
    });
  }
  try {
    await activate(wanted);
  } catch (cause) {
    throw new BackendError({
      asked: `backend "${wanted}"`,
      found: firstLine(cause),
      todo: "Run `tonearm doctor` to see which backends are usable and how to get the others",
      cause,
    });
  }
  return wanted;
}

async function tryBackend(name: BackendName): Promise<boolean> {
  try {
    await activate(name);
    return true;
  } catch {
    return false; // `backendStatus` tells why
  }
}

async function activate(name: BackendName): Promise<void> {
  const { registeredName, register } = await FINDERS[name]();
  tf.enableProdMode();
  await register();
  if (!(await tf.setBackend(registeredName))) throw new Error(`TF.js could not start "${registeredName}"`);
  await tf.ready();
}

/** Tries every backend in turn and leaves the one that was in use in place. */
export async function backendStatus(): Promise<readonly BackendStatus[]> {
  const before = tf.engine().backendName as string | undefined;
  const statuses: BackendStatus[] = [];
  for (const name of BACKENDS) {
    try {
      await activate(name);
      statuses.push({ name, usable: true, reason: (await FINDERS[name]()).description });
    } catch (cause) {
      statuses.push({ name, usable: false, reason: firstLine(cause) });
    }
  }
  if (before) await tf.setBackend(before);
  return statuses;
}

function firstLine(cause: unknown): string {
  const [line] = (cause instanceof Error ? cause.message : String(cause)).split("\n");
  return line ?? "unknown failure";
}
