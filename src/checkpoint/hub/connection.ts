import { setTimeout as sleep } from "node:timers/promises";

import { HubError, type HubFailure } from "../../errors.js";
import { describe } from "../safetensors-header.js";
import { VERSION } from "../../version.js";
import type { HubSettings } from "./settings.js";

/** How long to wait for an answer and how often to ask again. */
export interface Patience {
  readonly attempts: number; // in a row without progress
  readonly firstDelayMs: number; // before the second attempt; it doubles with each
  readonly longestDelayMs: number;
  readonly stallMs: number; // without an answer, or without a byte of one
}

/** What is usual for downloads of gigabytes. */
export const DEFAULT_PATIENCE: Patience = {
  attempts: 6,
  firstDelayMs: 1000,
  longestDelayMs: 60_000,
  stallMs: 30_000,
};

/** Everything a request needs to know. */
export interface Connection {
  readonly settings: HubSettings;
  readonly patience: Patience;
  readonly signal: AbortSignal;
  readonly onRetry?: ((failure: HubError, waitMs: number) => void) | undefined;
}

/** A failure that may pass: the request is worth another attempt. */
export class Passing extends Error {
  readonly failure: HubError;
  readonly waitMs: number | undefined; // what the server asked for

  constructor(failure: HubError, waitMs?: number) {
    super(failure.message);
    this.failure = failure;
    this.waitMs = waitMs;
  }
}

/**
 * Tries until it works, the patience ends, or it fails for good.
 *
 * @param progress a number that grows with what was achieved: whoever gets on may go on trying
 * @throws {HubError} of the last attempt.
 */
export async function persistently<Result>(
  { patience, signal, onRetry }: Connection,
  attempt: () => Promise<Result>,
  progress: () => number = () => 0,
): Promise<Result> {
  let failures = 0;
  let reached = progress();
  for (;;) {
    signal.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Passing)) throw error;
      const now = progress();
      failures = now > reached + 2 ** 20 ? 1 : failures + 1;
      reached = Math.max(reached, now);
      if (failures >= patience.attempts) throw error.failure;
      const doubled = patience.firstDelayMs * 2 ** (failures - 1) * (0.75 + Math.random() / 2);
      const waitMs = Math.min(patience.longestDelayMs, Math.max(doubled, error.waitMs ?? 0));
      onRetry?.(error.failure, waitMs);
      await sleep(waitMs, undefined, { signal });
    }
  }
}

/** An answer, and a way to tell that its body is still coming. */
export interface Answer {
  readonly response: Response;
  readonly alive: () => void; // call with each piece of the body
  readonly close: () => void; // call when done with it
}

/** One request. */
export interface RequestOptions {
  readonly method?: "GET" | "HEAD";
  readonly headers?: Readonly<Record<string, string>>;
  readonly alsoTake?: number; // a status that is no failure to the caller
}

const MAX_REDIRECTS = 10;

/**
 * Sends one request and follows redirects. The token goes to the hub's own host and to no other.
 *
 * @throws {Passing} if there is no answer, or one that may be better later; {@link HubError} for one that won't.
 */
export async function send(
  connection: Connection,
  asked: string,
  url: string,
  { method = "GET", headers = {}, alsoTake }: RequestOptions = {},
): Promise<Answer> {
  const { settings, patience, signal } = connection;
  const stalled = new AbortController();
  const timer = setTimeout(() => stalled.abort(), patience.stallMs);
  const close = (): void => clearTimeout(timer);
  const home = new URL(settings.endpoint).origin;
  let at = new URL(url);
  const seen: Record<string, string> = {}; // headers of redirects, which the last answer lacks
  try {
    for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
      const authorization = settings.token !== undefined && at.origin === home ? `Bearer ${settings.token}` : undefined;
      const response = await fetch(at, {
        method,
        redirect: "manual",
        signal: AbortSignal.any([signal, stalled.signal]),
        headers: {
          ...headers,
          "accept-encoding": "identity",
          "user-agent": `tonearm/${VERSION}`,
          ...(authorization === undefined ? {} : { authorization }),
        },
      });
      const location = response.headers.get("location");
      if (response.status < 300 || response.status > 399 || location === null) {
        if (!response.ok && response.status !== alsoTake) {
          await response.body?.cancel();
          throw failureOf(response, asked, settings);
        }
        return { response: withHeaders(response, seen), alive: () => void timer.refresh(), close };
      }
      for (const name of ["x-linked-etag", "x-linked-size", "x-repo-commit"]) {
        const value = response.headers.get(name);
        if (value !== null) seen[name] = value;
      }
      await response.body?.cancel();
      const next = new URL(location, at);
      if (next.protocol !== "https:" && next.protocol !== at.protocol) {
        throw hubFailure("garbage", asked, `a redirect from ${at.protocol} to ${next.protocol}`, TRY_LATER);
      }
      at = next;
    }
    throw hubFailure("garbage", asked, `more than ${MAX_REDIRECTS} redirects`, TRY_LATER);
  } catch (error) {
    close();
    const isNetwork = error instanceof TypeError || error instanceof DOMException; // what fetch throws
    if (!isNetwork || signal.aborted) throw error;
    throw new Passing(
      hubFailure("network", asked, networkFound(error, at.host, stalled.signal.aborted, patience), NETWORK),
    );
  }
}

