import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { access, lstat, mkdir, readdir, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { hostname } from "node:os";
import { join } from "node:path";

import { describe, expect, it } from "vitest";

import { cachedSnapshot, locateModel } from "../../../src/checkpoint/hub/cache.js";
import { fetchCheckpoint, type FetchOptions } from "../../../src/checkpoint/hub/fetch.js";
import { CancelledError, HubError, UsageError } from "../../../src/errors.js";
import { fixtureDirectory } from "../../support/fixtures.js";
import { temporaryDirectory } from "../../support/temporary.js";
import { COMMIT, fail, gitSha1, PATIENCE, REPOSITORY, sendContent, sha256, startHub, type FakeHub } from "./server.js";

const WEIGHTS = randomBytes(300_000);
const CONFIG = Buffer.from('{"model_type": "musicgen"}');
const FILES: Readonly<Record<string, Uint8Array>> = {
  "README.md": Buffer.from("about"),
  "config.json": CONFIG,
  "generation_config.json": Buffer.from("{}"),
  "tokenizer.json": Buffer.from('{"version": "1.0"}'),
  "spiece.model": randomBytes(500),
  "model.safetensors": WEIGHTS,
  "pytorch_model.bin": randomBytes(1000),
  "state_dict.bin": randomBytes(1000),
};
const NEEDED = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];

function fetchFrom(hub: FakeHub, options: FetchOptions = {}, name = REPOSITORY) {
  return fetchCheckpoint(name, { settings: hub.settings, patience: PATIENCE, ...options });
}

async function failure(hub: FakeHub, options: FetchOptions = {}, name = REPOSITORY): Promise<HubError> {
  const error: unknown = await fetchFrom(hub, options, name).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(HubError);
  return error as HubError;
}

/** Asserts that nothing looks installed. */
async function expectNothingInstalled(hub: FakeHub): Promise<void> {
  const folder = join(hub.settings.cache, "models--someone--tiny-music");
  await expect(access(join(folder, "snapshots"))).rejects.toThrow();
  await expect(access(join(folder, "refs"))).rejects.toThrow();
  expect(cachedSnapshot({ name: REPOSITORY, revision: "main" }, hub.settings)).toBeUndefined();
}

async function expectWeights(directory: string): Promise<void> {
  expect(sha256(await readFile(join(directory, "model.safetensors")))).toBe(sha256(WEIGHTS));
}

/** Misbehaves for the weights only, the first `times` times. */
function onWeights(
  hub: FakeHub,
  times: number,
  act: (request: IncomingMessage, response: ServerResponse) => void,
): void {
  let count = 0;
  hub.misbehave = (request, response, path) => {
    if (!path.startsWith("/cdn/model.safetensors") || count >= times) return false;
    count++;
    act(request, response);
    return true;
  };
}

function weightRequests(hub: FakeHub): string[] {
  return hub.requests.filter((request) => request.includes("/cdn/model.safetensors"));
}

