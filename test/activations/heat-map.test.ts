import { describe, expect, it } from "vitest";

import { heatMapHtml, heatMapSvg, type Table } from "../../src/activations/heat-map.js";

const TABLE: Table = {
  title: "a <title> & more",
  rowTitle: "layer",
  columnTitle: "position",
  rows: ["first", "second"],
  columns: ["0", "1", "2"],
  values: [
    [-1, 0, 2],
    [NaN, 1, -2],
  ],
};

/** The fill of each cell, in the order of the table. */
function fills(svg: string): string[] {
  return [...svg.matchAll(/<rect x=[^>]* fill="([^"]*)"/g)].map((match) => match[1] ?? "");
}

describe("a heat map", () => {
  it("draws one cell for each value: blue below 0, white at it, red above, grey for none", () => {
    expect(fills(heatMapSvg(TABLE))).toEqual([
      ...["rgb(144,179,214)", "rgb(255,255,255)", "rgb(178,24,43)"],
      ...["#ddd", "rgb(217,140,149)", "rgb(33,102,172)"],
    ]);
  });

  it("goes from white to blue where all values have one sign", () => {
    expect(fills(heatMapSvg({ ...TABLE, values: [[1, 2, 3]] }))).toEqual([
      "rgb(255,255,255)",
      "rgb(144,179,214)",
      "rgb(33,102,172)",
    ]);
  });

  it("puts the first row at the bottom, or on top where asked", () => {
    const rowsOf = (svg: string) => [...svg.matchAll(/<rect x="[^"]*" y="(\d+)"/g)].map((match) => Number(match[1]));
    const [first = 0, , , second = 0] = rowsOf(heatMapSvg(TABLE));
    expect(first).toBeGreaterThan(second);
    const [top = 0, , , below = 0] = rowsOf(heatMapSvg(TABLE, { firstRowOnTop: true }));
    expect(top).toBeLessThan(below);
  });

  it("says each value and the range, and escapes what it is given", () => {
    const svg = heatMapSvg(TABLE);
    expect(svg).toContain("<title>second, 2: -2</title>");
    expect(svg).toContain("from -2.000 to 2.000; white is 0");
    expect(svg).toContain("a &lt;title&gt; &amp; more");
    expect(svg).not.toContain("<title> &");
  });

  it("makes a page that loads nothing", () => {
    const html = heatMapHtml("two", [TABLE, TABLE]);
    expect(html.match(/<svg /g)).toHaveLength(2);
    expect(html.replaceAll("http://www.w3.org/2000/svg", "")).not.toMatch(/https?:|src=|href=/);
  });

  it("draws an empty table", () => {
    expect(heatMapSvg({ ...TABLE, rows: [], columns: [], values: [] })).toContain("no values");
  });
});
