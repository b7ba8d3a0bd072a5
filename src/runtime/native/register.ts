import * as tf from "@tensorflow/tfjs-core";

import { useFastChecksum } from "../checksum.js";
import { useCompiledCholesky } from "../cholesky.js";
import { loadAddon } from "./addon.js";
import { NativeBackend } from "./backend.js";
import { registerNativeKernel } from "./kernel.js";
import { ATTENTION_KERNELS } from "./kernels/attention.js";
import { ELEMENTWISE_KERNELS } from "./kernels/elementwise.js";
import { LAYOUT_KERNELS } from "./kernels/layout.js";
import { PRODUCT_KERNELS } from "./kernels/products.js";
import { REDUCTION_KERNELS } from "./kernels/reductions.js";
import { STEERING_KERNELS } from "./kernels/steering.js";

const KERNELS = [
  ...ELEMENTWISE_KERNELS,
  ...REDUCTION_KERNELS,
  ...LAYOUT_KERNELS,
  ...PRODUCT_KERNELS,
  ...ATTENTION_KERNELS,
  ...STEERING_KERNELS,
];

let instance: NativeBackend | undefined;

/**
 * Makes the backend `native` known to TF.js, with every kernel of the cpu backend and ours in place of the hot ones.
 * Registering twice does nothing.
 *
 * @returns the backend.
 * @throws {Error} that says why the compiled kernels can't be used here.
 */
export function registerNativeBackend(): NativeBackend {
  if (instance) return instance;
  const backend = new NativeBackend(loadAddon());
  const ours = new Set(KERNELS.map(({ name }) => name));
  for (const general of tf.getKernelsForBackend("cpu")) {
    if (!ours.has(general.kernelName)) tf.registerKernel({ ...general, backendName: "native" });
  }
  for (const kernel of KERNELS) registerNativeKernel(backend, kernel);
  tf.registerBackend("native", () => backend, 0);
  useFastChecksum((bytes) => backend.addon.checksum(bytes));
  useCompiledCholesky({
    usable: () => tf.getBackend() === "native",
    factorise: (matrix, n) => backend.addon.factorise(matrix, n),
    solve: (factor, n, sides) => {
      backend.addon.solve(factor, n, sides);
    },
  });
  instance = backend;
  return backend;
}

/** The native backend if it is the one in use. */
export function activeNativeBackend(): NativeBackend | undefined {
  return instance && tf.getBackend() === "native" ? instance : undefined;
}
