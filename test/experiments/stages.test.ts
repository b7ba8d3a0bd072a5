import { expect, it } from "vitest";

import { Stages } from "../../src/experiments/stages.js";
import { temporaryDirectory } from "../support/temporary.js";

it("a folder of other settings is refused in a line that names them, however long they are", async () => {
  const folder = await temporaryDirectory();
  const many = Array.from({ length: 700 }, (_, index) => `clip-${index}`);
  await Stages.open(folder, { clips: 4, material: many });
  await expect(Stages.open(folder, { clips: 4, material: many })).resolves.toBeInstanceOf(Stages);
  const refused = Stages.open(folder, { clips: 5, material: many.slice(1), seed: 2 });
  await expect(refused).rejects.toThrow(
    /clips 4, now 5; material \["clip-0".*… \(\d+ characters\), now .*; seed nothing, now 2/,
  );
  const found: unknown = await refused.catch((error: unknown) => error);
  expect(String(found).length).toBeLessThan(600);
});