describe("fetchCheckpoint", () => {
  it("fetches the files that are needed, into the cache layout of huggingface_hub", async () => {
    const hub = await startHub(FILES);
    const progress: number[] = [];
    const fetched = await fetchFrom(hub, { onProgress: ({ bytes, totalBytes }) => progress.push(bytes / totalBytes) });
    const folder = join(hub.settings.cache, "models--someone--tiny-music");
    expect(fetched).toMatchObject({ directory: join(folder, "snapshots", COMMIT), commit: COMMIT, fetchedFiles: 4 });
    expect((await readdir(fetched.directory)).toSorted()).toEqual(NEEDED);
    expect(await readFile(join(folder, "refs", "main"), "utf8")).toBe(COMMIT);
    expect(await readlink(join(fetched.directory, "model.safetensors"))).toBe(`../../blobs/${sha256(WEIGHTS)}`);
    expect(await readlink(join(fetched.directory, "config.json"))).toBe(`../../blobs/${gitSha1(CONFIG)}`);
    await expectWeights(fetched.directory);
    expect((await readdir(join(folder, "blobs"))).filter((name) => /incomplete/.test(name))).toEqual([]);
    expect(await readdir(join(hub.settings.cache, ".locks", "models--someone--tiny-music"))).toEqual([]);
    expect(progress.at(-1)).toBe(1);
  });

  it("asks once for what is there already, and finds it by name afterwards", async () => {
    const hub = await startHub(FILES);
    const { directory } = await fetchFrom(hub);
    hub.requests.length = 0;
    expect(await fetchFrom(hub)).toMatchObject({ directory, fetchedFiles: 0 });
    expect(hub.requests).toHaveLength(1);
    expect(locateModel(REPOSITORY, hub.settings)).toBe(directory);
    expect(locateModel(`${REPOSITORY}@${COMMIT}`, hub.settings)).toBe(directory);
    expect(await fetchFrom({ ...hub, settings: { ...hub.settings, offline: true } })).toMatchObject({ directory });
  });

  it("takes a revision, also one with slashes", async () => {
    const hub = await startHub(FILES);
    const { directory } = await fetchFrom(hub, { revision: "refs/pr/1" });
    expect(locateModel(`${REPOSITORY}@refs/pr/1`, hub.settings)).toBe(directory);
    expect(() => locateModel(REPOSITORY, hub.settings)).toThrow(/tonearm fetch someone\/tiny-music/);
    expect(await failure(hub, { revision: "v9" })).toMatchObject({ reason: "not-found", found: "no such revision" });
  });

  it("fetches shards through their index, .bin where there is nothing better, and audiocraft's files last", async () => {
    const index = { weight_map: { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" } };
    const sharded = {
      "config.json": CONFIG,
      "model.safetensors.index.json": Buffer.from(JSON.stringify(index)),
      "model-00001-of-00002.safetensors": randomBytes(100),
      "model-00002-of-00002.safetensors": randomBytes(100),
      "model-00003-of-00002.safetensors": randomBytes(100),
      "pytorch_model.bin": randomBytes(100),
    };
    expect((await fetchFrom(await startHub(sharded))).files).toEqual([
      ...["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
      "config.json",
    ]);
    const bin = { "config.json": CONFIG, "pytorch_model.bin": WEIGHTS, "flax_model.msgpack": WEIGHTS };
    expect((await fetchFrom(await startHub(bin))).files).toEqual(["pytorch_model.bin", "config.json"]);
  });

  it("goes on after the connection is cut, with the bytes that are missing", async () => {
    const hub = await startHub(FILES);
    onWeights(hub, 2, (request, response) => {
      const first = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
      response.writeHead(first > 0 ? 206 : 200, {
        "content-length": WEIGHTS.length - first,
        ...(first > 0 ? { "content-range": `bytes ${first}-${WEIGHTS.length - 1}/${WEIGHTS.length}` } : {}),
      });
      response.write(WEIGHTS.subarray(first, first + 100_000), () => setTimeout(() => response.destroy(), 20));
    });
    const waits: number[] = [];
    const { directory } = await fetchFrom(hub, { onRetry: (_, waitMs) => waits.push(waitMs) });
    await expectWeights(directory);
    expect(waits).toHaveLength(2);
    expect(weightRequests(hub)).toEqual([
      "GET /cdn/model.safetensors",
      "GET /cdn/model.safetensors bytes=100000-",
      "GET /cdn/model.safetensors bytes=200000-",
    ]);
  });

  it("goes on in a second call where the first gave up", async () => {
    const hub = await startHub(FILES);
    onWeights(hub, 3, (request, response) => {
      if (request.headers.range !== undefined) return response.destroy();
      response.writeHead(200, { "content-length": WEIGHTS.length });
      response.write(WEIGHTS.subarray(0, 123_456), () => setTimeout(() => response.destroy(), 20));
    });
    expect(await failure(hub)).toMatchObject({ reason: "network" });
    await expectNothingInstalled(hub);
    hub.requests.length = 0;
    const { directory } = await fetchFrom(hub);
    await expectWeights(directory);
    expect(weightRequests(hub)).toEqual(["GET /cdn/model.safetensors bytes=123456-"]);
  });

  it("starts over where a server ignores the range, sends another one, or refuses it", async () => {
    for (const answer of ["ignores", "other range", "416"] as const) {
      const hub = await startHub(FILES);
      const blobs = join(hub.settings.cache, "models--someone--tiny-music", "blobs");
      await mkdir(blobs, { recursive: true });
      await writeFile(join(blobs, `${sha256(WEIGHTS)}.tonearm.incomplete`), WEIGHTS.subarray(0, 50_000));
      onWeights(hub, 1, (request, response) => {
        if (answer === "416") return fail(response, 416);
        delete request.headers.range;
        if (answer === "ignores") return sendContent(request, response, WEIGHTS);
        response.writeHead(206, { "content-range": `bytes 7-${WEIGHTS.length - 1}/${WEIGHTS.length}` });
        response.end(WEIGHTS.subarray(7));
      });
      const { directory } = await fetchFrom(hub);
      await expectWeights(directory);
    }
  });

  it("notices wrong bytes, asks for them once more, and installs nothing if they stay wrong", async () => {
    const wrong = Buffer.from(WEIGHTS);
    wrong[1000] = (wrong[1000] ?? 0) ^ 1;
    const once = await startHub(FILES);
    onWeights(once, 1, (request, response) => sendContent(request, response, wrong));
    const { directory } = await fetchFrom(once);
    await expectWeights(directory);

    const always = await startHub(FILES);
    onWeights(always, Infinity, (request, response) => sendContent(request, response, wrong));
    expect(await failure(always)).toMatchObject({ reason: "checksum" });
    expect(weightRequests(always)).toHaveLength(2);
    await expectNothingInstalled(always);
    always.misbehave = () => false;
    expect(await fetchFrom(always)).toMatchObject({ directory: expect.stringContaining(COMMIT) as string });
  });

  it("checks small files by the checksum that git gives them", async () => {
    const hub = await startHub(FILES);
    hub.misbehave = (request, response, path) => {
      if (!path.endsWith("/config.json")) return false;
      sendContent(request, response, Buffer.from('{"model_type": "musicgem"}'));
      return true;
    };
    expect(await failure(hub)).toMatchObject({ reason: "checksum", asked: `fetch config.json of ${REPOSITORY}` });
  });

  it("believes no length: too short an answer is asked for again, too long a one refused", async () => {
    const short = await startHub(FILES);
    onWeights(short, 1, (_, response) => response.end(WEIGHTS.subarray(0, 1000)));
    const { directory } = await fetchFrom(short);
    await expectWeights(directory);

    const long = await startHub(FILES);
    onWeights(long, Infinity, (_, response) => response.end(Buffer.concat([WEIGHTS, WEIGHTS])));
    expect(await failure(long)).toMatchObject({ reason: "garbage" });
    await expectNothingInstalled(long);

    const stretched = await startHub(FILES);
    onWeights(stretched, 1, (_, response) => {
      response.writeHead(200, { "content-length": WEIGHTS.length + 500 });
      response.write(WEIGHTS, () => setTimeout(() => response.destroy(), 20));
    });
    expect((await fetchFrom(stretched)).fetchedFiles).toBe(4);
  });

  it("waits out 429 and 5xx as long as the server says, and gives up in the end", async () => {
    const hub = await startHub(FILES);
    onWeights(hub, 2, (_, response) => {
      response.writeHead(weightRequests(hub).length === 1 ? 429 : 503, { "retry-after": "0" });
      response.end();
    });
    expect((await fetchFrom(hub)).fetchedFiles).toBe(4);
    hub.misbehave = (_, response) => {
      fail(response, 429);
      return true;
    };
    expect(await failure(hub)).toMatchObject({ reason: "rate-limit" });
    hub.misbehave = (_, response) => {
      fail(response, 500);
      return true;
    };
    hub.requests.length = 0;
    expect(await failure(hub)).toMatchObject({ reason: "server", found: expect.stringContaining("500") as string });
    expect(hub.requests).toHaveLength(PATIENCE.attempts);
  });

  it("says what a refusal means, without trying again", async () => {
    const hub = await startHub(FILES);
    const cases = [
      [401, undefined, "unauthorized", /HF_TOKEN/],
      [401, "RepoNotFound", "not-found", /Check the name/],
      [401, "GatedRepo", "gated", /Accept the model's conditions/],
      [403, "GatedRepo", "gated", /Accept the model's conditions/],
      [404, "RepoNotFound", "not-found", /Check the name/],
      [404, "RevisionNotFound", "not-found", /branch, tag or commit/],
      [404, "EntryNotFound", "not-found", /name and the revision/],
      [418, undefined, "server", /mirror/],
    ] as const;
    for (const [status, code, reason, todo] of cases) {
      hub.misbehave = (_, response) => {
        fail(response, status, code);
        return true;
      };
      hub.requests.length = 0;
      const error = await failure(hub);
      expect(error).toMatchObject({ code: "hub", reason });
      expect(error.todo).toMatch(todo);
      expect(hub.requests).toHaveLength(1);
    }
    hub.misbehave = () => false;
    expect(await failure(hub, {}, "someone/else")).toMatchObject({ reason: "not-found" });
  });

  it("sends the token to the hub, and to no other host that it is redirected to", async () => {
    const other = await startHub(FILES);
    const hub = await startHub(FILES);
    hub.misbehave = (_, response, path) => {
      if (!path.startsWith("/cdn/")) return false;
      response.writeHead(302, { location: `${other.settings.endpoint}${path}` });
      response.end();
      return true;
    };
    await fetchFrom({ ...hub, settings: { ...hub.settings, token: "secret" } });
    expect(new Set(hub.headers.map(({ authorization }) => authorization))).toEqual(new Set(["Bearer secret"]));
    expect(other.headers.length).toBeGreaterThan(0);
    expect(other.headers.every(({ authorization }) => authorization === undefined)).toBe(true);
  });

  it("refuses answers that are not the hub's", async () => {
    const hub = await startHub(FILES);
    const answers = ["<html>log in</html>", "[]", "{}", `{"sha": "../..", "siblings": []}`, `{"sha": "${COMMIT}"}`, ""];
    for (const answer of answers) {
      hub.misbehave = (_, response) => {
        response.end(answer);
        return true;
      };
      expect(await failure(hub)).toMatchObject({ reason: "garbage" });
    }
    hub.misbehave = (_, response) => {
      response.writeHead(302, { location: "/again" });
      response.end();
      return true;
    };
    expect(await failure(hub)).toMatchObject({ reason: "garbage", found: "more than 10 redirects" });
    await expectNothingInstalled(hub);
  });

  it.each(["../../evil", "/etc/passwd", "a/../../b", "a\\..\\b", "C:evil", "a//b", "a\u0000b", "", "."])(
    "refuses a listing with a file named %j",
    async (rfilename) => {
      const hub = await startHub(FILES);
      hub.edit = ({ sha, siblings }) => ({
        sha,
        siblings: [...siblings, { rfilename, size: 1, blobId: "0".repeat(40) }],
      });
      expect(await failure(hub)).toMatchObject({ reason: "garbage" });
    },
  );

  it("refuses an index whose shards lie elsewhere or are missing", async () => {
    for (const [shard, reason] of [
      ["../../evil.safetensors", "garbage"],
      ["/etc/x.safetensors", "garbage"],
      ["absent.safetensors", "not-found"],
    ] as const) {
      const index = Buffer.from(JSON.stringify({ weight_map: { a: shard } }));
      const hub = await startHub({ "config.json": CONFIG, "model.safetensors.index.json": index });
      expect(await failure(hub)).toMatchObject({ reason });
      await expectNothingInstalled(hub);
    }
  });

  it.each(["../evil", "a/b/c", "a b", "models--a/b", "a/b@../c", "a/b@c@d", ".hidden/x", ""])(
    "takes %j for no model",
    async (name) => {
      const hub = await startHub(FILES);
      await expect(fetchFrom(hub, {}, name)).rejects.toThrow(UsageError);
      expect(hub.requests).toEqual([]);
    },
  );

  it("asks for checksums where a mirror's listing has none", async () => {
    const hub = await startHub(FILES);
    hub.edit = ({ sha, siblings }) => ({ sha, siblings: siblings.map(({ rfilename }) => ({ rfilename })) });
    const { directory } = await fetchFrom(hub);
    await expectWeights(directory);
    expect(hub.requests.filter((request) => request.startsWith("HEAD")).length).toBeGreaterThan(3);
    expect(await readlink(join(directory, "model.safetensors"))).toBe(`../../blobs/${sha256(WEIGHTS)}`);
  });

  it("refuses models without weights, and before the first byte what does not fit the disk", async () => {
    expect(await failure(await startHub({ "config.json": CONFIG, "model.onnx": WEIGHTS }))).toMatchObject({
      reason: "not-found",
      found: "no weights that tonearm reads among config.json, model.onnx",
    });
    const hub = await startHub(FILES);
    hub.edit = ({ sha, siblings }) => ({
      sha,
      siblings: siblings.map((file) =>
        "lfs" in file ? { ...file, lfs: { sha256: "0".repeat(64), size: 2 ** 52 } } : file,
      ),
    });
    expect(await failure(hub)).toMatchObject({ reason: "disk" });
    expect(hub.requests).toHaveLength(1);
  });

  it("survives a disk that fills up in the middle", async ({ skip }) => {
    const isThere = await access("/dev/full").then(
      () => true,
      () => false,
    );
    skip(!isThere, "this system has no /dev/full to write to");
    const hub = await startHub(FILES);
    const blobs = join(hub.settings.cache, "models--someone--tiny-music", "blobs");
    await mkdir(blobs, { recursive: true });
    await symlink("/dev/full", join(blobs, `${sha256(WEIGHTS)}.tonearm.incomplete`));
    const error = await failure(hub);
    expect(error).toMatchObject({ reason: "disk" });
    expect(error.message).toMatch(/ENOSPC.*Make room/);
    await expectNothingInstalled(hub);
  });

  it("stops at the signal and goes on later", async () => {
    const hub = await startHub(FILES);
    const controller = new AbortController();
    onWeights(hub, 1, (_, response) => {
      response.writeHead(200, { "content-length": WEIGHTS.length });
      response.write(WEIGHTS.subarray(0, 65_536), () => setTimeout(() => controller.abort(), 50));
    });
    await expect(fetchFrom(hub, { signal: controller.signal })).rejects.toThrow(CancelledError);
    await expectNothingInstalled(hub);
    hub.requests.length = 0;
    await fetchFrom(hub);
    expect(weightRequests(hub)).toEqual(["GET /cdn/model.safetensors bytes=65536-"]);
    await expect(fetchFrom(hub, { signal: AbortSignal.abort() })).rejects.toThrow(CancelledError);
  });

  it("gives up on a server that says nothing more", async () => {
    const hub = await startHub(FILES);
    onWeights(hub, Infinity, (_, response) => {
      response.writeHead(200, { "content-length": WEIGHTS.length });
      response.write(WEIGHTS.subarray(0, 10));
    });
    expect(await failure(hub, { patience: { ...PATIENCE, attempts: 2 } })).toMatchObject({ reason: "network" });
    const nobody = { ...hub, settings: { ...hub.settings, endpoint: "http://127.0.0.1:1" } };
    expect(await failure(nobody)).toMatchObject({ reason: "network" });
  });

  it("fetches each file once when several ask at the same time", async () => {
    const hub = await startHub(FILES);
    const directories = await Promise.all(Array.from({ length: 4 }, () => fetchFrom(hub)));
    expect(new Set(directories.map(({ directory }) => directory)).size).toBe(1);
    expect(weightRequests(hub)).toHaveLength(1);
  });

  it("takes over the lock of a process that is gone, and waits for one that lives", async () => {
    const hub = await startHub(FILES);
    const locks = join(hub.settings.cache, ".locks", "models--someone--tiny-music");
    await mkdir(locks, { recursive: true });
    const lock = join(locks, `${sha256(WEIGHTS)}.tonearm.lock`);
    const gone = spawn(process.execPath, ["-e", ""]);
    await new Promise((resolve) => gone.once("exit", resolve));
    await writeFile(lock, JSON.stringify({ pid: gone.pid, host: hostname() }));
    await fetchFrom(hub);

    const other = await startHub(FILES);
    const otherLocks = join(other.settings.cache, ".locks", "models--someone--tiny-music");
    await mkdir(otherLocks, { recursive: true });
    await writeFile(
      join(otherLocks, `${sha256(WEIGHTS)}.tonearm.lock`),
      JSON.stringify({ pid: process.pid, host: hostname() }),
    );
    const signal = AbortSignal.timeout(400);
    await expect(fetchFrom(other, { signal })).rejects.toThrow(CancelledError);
    expect(weightRequests(other)).toEqual([]);
  });

  it("fetches again what was damaged in the cache, when told to look", async () => {
    const hub = await startHub(FILES);
    const { directory } = await fetchFrom(hub);
    const wrong = Buffer.from(WEIGHTS);
    wrong[5] = (wrong[5] ?? 0) ^ 255;
    await writeFile(join(directory, "model.safetensors"), wrong);
    expect((await fetchFrom(hub)).fetchedFiles).toBe(0);
    expect((await fetchFrom(hub, { recheck: true })).fetchedFiles).toBe(1);
    await expectWeights(directory);
  });

  it("uses the cache alone when offline, and says what is missing in a model that is there in part", async () => {
    const hub = await startHub(FILES);
    const offline = { ...hub, settings: { ...hub.settings, offline: true } };
    expect(await failure(offline)).toMatchObject({ reason: "offline" });
    expect(hub.requests).toEqual([]);
    const { directory } = await fetchFrom(hub);
    await rm(join(directory, await readlink(join(directory, "model.safetensors"))));
    expect((await lstat(join(directory, "model.safetensors"))).isSymbolicLink()).toBe(true);
    expect(await failure(offline)).toMatchObject({ reason: "offline" });
    expect(() => locateModel(REPOSITORY, hub.settings)).toThrow(/only a part of it.*no weights.*tonearm fetch/);
  });

  it("leaves directories as they are and refuses names that are neither", async () => {
    const hub = await startHub(FILES);
    const directory = await temporaryDirectory();
    expect(locateModel(directory, hub.settings)).toBe(directory);
    expect(() => locateModel("someone/unknown", hub.settings)).toThrow(/no directory of that name.*tonearm fetch/);
  });

  it("fetches what audiocraft's files refer to as well", async () => {
    const files = fixtureDirectory("audiocraft/mono/audiocraft");
    const read = async (name: string): Promise<Uint8Array> => readFile(join(files, name));
    const hub = await startHub(
      {
        "state_dict.bin": await read("state_dict.bin"),
        "compression_state_dict.bin": await read("compression_state_dict.bin"),
      },
      {
        "google-t5/t5-base": {
          "config.json": await read("t5-base/config.json"),
          "model.safetensors": await read("t5-base/model.safetensors"),
          "tf_model.h5": randomBytes(100),
        },
      },
    );
    const fetched = await fetchFrom(hub);
    expect(fetched.files).toEqual(["state_dict.bin", "compression_state_dict.bin"]);
    expect(fetched.companions.map(({ repository }) => repository)).toEqual(["google-t5/t5-base"]);
    expect(locateModel("google-t5/t5-base", hub.settings)).toBe(fetched.companions[0]?.directory);
    expect((await fetchFrom(hub)).companions).toEqual([]);
  });
});