function withHeaders(response: Response, seen: Readonly<Record<string, string>>): Response {
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(seen)) if (!headers.has(name)) headers.set(name, value);
  return new Response(response.body, { status: response.status, headers });
}

const TRY_LATER = "Try again later, or set HF_ENDPOINT to a mirror";
const NETWORK = "Check the connection and run it again: it goes on where it broke off";

/** What a broken connection says; Node hides it in the cause. */
export function networkFound(error: unknown, host: string, stalled: boolean, { stallMs }: Patience): string {
  if (stalled) return `nothing from ${host} for ${stallMs / 1000} s`;
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
  return `no answer from ${host} (${describe(cause)})`;
}

/** A failure with a reason. */
export function hubFailure(reason: HubFailure, asked: string, found: string, todo: string, cause?: unknown): HubError {
  return new HubError({ asked, found, todo, cause }, reason);
}

/** The end of a connection in the middle of a body. */
export function brokenOff(asked: string, found: string): Passing {
  return new Passing(hubFailure("network", asked, found, NETWORK));
}

/** What a status means: https://huggingface.co/docs/hub; X-Error-Code says what a 401 or 404 is about. */
function failureOf(response: Response, asked: string, { token, endpoint }: HubSettings): HubError | Passing {
  const { status } = response;
  const code = response.headers.get("x-error-code") ?? "";
  const host = new URL(endpoint).host;
  const tokenAdvice =
    token === undefined
      ? `set HF_TOKEN to a token of an account that may read it (${endpoint}/settings/tokens)`
      : "check that HF_TOKEN is valid and its account may read it";
  if (status === 403 || code === "GatedRepo") {
    return hubFailure(
      "gated",
      asked,
      `${host} refuses access (${status}${code === "" ? "" : `, ${code}`})`,
      `Accept the model's conditions on its page if it has any, and ${tokenAdvice}`,
    );
  }
  if (code === "RepoNotFound" || (status === 404 && code === "")) {
    return hubFailure(
      "not-found",
      asked,
      `${host} has nothing there (${status})`,
      `Check the name; if it is private, ${tokenAdvice}`,
    );
  }
  if (status === 401)
    return hubFailure("unauthorized", asked, `${host} asks who you are (401)`, `If it is private, ${tokenAdvice}`);
  if (code === "RevisionNotFound") {
    return hubFailure("not-found", asked, "no such revision", "Give a branch, tag or commit that the model has");
  }
  if (status === 404)
    return hubFailure("not-found", asked, `no such file (${code})`, "Check the name and the revision");
  const waitMs = retryAfter(response.headers.get("retry-after"));
  if (status === 429) {
    const todo =
      token === undefined ? "Wait a while; with HF_TOKEN set the limits are higher" : "Wait a while and try again";
    return new Passing(hubFailure("rate-limit", asked, `${host} gets too many requests (429)`, todo), waitMs);
  }
  const failure = hubFailure("server", asked, `${host} answered ${status}`, TRY_LATER);
  return status >= 500 || status === 408 || status === 425 ? new Passing(failure, waitMs) : failure;
}

/** Seconds or a date. */
function retryAfter(value: string | null): number | undefined {
  if (value === null) return undefined;
  const milliseconds = /^\d+$/.test(value) ? 1000 * Number(value) : Date.parse(value) - Date.now();
  return Number.isFinite(milliseconds) ? Math.max(0, milliseconds) : undefined;
}
