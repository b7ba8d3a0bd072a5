import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

import { onTestFinished } from "vitest";

import type { Patience } from "../../../src/checkpoint/hub/connection.js";
import type { HubSettings } from "../../../src/checkpoint/hub/settings.js";
import { temporaryDirectory } from "../../support/temporary.js";

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";
export const REPOSITORY = "someone/tiny-music";

/** A hub on this machine that speaks the protocol of the real one, and can be made to misbehave. */
export interface FakeHub {
  readonly settings: HubSettings;
  /** Each request as "METHOD path [range]", in order. */
  readonly requests: string[];
  readonly headers: IncomingMessage["headers"][];
  /** Answers a request itself and returns true, or leaves it to the hub. */
  misbehave: (request: IncomingMessage, response: ServerResponse, path: string) => boolean;
  /** Changes the listing before it is sent. */
  edit: (listing: { sha: string; siblings: Record<string, unknown>[] }) => unknown;
}

/** A short wait, so that tests of patience are quick. */
export const PATIENCE: Patience = { attempts: 3, firstDelayMs: 5, longestDelayMs: 20, stallMs: 300 };

export function sha256(content: Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}

export function gitSha1(content: Uint8Array): string {
  return createHash("sha1").update(`blob ${content.byteLength}\0`).update(content).digest("hex");
}

/** Whether the hub keeps a file outside git. */
function isLarge(name: string): boolean {
  return /\.(safetensors|bin)$/.test(name);
}

type Files = Readonly<Record<string, Uint8Array>>;

/** Starts a hub with {@link REPOSITORY} and maybe others; it ends with the test. */
export async function startHub(files: Files, others: Readonly<Record<string, Files>> = {}): Promise<FakeHub> {
  const cache = join(await temporaryDirectory(), "hub");
  const repositories = Object.entries({ [REPOSITORY]: files, ...others });
  const server = createServer((request, response) => {
    const path = decodeURIComponent(request.url ?? "");
    const { range } = request.headers;
    hub.requests.push(`${request.method ?? ""} ${path}${range === undefined ? "" : ` ${range}`}`);
    hub.headers.push(request.headers);
    if (hub.misbehave(request, response, path)) return;
    const found = repositories.find(
      ([name]) => path.startsWith(`/api/models/${name}/`) || path.includes(`/${name}/resolve/`),
    );
    const [repository, own = files] = found ?? [REPOSITORY];
    const contents = new Map(Object.entries(own));
    if (path.startsWith(`/api/models/${repository}/revision/`)) {
      const revision = path.slice(`/api/models/${repository}/revision/`.length).replace("?blobs=true", "");
      if (!["main", "refs/pr/1", COMMIT].includes(revision)) return fail(response, 404, "RevisionNotFound");
      return void response.end(JSON.stringify(hub.edit(listing(contents))));
    }
    const resolve = `/${repository}/resolve/${COMMIT}/`;
    const isCdn = path.startsWith("/cdn/");
    if (!path.startsWith(resolve) && !isCdn) return fail(response, 401, "RepoNotFound");
    const name = isCdn ? path.replace(/^\/cdn\/([^?]*)\??.*$/, "$1") : path.slice(resolve.length);
    const content = isCdn ? onCdn(repositories, path) : contents.get(name);
    if (!content) return fail(response, 404, "EntryNotFound");
    if (isLarge(name) && !path.startsWith("/cdn/")) {
      response.writeHead(302, {
        location: repository === REPOSITORY ? `/cdn/${name}` : `/cdn/${name}?of=${repository}`,
        "x-linked-etag": `"${sha256(content)}"`,
        "x-linked-size": `${content.byteLength}`,
      });
      return void response.end();
    }
    sendContent(request, response, content);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  const { port } = server.address() as AddressInfo;
  const hub: FakeHub = {
    settings: { endpoint: `http://127.0.0.1:${port}`, cache, token: undefined, offline: false },
    requests: [],
    headers: [],
    misbehave: () => false,
    edit: (value) => value,
  };
  return hub;
}

/** A large file: "/cdn/model.safetensors", of another repository "/cdn/model.safetensors?of=owner/name". */
function onCdn(repositories: readonly (readonly [string, Files])[], path: string): Uint8Array | undefined {
  const [name = "", of = REPOSITORY] = path.slice("/cdn/".length).split("?of=");
  return repositories.find(([repository]) => repository === of)?.[1][name];
}

function listing(contents: ReadonlyMap<string, Uint8Array>): { sha: string; siblings: Record<string, unknown>[] } {
  const siblings = [...contents].map(([rfilename, content]) => ({
    rfilename,
    size: content.byteLength,
    blobId: gitSha1(content),
    ...(isLarge(rfilename) ? { lfs: { sha256: sha256(content), size: content.byteLength, pointerSize: 134 } } : {}),
  }));
  return { sha: COMMIT, siblings };
}

export function fail(response: ServerResponse, status: number, code?: string): void {
  response.writeHead(status, code === undefined ? {} : { "x-error-code": code });
  response.end("no");
}

/** The content or the range asked for. */
export function sendContent(request: IncomingMessage, response: ServerResponse, content: Uint8Array): void {
  const { range } = request.headers;
  const first = range === undefined ? 0 : Number(/^bytes=(\d+)-$/.exec(range)?.[1]);
  if (first > 0 && first >= content.byteLength) return fail(response, 416);
  const part = content.subarray(first);
  const etag = `"${gitSha1(content)}"`;
  const length = { "content-length": part.byteLength, etag };
  const contentRange = `bytes ${first}-${content.byteLength - 1}/${content.byteLength}`;
  response.writeHead(first > 0 ? 206 : 200, first > 0 ? { ...length, "content-range": contentRange } : length);
  response.end(request.method === "HEAD" ? undefined : part);
}
