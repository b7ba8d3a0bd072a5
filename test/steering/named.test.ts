import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { describe, expect, it } from "vitest";

import { locateSteering, steeringNames } from "../../src/steering/named.js";
import { temporaryDirectory } from "../support/temporary.js";

describe("steering by name", () => {
  it("is the spec of that name in the checkpoint's folder, and anything with a slash or .json is a path", async () => {
    const model = await temporaryDirectory();
    await mkdir(join(model, "vectors"));
    for (const name of ["violin.json", "jazz.json", "instrument.safetensors"]) {
      await writeFile(join(model, "vectors", name), "{}");
    }
    expect(await locateSteering("violin", model)).toBe(join(model, "vectors", "violin.json"));
    expect(await locateSteering("violin.json", model)).toBe("violin.json");
    expect(await locateSteering("my/violin", model)).toBe("my/violin");
    expect(await steeringNames(model)).toEqual(["jazz", "violin"]);
    await expect(locateSteering("viola", model)).rejects.toThrow("Choose one of jazz, violin");
  });

  it("says so where the checkpoint has none", async () => {
    const model = await temporaryDirectory();
    await expect(locateSteering("violin", model)).rejects.toThrow("a model that comes without steering");
    expect(await steeringNames(model)).toEqual([]);
  });
});
