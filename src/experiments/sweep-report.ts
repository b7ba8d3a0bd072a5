import type { GenerationSettings } from "../musicgen.js";
import type { SteeringSpec } from "../steering/spec.js";
import { columnsOf, type SteeringSweepRow } from "./sweep.js";

/** A sweep as one HTML page: dose and response for each measure, and every clip to listen to. */

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [380, 200, 52, 28, 12];
const COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2"] as const;
const STYLE = `
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } svg { font: 11px system-ui, sans-serif; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { text-align: left; padding: 2px 10px 2px 0; border-bottom: 1px solid #e3e3e3; } audio { height: 24px; }
pre { font-size: 12px; background: #f6f6f6; padding: 1em; overflow: auto; }
`;

/** The page. It finds the clips beside itself and needs nothing else. */
export function sweepReport(
  settings: GenerationSettings,
  spec: SteeringSpec,
  rows: readonly SteeringSweepRow[],
): string {
  const names = Object.keys(rows[0] ? columnsOf(rows[0]) : {});
  return [
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Steering sweep</title>',
    `<style>${STYLE}</style></head><body>`,
    "<h1>Strength × layer</h1>",
    `<p>Text: ${escape(JSON.stringify(settings.text))}. Seed ${String(settings.seed)}, ${settings.frames} frames, one clip for each place: ` +
      "differences between neighbouring clips may be luck; the dashed lines are random directions of the same norm.</p>",
    `<p>Clean: <audio controls preload="none" src="clean.wav"></audio></p>`,
    `<div class="plots">${names.map((name) => plot(name, rows)).join("\n")}</div>`,
    table(names, rows),
    `<h2>Spec</h2><pre>${escape(JSON.stringify(spec, null, 2))}</pre></body></html>\n`,
  ].join("\n");
}

function plot(name: string, rows: readonly SteeringSweepRow[]): string {
  const points = rows.flatMap((row) => {
    const value = columnsOf(row)[name];
    return typeof value === "number" && Number.isFinite(value) ? [{ row, value }] : [];
  });
  if (points.length === 0) return "";
  const x = axis(
    points.map(({ row }) => row.strength),
    LEFT,
    WIDTH - 8,
  );
  const y = axis(
    points.map(({ value }) => value),
    HEIGHT - BOTTOM,
    TOP,
  );
  const layers = [...new Set(rows.map(({ layer }) => layer))];
  const lines = layers.flatMap((layer, index) =>
    (["concept", "random"] as const).map((direction) => {
      const own = points
        .filter(({ row }) => row.layer === layer && row.direction === direction)
        .toSorted((a, b) => a.row.strength - b.row.strength);
      const path = own.map(({ row, value }) => `${x.at(row.strength).toFixed(1)},${y.at(value).toFixed(1)}`).join(" ");
      const dashes = direction === "random" ? ' stroke-dasharray="4 3"' : "";
      const colour = COLOURS[index % COLOURS.length] ?? "#000";
      return `<polyline fill="none" stroke="${colour}"${dashes} points="${path}"><title>layer ${layer}, ${direction}</title></polyline>`;
    }),
  );
  const label = (value: number): string => Number(value.toPrecision(3)).toString();
  return [
    `<figure style="margin:0"><figcaption>${escape(name)}</figcaption><svg width="${WIDTH}" height="${HEIGHT}" role="img">`,
    `<text x="${LEFT - 4}" y="${HEIGHT - BOTTOM}" text-anchor="end">${label(y.low)}</text>`,
    `<text x="${LEFT - 4}" y="${TOP + 8}" text-anchor="end">${label(y.high)}</text>`,
    `<text x="${LEFT}" y="${HEIGHT - 8}">${label(x.low)}</text>`,
    `<text x="${WIDTH - 8}" y="${HEIGHT - 8}" text-anchor="end">strength ${label(x.high)}</text>`,
    ...lines,
    "</svg></figure>",
  ].join("");
}

/** A linear axis from the lowest to the highest of some values, on pixels. */
function axis(values: readonly number[], start: number, end: number) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const at = (value: number): number => start + ((end - start) * (value - low)) / (high - low || 1);
  return { low, high, at };
}

function table(names: readonly string[], rows: readonly SteeringSweepRow[]): string {
  const head = ["layer", "strength", "direction", ...names, "clip"].map((name) => `<th>${escape(name)}</th>`).join("");
  const body = rows.map((row) => {
    const numbers = Object.values(columnsOf(row)).map((value) => (value === null ? "–" : Number(value.toPrecision(3))));
    const cells = [row.layer, row.strength, row.direction, ...numbers].map((cell) => `<td>${cell}</td>`).join("");
    return `<tr>${cells}<td><audio controls preload="none" src="${escape(encodeURI(row.file))}"></audio></td></tr>`;
  });
  return `<table><tr>${head}</tr>\n${body.join("\n")}</table>`;
}

function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
