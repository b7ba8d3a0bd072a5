/** A signal that Ctrl-C aborts. */
export interface Interrupt {
  readonly signal: AbortSignal;
  readonly release: () => void; // Ctrl-C is the system's again
}

/** Takes the next Ctrl-C as a wish to end early; a second one ends the process at once. Release it when the work is done. */
export function listenForInterrupt(): Interrupt {
  const controller = new AbortController();
  const stop = (): void => controller.abort();
  process.once("SIGINT", stop);
  return { signal: controller.signal, release: () => process.removeListener("SIGINT", stop) };
}
