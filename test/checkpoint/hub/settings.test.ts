import { writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";

import { describe, expect, it } from "vitest";

import { hubSettings } from "../../../src/checkpoint/hub/settings.js";
import { temporaryDirectory } from "../../support/temporary.js";

describe("hubSettings", () => {
  it("finds the cache where huggingface_hub has it", () => {
    const cacheOf = (environment: Record<string, string>): string =>
      hubSettings({ HF_HUB_DISABLE_IMPLICIT_TOKEN: "1", ...environment }).cache;
    expect(cacheOf({})).toBe(join(homedir(), ".cache", "huggingface", "hub"));
    expect(cacheOf({ XDG_CACHE_HOME: "/x" })).toBe("/x/huggingface/hub");
    expect(cacheOf({ XDG_CACHE_HOME: "/x", HF_HOME: "/h" })).toBe("/h/hub");
    expect(cacheOf({ HF_HOME: "~/h" })).toBe(join(homedir(), "h", "hub"));
    expect(cacheOf({ HF_HOME: "/h", HF_HUB_CACHE: "/c" })).toBe("/c");
    expect(cacheOf({ HF_HOME: "/h", HUGGINGFACE_HUB_CACHE: "/d" })).toBe("/d");
    expect(cacheOf({ HF_HOME: " " })).toBe(join(homedir(), ".cache", "huggingface", "hub"));
  });

  it("reads the endpoint and whether to stay offline", () => {
    const HF_HOME = "/nowhere";
    expect(hubSettings({ HF_HOME })).toMatchObject({ endpoint: "https://huggingface.co", offline: false });
    expect(hubSettings({ HF_HOME, HF_ENDPOINT: "https://mirror.example/" }).endpoint).toBe("https://mirror.example");
    for (const value of ["1", "true", "YES", "On"])
      expect(hubSettings({ HF_HOME, HF_HUB_OFFLINE: value }).offline).toBe(true);
    for (const value of ["0", "", "no"]) expect(hubSettings({ HF_HOME, HF_HUB_OFFLINE: value }).offline).toBe(false);
  });

  it("takes the token from the environment, else from its file, or none at all", async () => {
    const home = await temporaryDirectory();
    expect(hubSettings({ HF_HOME: home }).token).toBeUndefined();
    await writeFile(join(home, "token"), "from-file\n");
    expect(hubSettings({ HF_HOME: home }).token).toBe("from-file");
    expect(hubSettings({ HF_HOME: home, HF_TOKEN: "from-environment" }).token).toBe("from-environment");
    expect(hubSettings({ HF_HOME: "/nowhere", HF_TOKEN_PATH: join(home, "token") }).token).toBe("from-file");
    expect(hubSettings({ HF_HOME: home, HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" }).token).toBeUndefined();
  });
});
