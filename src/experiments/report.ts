import { interval, LUCK, nameOf, verdict, type ProbeSummary, type UnitSummary } from "../probes/summary.js";

/** Reports as one HTML file that needs nothing else: inline SVG, no scripts, readable offline and in print. */

/**
 * The page of one or more probe results: what was found in sentences, scores by layer with their intervals, a map of layers
 * and heads, and a table of all units.
 */
export function probeReport(summaries: readonly ProbeSummary[]): string {
  const title = summaries.map(({ label, estimator }) => `${label} (${estimator})`).join(", ");
  return [
    "<!doctype html>",
    `<html lang="en"><head><meta charset="utf-8"><title>Probes: ${escape(title)}</title><style>${STYLE}</style></head><body>`,
    "<h1>Where the model knows it</h1>",
    ...summaries.map(section),
    "</body></html>\n",
  ].join("\n");
}

const STYLE = `
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
svg { display: block; max-width: 100%; height: auto; font: 11px system-ui, sans-serif; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { text-align: left; padding: 2px 12px 2px 0; border-bottom: 1px solid #e3e3e3; }
.dim { color: #777; } .axis { stroke: #999; } .chance { stroke: #999; stroke-dasharray: 4 3; }
`;

function section(summary: ProbeSummary): string {
  const { label, estimator, concepts, units, scoring, model, tonearm, settings, seed } = summary;
  const whole = units.filter(({ head }) => head === null);
  const heads = units.filter(({ head }) => head !== null);
  const details = Object.entries(settings).map(([key, value]) => `${key} ${value}`);
  return [
    `<h2>${escape(label)}: ${escape(concepts.join(", "))}, by ${escape(estimator)}</h2>`,
    ...verdict(summary).map((line) => `<p>${escape(line)}</p>`),
    whole.length > 0 ? `<h3>${escape(scoring)} by layer</h3>${linePlot(summary, whole)}` : "",
    ...kindsOf(heads).map(
      ([kind, own]) => `<h3>${escape(scoring)} by layer and head, ${escape(kind)}</h3>${heatMap(summary, own)}`,
    ),
    `<h3>All units</h3>${table(summary)}`,
    `<p class="dim">Intervals of 95 %, by resampling groups. Of units that know nothing, ${100 * LUCK} % lie above chance by luck. ` +
      `Model ${escape(model.slice(0, 12))}, seed ${seed}, ${escape(details.join(", "))}, tonearm ${escape(tonearm)}.</p>`,
  ].join("\n");
}

/** "blocks.3.attn.hook_z" → "attn.hook_z" */
function kindOf(site: string): string {
  return site.replace(/^(text\.)?blocks\.\d+\./, "$1");
}

function kindsOf(units: readonly UnitSummary[]): readonly (readonly [string, readonly UnitSummary[]])[] {
  const kinds = new Map<string, UnitSummary[]>();
  for (const unit of units) kinds.set(kindOf(unit.site), [...(kinds.get(kindOf(unit.site)) ?? []), unit]);
  return [...kinds];
}

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [760, 300, 48, 36, 26];
const COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2"] as const;

/** Score by layer, a line for each kind of site, with intervals, the shuffled control and chance. */
function linePlot({ chance, target }: ProbeSummary, units: readonly UnitSummary[]): string {
  const layers = units.map(({ layer }) => layer ?? 0);
  const last = Math.max(...layers, 1);
  const lows = units.flatMap(({ score, control }) => [score.low, control?.value ?? score.low]);
  const bottom = Math.min(chance, ...lows, target === "value" ? 0 : 1) - 0.02;
  const top = Math.max(chance, ...units.map(({ score }) => score.high)) + 0.02;
  const x = (layer: number): number => LEFT + 12 + (layer / last) * (WIDTH - LEFT - 30);
  const y = (value: number): number => TOP + ((top - value) / (top - bottom)) * (HEIGHT - TOP - BOTTOM);
  const ticks = ticksBetween(bottom, top).map(
    (value) =>
      `<line class="axis" x1="${LEFT - 4}" x2="${LEFT}" y1="${round(y(value))}" y2="${round(y(value))}"/>` +
      `<text x="${LEFT - 7}" y="${round(y(value) + 4)}" text-anchor="end">${Math.round(100 * value)} %</text>`,
  );
  const step = Math.ceil((last + 1) / 24);
  const names = Array.from({ length: last + 1 }, (_, layer) => layer)
    .filter((layer) => layer % step === 0)
    .map((layer) => `<text x="${round(x(layer))}" y="${HEIGHT - BOTTOM + 16}" text-anchor="middle">${layer}</text>`);
  const lines = kindsOf(units).map(([kind, own], index) => {
    const colour = COLOURS[index % COLOURS.length] ?? COLOURS[0];
    const sorted = own.toSorted((a, b) => (a.layer ?? 0) - (b.layer ?? 0));
    const path = (value: (unit: UnitSummary) => number): string =>
      sorted.map((unit) => `${round(x(unit.layer ?? 0))},${round(y(value(unit)))}`).join(" ");
    const bars = sorted.map(
      (unit) =>
        `<line stroke="${colour}" stroke-opacity=".4" x1="${round(x(unit.layer ?? 0))}" x2="${round(x(unit.layer ?? 0))}" ` +
        `y1="${round(y(unit.score.low))}" y2="${round(y(unit.score.high))}"/>` +
        `<circle fill="${colour}" r="3" cx="${round(x(unit.layer ?? 0))}" cy="${round(y(unit.score.value))}">` +
        `<title>${escape(`${nameOf(unit)}: ${interval(unit.score)}`)}</title></circle>`,
    );
    const control = sorted.every((unit) => unit.control)
      ? `<polyline fill="none" stroke="${colour}" stroke-dasharray="2 3" stroke-opacity=".6" points="${path((unit) => unit.control?.value ?? 0)}"/>`
      : "";
    return (
      `<polyline fill="none" stroke="${colour}" points="${path((unit) => unit.score.value)}"/>${control}${bars.join("")}` +
      `<text x="${LEFT + 12 + 150 * index}" y="14" fill="${colour}">${escape(kind)}</text>`
    );
  });
  return (
    `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="score by layer">` +
    `<line class="axis" x1="${LEFT}" x2="${LEFT}" y1="${TOP}" y2="${HEIGHT - BOTTOM}"/>` +
    `<line class="axis" x1="${LEFT}" x2="${WIDTH}" y1="${HEIGHT - BOTTOM}" y2="${HEIGHT - BOTTOM}"/>` +
    `<line class="chance" x1="${LEFT}" x2="${WIDTH}" y1="${round(y(chance))}" y2="${round(y(chance))}"/>` +
    `<text x="${WIDTH - 4}" y="${round(y(chance) - 4)}" text-anchor="end" class="dim">chance</text>` +
    `${ticks.join("")}${names.join("")}${lines.join("")}` +
    `<text x="${WIDTH / 2}" y="${HEIGHT - 4}" text-anchor="middle">layer (dotted: shuffled labels)</text></svg>`
  );
}

