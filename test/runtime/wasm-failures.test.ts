import { afterEach, describe, expect, it, vi } from "vitest";

import { BackendError } from "../../src/errors.js";

describe("a failed XNNPACK call on the wasm backend", () => {
  const warn = console.warn;
  afterEach(() => {
    console.warn = warn;
    vi.resetModules();
  });

  it("is an error, and other warnings stay warnings", async () => {
    const printed: unknown[] = [];
    console.warn = (...parts: unknown[]) => printed.push(...parts);
    const { makeWasmFailuresFatal } = await import("../../src/runtime/wasm-failures.js");
    makeWasmFailuresFatal();
    makeWasmFailuresFatal(); // once is enough

    // The text that the wasm binary of TF.js 4.22.0 prints when its heap is full.
    const text =
      "XNN status for xnn_create_fully_connected_nc_f32 is not successful. Got status 6. Use -c dbg to see logs.";
    expect(() => console.warn(text)).toThrow(BackendError);
    console.warn("something else", 7);
    expect(printed).toEqual(["something else", 7]);
  });
});
