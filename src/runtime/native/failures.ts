import { CheckpointError, MemoryError, type TonearmError } from "../../errors.js";
import { FAILURES } from "./addon.js";

const TODO: Readonly<Record<(typeof FAILURES)[number], string>> = {
  FILE_SHRANK: "Load the model again, and let nothing change its files while it is loaded",
  FILE_UNREADABLE: "Check that the file is still open and readable",
  NOT_FINITE: "The weights are damaged: fetch them again",
  CHECKSUM: "The file is damaged: fetch it again, or pack the original again",
  NO_MEMORY: "Use a smaller storage (--weights int8 or int4), a smaller model, or free memory",
};

/**
 * What the compiled kernels threw, as an error of ours if it is about the weights themselves: unreadable, damaged, changed
 * while in use, or too large.
 *
 * @param asked what was being done
 */
export function weightFailure(cause: unknown, asked: string): unknown {
  const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
  const known = FAILURES.find((failure) => failure === code);
  if (known === undefined || !(cause instanceof Error)) return cause;
  const parts = { asked, found: cause.message.replace(/^native \w+: /, ""), todo: TODO[known], cause };
  const error: TonearmError = known === "NO_MEMORY" ? new MemoryError(parts) : new CheckpointError(parts);
  return error;
}
