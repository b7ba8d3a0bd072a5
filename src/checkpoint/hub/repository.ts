import { join } from "node:path";

import { UsageError } from "../../errors.js";
import type { HubSettings } from "./settings.js";

/** A model on the hub at one revision: a branch, a tag or a commit. */
export interface Repository {
  readonly name: string; // "facebook/musicgen-small"
  readonly revision: string; // "main"
}

const PART = String.raw`[A-Za-z0-9_][A-Za-z0-9_.-]*`;
const NAME = new RegExp(`^(${PART}/)?${PART}$`);
const REVISION = new RegExp(`^${PART}(/${PART})*$`);

/**
 * Reads `org/name` or `org/name@revision`.
 *
 * @throws {UsageError} if it is neither: such a name could not be one on the hub, nor safely one in the cache.
 */
export function parseRepository(text: string, givenRevision?: string): Repository {
  const [name = "", written, ...rest] = text.split("@");
  const revision = givenRevision ?? written ?? "main";
  const isSafe = (part: string): boolean => !part.includes("..") && !part.includes("--") && part.length <= 96;
  const isContradiction = givenRevision !== undefined && written !== undefined && givenRevision !== written;
  if (NAME.test(name) && isSafe(name) && REVISION.test(revision) && !revision.includes("..") && rest.length === 0) {
    if (!isContradiction) return { name, revision };
  }
  throw new UsageError({
    asked: `the model ${givenRevision === undefined ? text : `${text} at revision ${givenRevision}`}`,
    found: isContradiction ? "two revisions" : "no name of a model on the hub",
    todo: 'Give "owner/name", such as facebook/musicgen-small, and a branch, tag or commit after an @ if need be',
  });
}

/** Whether a text could be `owner/name`, with or without a revision. */
export function isRepositoryName(text: string): boolean {
  try {
    return parseRepository(text).name.includes("/");
  } catch {
    return false;
  }
}

/** A model's folder in the cache: `models--owner--name`, with `blobs`, `refs` and `snapshots`. */
export function repositoryFolder({ cache }: HubSettings, { name }: Repository): string {
  return join(cache, folderName(name));
}

/** "models--owner--name" */
export function folderName(name: string): string {
  return `models--${name.replaceAll("/", "--")}`;
}

/** Whether a text is a whole commit hash. It becomes part of a path. */
export function isCommit(text: string): boolean {
  return /^[0-9a-f]{40}$/.test(text);
}
