import { afterEach, expect, it, vi } from "vitest";

import { sitesCommand } from "../../src/cli/sites.js";
import { fixtureDirectory } from "../support/fixtures.js";

/** What `tonearm sites` prints. */
async function printed(...options: string[]): Promise<string> {
  const write = vi.spyOn(process.stdout, "write").mockReturnValue(true);
  await sitesCommand().parseAsync(["-m", fixtureDirectory("mono"), ...options], { from: "user" });
  return write.mock.calls.map(([text]) => String(text)).join("");
}

afterEach(() => {
  vi.restoreAllMocks();
});

it("tonearm sites lists every site with letters and, where the model fixes them, numbers", async () => {
  const lines = (await printed()).trimEnd().split("\n");
  expect(lines).toHaveLength(174 + 1);
  expect(lines.find((line) => line.startsWith("blocks.2.attn.hook_z "))).toMatch(/\[R, T, H, Dh\] {2}\[R, T, 4, 8\]$/);
  expect(lines.at(-1)).toContain("174 of 174 sites");
});

it("tonearm sites filters by glob and counts layers from the end", async () => {
  const { sites } = JSON.parse(await printed("--filter", "blocks.-1.hook_resid_p*", "--json")) as {
    sites: { site: string; sizes: string[] }[];
  };
  expect(sites.map(({ site }) => site)).toEqual(["blocks.2.hook_resid_pre", "blocks.2.hook_resid_post"]);
  expect(sites[0]?.sizes).toEqual(["R", "T", "32"]);
});

it("tonearm sites names the nearest where nothing matches", async () => {
  await expect(printed("--filter", "blocks.0.attn.hook_patern")).rejects.toThrow("nearest: blocks.0.attn.hook_pattern");
  await expect(printed("--filter", "blocks.7.**")).rejects.toThrow("layers 0 … 2, or -1 … -3");
});
