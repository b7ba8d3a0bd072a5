import { BackendError } from "../errors.js";

let installed = false;

/**
 * Makes a failed XNNPACK call an error.
 *
 * When the wasm heap is full, TF.js only prints "XNN status … Got status 6" through `console.warn` and returns a tensor
 * whose memory was never written. That line is printed from inside the failing op, so throwing from there ends the op.
 */
export function makeWasmFailuresFatal(): void {
  if (installed) return;
  installed = true;
  const warn = console.warn.bind(console);
  console.warn = (...parts: unknown[]): void => {
    const text = String(parts[0]);
    if (!text.includes("XNN status")) return warn(...parts);
    throw new BackendError({
      asked: "run an op on the wasm backend",
      found: `XNNPACK failed (${text.trim()}), which leaves the result unwritten`,
      todo: "The 4 GiB heap is full: use a smaller model, fewer clips at once or another backend",
    });
  };
}
