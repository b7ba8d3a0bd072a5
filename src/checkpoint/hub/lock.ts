import { randomUUID } from "node:crypto";
import { link, mkdir, open, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { isJsonObject } from "../json.js";

/**
 * A lock that processes hold by a file of that name: made only where none is, and touched every few seconds as a sign of
 * life. One that nobody has touched for long, or whose process is gone, was left behind and is taken over.
 */

const TOUCH_MS = 2000;
const ABANDONED_MS = 30_000;
const POLL_MS = 100;

/**
 * Does something while holding a lock; waits for it as long as it takes.
 *
 * @param onWait called once if another process holds it
 */
export async function withLock<Result>(
  path: string,
  work: () => Promise<Result>,
  signal?: AbortSignal,
  onWait?: () => void,
): Promise<Result> {
  await mkdir(dirname(path), { recursive: true });
  const mark = JSON.stringify({ pid: process.pid, host: hostname(), id: randomUUID() });
  let waited = false;
  while (!(await take(path, mark))) {
    signal?.throwIfAborted();
    if (await removeAbandoned(path)) continue;
    if (!waited) onWait?.();
    waited = true;
    await sleep(POLL_MS, undefined, signal ? { signal } : {});
  }
  const touching = setInterval(() => {
    const now = new Date();
    utimes(path, now, now).catch(() => undefined); // gone: then it was taken over, and what is written is the same
  }, TOUCH_MS);
  try {
    return await work();
  } finally {
    clearInterval(touching);
    if ((await contentOf(path)) === mark) await rm(path, { force: true });
  }
}

async function take(path: string, mark: string): Promise<boolean> {
  try {
    const handle = await open(path, "wx");
    await handle.writeFile(mark).finally(() => handle.close());
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST") return false;
    throw error;
  }
}

/**
 * Removes a lock that was left behind. It is first moved aside and looked at again: if another process was faster, the
 * file may already be that one's new lock, which is put back.
 */
async function removeAbandoned(path: string): Promise<boolean> {
  const mark = await contentOf(path);
  if (mark === undefined) return true;
  if (!(await isAbandoned(path, mark))) return false;
  const aside = `${path}.${randomUUID()}`;
  try {
    await rename(path, aside);
  } catch {
    return true; // another one removed it
  }
  if ((await contentOf(aside)) !== mark) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
  return true;
}

async function isAbandoned(path: string, mark: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  if (!found) return false;
  if (Date.now() - found.mtimeMs > ABANDONED_MS) return true;
  const { pid, host } = parseMark(mark);
  return host === hostname() && pid !== undefined && !isAlive(pid);
}

function parseMark(mark: string): { readonly pid?: number; readonly host?: string } {
  try {
    const value: unknown = JSON.parse(mark);
    if (!isJsonObject(value)) return {};
    const { pid, host } = value;
    return typeof pid === "number" && typeof host === "string" ? { pid, host } : {};
  } catch {
    return {}; // just being written
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return !(error instanceof Error && "code" in error && error.code === "ESRCH");
  }
}

async function contentOf(path: string): Promise<string | undefined> {
  return readFile(path, "utf8").catch(() => undefined);
}
