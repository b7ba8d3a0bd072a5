import { describe, expect, it } from "vitest";

import { averageRows, type ActivationData } from "../../src/probes/data.js";

const DATA: ActivationData = {
  model: "model-1",
  rows: 4,
  sites: [{ site: "a", shape: [2], read: () => Promise.resolve(Float32Array.of(1, 10, 2, 20, 3, 30, 8, 80)) }],
  columns: new Map([
    ["item", ["x", "x", "x", "y"]],
    ["instrument", ["flute", "flute", "flute", null]],
  ]),
  clipColumn: "item",
};

describe("rows averaged by groups", () => {
  it("are the means of their groups, with the labels of each group's first row", async () => {
    const { rows, sites, columns, model } = averageRows(DATA, [[0, 2], [3]]);
    expect([rows, model]).toEqual([2, "model-1"]);
    expect(await sites[0]?.read()).toEqual(Float32Array.of(2, 20, 8, 80));
    expect(columns.get("item")).toEqual(["x", "y"]);
    expect(columns.get("instrument")).toEqual(["flute", null]);
  });
});
