import * as tf from "@tensorflow/tfjs-core";

import { STEER } from "../addon.js";
import type { KernelCall, NativeKernel } from "../kernel.js";

/**
 * One step of steering. Inputs: h [R, T, D] or [R, T, H, Dh], strengths [R·T, n], steps [n, U, W], weights [n, U], for
 * "clamp" also along [U, W] and goals [U]; attributes: operator and restoreNorm. Returns a tensor of h's shape.
 */
function steer(call: KernelCall): tf.TensorInfo {
  const { backend } = call;
  const h = call.input("h");
  const steps = call.input("steps");
  const [directions = 0, units = 0, width = 0] = steps.shape;
  const y = backend.floatOutput(h.shape);
  backend.addon.steer(
    operatorCode(call.text("operator")),
    call.flag("restoreNorm"),
    backend.floats(h),
    backend.floats(call.input("strengths")),
    backend.floats(steps),
    backend.floats(call.input("weights")),
    call.optionalFloats("along"),
    call.optionalFloats("goals"),
    y.values,
    Int32Array.of(y.values.length / (units * width), directions, units, width),
  );
  return y.info;
}

function operatorCode(name: string | undefined): number {
  if (name === "convex" || name === "add" || name === "clamp" || name === "replace") return STEER[name];
  throw new TypeError(`there is no steering operator ${name}`);
}

export const STEERING_KERNELS: readonly NativeKernel[] = [{ name: "TonearmSteer", run: steer }];