/** Layers across, heads down; darker is better. A cell that isn't above chance stays white. */
function heatMap({ chance }: ProbeSummary, units: readonly UnitSummary[]): string {
  const layers = [...new Set(units.map(({ layer }) => layer ?? 0))].toSorted((a, b) => a - b);
  const heads = Math.max(...units.map(({ head }) => head ?? 0)) + 1;
  const top = Math.max(chance + 0.01, ...units.map(({ score }) => score.value));
  const size = Math.max(9, Math.min(26, Math.floor((WIDTH - LEFT) / layers.length)));
  const cells = units.map((unit) => {
    const [column, row] = [layers.indexOf(unit.layer ?? 0), unit.head ?? 0];
    const share = unit.aboveChance ? Math.max(0, (unit.score.value - chance) / (top - chance)) : 0;
    return (
      `<rect x="${LEFT + column * size}" y="${TOP + row * size}" width="${size - 1}" height="${size - 1}" fill="#08519c" ` +
      `fill-opacity="${share.toFixed(2)}" stroke="#ddd"><title>${escape(`${nameOf(unit)}: ${interval(unit.score)}`)}</title></rect>`
    );
  });
  const columnStep = Math.ceil(layers.length / 24);
  const columns = layers.map((layer, column) =>
    column % columnStep === 0
      ? `<text x="${LEFT + (column + 0.5) * size}" y="${TOP - 6}" text-anchor="middle">${layer}</text>`
      : "",
  );
  const rows = Array.from({ length: heads }, (_, head) =>
    size >= 11 || head % 4 === 0
      ? `<text x="${LEFT - 6}" y="${TOP + (head + 0.5) * size + 4}" text-anchor="end">${head}</text>`
      : "",
  );
  const [width, height] = [LEFT + layers.length * size + 4, TOP + heads * size + 24];
  return (
    `<svg viewBox="0 0 ${Math.max(width, 420)} ${height}" width="${Math.max(width, 420)}" role="img" aria-label="score by layer and head">` +
    `${columns.join("")}${rows.join("")}${cells.join("")}` +
    `<text x="${LEFT}" y="${height - 6}" class="dim">layers across, heads down; white: no better than chance; darkest: ${Math.round(100 * top)} %</text></svg>`
  );
}

const MAX_LISTED = 40;

function table({ units, scoring }: ProbeSummary): string {
  const sorted = units.toSorted((a, b) => b.score.value - a.score.value);
  const rows = sorted.slice(0, MAX_LISTED).map((unit) => {
    const { measures } = unit;
    const more =
      measures.kind === "classes" ? `${interval(measures.accuracy)}</td><td>${interval(measures.auc)}` : "</td><td>";
    return (
      `<tr><td>${escape(nameOf(unit))}</td><td>${interval(unit.score)}</td><td>${more}</td>` +
      `<td>${unit.control ? interval(unit.control) : ""}</td><td>${unit.aboveChance ? "" : "no better than chance"}</td></tr>`
    );
  });
  const rest = sorted.length - rows.length;
  return (
    `<table><thead><tr><th>unit</th><th>${escape(scoring)}</th><th>accuracy</th><th>AUC</th><th>shuffled labels</th><th></th></tr></thead>` +
    `<tbody>${rows.join("\n")}</tbody></table>${rest > 0 ? `<p class="dim">and ${rest} more units with lower scores</p>` : ""}`
  );
}

function ticksBetween(low: number, high: number): readonly number[] {
  const step = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((size) => (high - low) / size <= 8) ?? 10;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, index) => (first + index) * step);
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.codePointAt(0) ?? 0};`);
}
