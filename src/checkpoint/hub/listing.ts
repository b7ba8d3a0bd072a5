import { describe } from "../safetensors-header.js";
import { isJsonObject } from "../json.js";
import { brokenOff, hubFailure, persistently, send, type Connection } from "./connection.js";
import { isCommit, type Repository } from "./repository.js";

/** A file of a repository. */
export interface HubFile {
  readonly name: string;
  readonly bytes: number;
  /** SHA-256 of the content, or for small files the SHA-1 that git gives it: its name in the cache. */
  readonly checksum: string;
}

/** The files of a repository at one commit. */
export interface Listing {
  readonly commit: string;
  readonly names: readonly string[];
  /** The size and checksum of a file. @throws {HubError} */
  readonly file: (name: string) => Promise<HubFile>;
}

const MAX_LISTING_BYTES = 2 ** 25;

/**
 * Asks the hub which files a repository has at a revision.
 *
 * @throws {HubError} if there is no such repository or revision, it may not be read, or the answer is no listing.
 */
export async function listFiles(connection: Connection, repository: Repository): Promise<Listing> {
  const { name, revision } = repository;
  const asked = `fetch ${name} at ${revision}`;
  const { endpoint } = connection.settings;
  const url = `${endpoint}/api/models/${name}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const answer = await persistently(connection, () => readJson(connection, asked, url));
  const refuse = (found: string): Error =>
    hubFailure("garbage", asked, found, "Check HF_ENDPOINT: this is not the hub's protocol");
  if (!isJsonObject(answer)) throw refuse("an answer that is not a JSON object");
  const { sha: commit, siblings } = answer;
  if (typeof commit !== "string" || !isCommit(commit)) throw refuse("an answer without a commit");
  if (!Array.isArray(siblings) || !siblings.every(isJsonObject)) throw refuse("an answer without a list of files");
  const known = new Map<string, Omit<HubFile, "name"> | undefined>();
  for (const { rfilename, size, blobId, lfs } of siblings) {
    if (typeof rfilename !== "string" || !isSafePath(rfilename)) {
      throw refuse(`a file named ${JSON.stringify(rfilename)}, which could leave the model's directory`);
    }
    const large = isJsonObject(lfs) ? lfs : {};
    known.set(rfilename, usable(large["size"] ?? size, isJsonObject(lfs) ? large["sha256"] : blobId));
  }
  return {
    commit,
    names: [...known.keys()],
    file: async (file) => {
      const listed = known.get(file) ?? (await askForFile(connection, repository, commit, file));
      return { name: file, ...listed };
    },
  };
}

/** Where a file is fetched from. */
export function fileUrl({ settings }: Connection, { name }: Repository, commit: string, file: string): string {
  return `${settings.endpoint}/${name}/resolve/${commit}/${file.split("/").map(encodeURIComponent).join("/")}`;
}

/** Relative, of plain names only, on every system. */
export function isSafePath(path: string): boolean {
  const isPlain = (part: string): boolean =>
    part !== "" &&
    part !== "." &&
    part !== ".." &&
    !/[\\:]/.test(part) &&
    Array.from(part).every((letter) => letter >= " ");
  return path.split("/").every(isPlain);
}

/** Size and checksum of a file that the listing leaves out, as some mirrors do. */
async function askForFile(
  connection: Connection,
  repository: Repository,
  commit: string,
  file: string,
): Promise<Omit<HubFile, "name">> {
  const asked = `fetch ${file} of ${repository.name}`;
  return persistently(connection, async () => {
    const { response, close } = await send(connection, asked, fileUrl(connection, repository, commit, file), {
      method: "HEAD",
    });
    close();
    const tag = response.headers.get("x-linked-etag") ?? response.headers.get("etag") ?? "";
    const size = response.headers.get("x-linked-size") ?? response.headers.get("content-length");
    const checksum = tag.replace(/^W\//, "").replaceAll('"', "");
    const found = usable(size === null ? undefined : Number(size), checksum);
    if (found) return found;
    const what = `neither size nor checksum of it (ETag ${JSON.stringify(tag)})`;
    throw hubFailure("garbage", asked, what, "Check HF_ENDPOINT: this is not the hub's protocol");
  });
}

function usable(bytes: unknown, checksum: unknown): Omit<HubFile, "name"> | undefined {
  const isUsable = Number.isSafeInteger(bytes) && Number(bytes) >= 0 && typeof checksum === "string";
  return isUsable && /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(checksum) ? { bytes: Number(bytes), checksum } : undefined;
}

async function readJson(connection: Connection, asked: string, url: string): Promise<unknown> {
  const { response, alive, close } = await send(connection, asked, url);
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    for await (const chunk of piecesOf(response)) {
      alive();
      bytes += chunk.byteLength;
      if (bytes > MAX_LISTING_BYTES) break;
      chunks.push(chunk);
    }
  } catch (error) {
    connection.signal.throwIfAborted();
    throw brokenOff(asked, `the answer broke off after ${bytes} bytes (${describe(error)})`);
  } finally {
    close();
  }
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks)));
  } catch (cause) {
    const found = `${bytes} bytes that are not JSON`;
    throw hubFailure("garbage", asked, found, "Check HF_ENDPOINT, and whether a proxy answers in its place", cause);
  }
}

/** The pieces of a body as they come. Ending early cancels it. */
export async function* piecesOf(response: Response): AsyncGenerator<Uint8Array, void, void> {
  const reader = response.body?.getReader();
  if (!reader) return;
  try {
    for (;;) {
      const { done, value } = (await reader.read()) as { readonly done: boolean; readonly value?: Uint8Array };
      if (done || value === undefined) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
