import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** Where models come from and where they are kept: the environment variables of Python's huggingface_hub. */
export interface HubSettings {
  readonly endpoint: string; // without a slash at its end
  readonly cache: string; // the directory of all models' folders
  readonly token: string | undefined;
  readonly offline: boolean;
}

const DEFAULT_ENDPOINT = "https://huggingface.co";

/**
 * Reads the settings, as huggingface_hub does:
 *
 * | variable | |
 * |---|---|
 * | `HF_HUB_CACHE` | the cache; without it `$HF_HOME/hub` |
 * | `HF_HOME` | without it `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface` |
 * | `HF_ENDPOINT` | a mirror instead of the hub |
 * | `HF_TOKEN` | for private and gated models; without it the file `$HF_TOKEN_PATH` or `$HF_HOME/token` |
 * | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | 1: send no token |
 * | `HF_HUB_OFFLINE` | 1: use the cache only |
 */
export function hubSettings(environment: Readonly<Record<string, string | undefined>> = process.env): HubSettings {
  const get = (name: string): string | undefined => {
    const value = environment[name]?.trim();
    return value === "" ? undefined : value;
  };
  const isOn = (name: string): boolean => ["1", "ON", "YES", "TRUE"].includes(get(name)?.toUpperCase() ?? "");
  const home = expand(get("HF_HOME") ?? join(get("XDG_CACHE_HOME") ?? join(homedir(), ".cache"), "huggingface"));
  const token =
    get("HF_TOKEN") ?? get("HUGGING_FACE_HUB_TOKEN") ?? readToken(get("HF_TOKEN_PATH") ?? join(home, "token"));
  return {
    endpoint: (get("HF_ENDPOINT") ?? DEFAULT_ENDPOINT).replace(/\/+$/, ""),
    cache: expand(get("HF_HUB_CACHE") ?? get("HUGGINGFACE_HUB_CACHE") ?? join(home, "hub")),
    token: isOn("HF_HUB_DISABLE_IMPLICIT_TOKEN") ? undefined : token,
    offline: isOn("HF_HUB_OFFLINE"),
  };
}

function expand(path: string): string {
  return path === "~" || path.startsWith("~/") ? join(homedir(), path.slice(1)) : path;
}

function readToken(path: string): string | undefined {
  try {
    const token = readFileSync(expand(path), "utf8").trim();
    return token === "" ? undefined : token;
  } catch {
    return undefined; // most people have none
  }
}
