/**
 * Every error tonearm throws on purpose. Each says what was asked, what was found and what to do, and carries a
 * machine-readable `code`, so that a caller never has to parse a sentence.
 */

/** What went wrong, by the part of tonearm that noticed. */
export type ErrorCode =
  | "usage" // an argument or option that cannot be honoured
  | "checkpoint" // a weight file or config that is missing, damaged or of another model
  | "pickle" // a pickled file that asks for more than tensors, or is no valid pickle
  | "hub" // a model that could not be fetched from the hub or found in its cache
  | "audio" // a sound file or waveform that cannot be used
  | "backend" // a tensor runtime that is absent or gave wrong numbers
  | "memory" // a request that does not fit, refused before it was allocated
  | "site" // an activation name that does not exist or a hook that misbehaved
  | "cancelled"; // the caller's abort signal fired

/** The three sentences of an error. Each is a fragment without a final full stop. */
export interface ErrorParts {
  readonly asked: string;
  readonly found: string;
  readonly todo: string;
  readonly cause?: unknown;
}

/** An error with a `code` and the three parts its message is made of. */
export class TonearmError extends Error {
  readonly code: ErrorCode;
  readonly asked: string;
  readonly found: string;
  readonly todo: string;

  constructor(code: ErrorCode, { asked, found, todo, cause }: ErrorParts) {
    super(`${asked}: ${found}. ${todo}.`, cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    this.code = code;
    this.asked = asked;
    this.found = found;
    this.todo = todo;
  }
}

/** The caller asked for something impossible; the command line exits with 2. */
export class UsageError extends TonearmError {
  constructor(parts: ErrorParts) {
    super("usage", parts);
  }
}

/** A checkpoint file or its config cannot be used. */
export class CheckpointError extends TonearmError {
  constructor(parts: ErrorParts) {
    super("checkpoint", parts);
  }
}

/** A pickled file holds something else than tensors, dicts, lists and numbers, or breaks the format. Nothing of it ran. */
export class PickleError extends TonearmError {
  constructor(parts: ErrorParts) {
    super("pickle", parts);
  }
}

/** Why a fetch failed. */
export type HubFailure =
  | "unauthorized" // 401: no token, or one the hub does not know
  | "gated" // 403: the token's owner has no access
  | "not-found" // 404: no such repository, revision or file
  | "rate-limit" // 429, still after waiting
  | "server" // 5xx or another status that makes no sense here, still after trying again
  | "network" // no connection, or one that keeps breaking off
  | "garbage" // an answer that is not what the hub's protocol says
  | "checksum" // bytes that are not the published ones
  | "disk" // no space, or no permission to write
  | "offline" // HF_HUB_OFFLINE is set
  | "not-cached"; // asked for by name, but not in the cache, or only in part

/** A model could not be fetched from the hub, or is not in its cache. `reason` says why, for programs. */
export class HubError extends TonearmError {
  readonly reason: HubFailure;

  constructor(parts: ErrorParts, reason: HubFailure = "server") {
    super("hub", parts);
    this.reason = reason;
  }
}

/** A sound file or waveform cannot be used. */
export class AudioError extends TonearmError {
  constructor(parts: ErrorParts) {
    super("audio", parts);
  }
}

/** A tensor backend is absent, or its numbers cannot be trusted. */
export class BackendError extends TonearmError {
  constructor(parts: ErrorParts) {
    super("backend", parts);
  }
}

/** A request needs more memory than there is; thrown before anything is allocated. */
export class MemoryError extends TonearmError {
  constructor(parts: ErrorParts) {
    super("memory", parts);
  }
}

/** A site name, a hook or a replaced activation is wrong. */
export class SiteError extends TonearmError {
  constructor(parts: ErrorParts) {
    super("site", parts);
  }
}

/** The caller's abort signal fired. */
export class CancelledError extends TonearmError {
  constructor(parts: ErrorParts) {
    super("cancelled", parts);
  }
}
