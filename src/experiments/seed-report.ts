import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { heatMapSvg, type Table } from "../activations/heat-map.js";
import type { Interval } from "../probes/metrics.js";
import type { Share } from "./intervals.js";
import { showMean, showShare } from "./quality.js";
import { COMPARED } from "./seed-directions.js";
import { findings, summarizeConditions, summarizeOutcomes, type ConditionSummary } from "./seed-findings.js";
import { EVERY_PAIR } from "./seed-matrix.js";
import { pairName, placeName } from "./seed-steering.js";
import type { SeedResult, TaskResult } from "./seed.js";

/** The experiment as files for people: results.json, table.csv and report.html, which has its plots and sounds inside. */

const STYLE = `
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; } svg { display: block; max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { text-align: left; padding: 2px 12px 2px 0; border-bottom: 1px solid #e3e3e3; } audio { height: 28px; width: 15rem; }
.dim { color: #666; }
`;

/** Writes results, table and report into the experiment's folder. @returns the names of the files */
export async function writeSeedReport(folder: string, result: SeedResult): Promise<readonly string[]> {
  const files = {
    "results.json": `${JSON.stringify({ ...result, conditions: conditionsOf(result), findings: findings(result) }, null, 2)}\n`,
    "table.csv": csv(result),
    "report.html": await html(folder, result),
  };
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  return Object.keys(files);
}

function conditionsOf({ tasks }: SeedResult): Readonly<Record<string, readonly ConditionSummary[]>> {
  return Object.fromEntries(tasks.map((task) => [task.task, summarizeConditions(task)]));
}

function csv({ tasks }: SeedResult): string {
  const head = "task,pair,condition,clips,success,low,high,with melody,low,high,chroma,KL,faulty";
  const lines = tasks.flatMap((task) => {
    const row = (
      pair: string,
      { condition, success, withMelody, content, divergence, faulty }: ConditionSummary,
    ): string => {
      const numbers = [
        success.trials,
        ...bounds(success),
        ...bounds(withMelody),
        content?.value,
        divergence?.value,
        faulty.hits,
      ];
      return [task.task, pair, condition.replaceAll(",", ""), ...numbers.map((value) => value ?? "")].join(",");
    };
    return [
      ...summarizeConditions(task).map((summary) => row("all", summary)),
      ...[...task.pairs, ...task.matrix].map(({ pair, condition, outcomes }) =>
        row(
          pairName(pair),
          summarizeOutcomes(
            condition,
            outcomes.map((outcome) => ({ ...outcome, wanted: pair.to })),
          ),
        ),
      ),
    ];
  });
  return `${[head, ...lines].join("\n")}\n`;
}

function bounds({ value, low, high }: Interval): readonly number[] {
  return [value, low, high];
}

async function html(folder: string, result: SeedResult): Promise<string> {
  const sections: string[] = [];
  for (const task of result.tasks) sections.push(...(await taskSection(folder, task)));
  return [
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Steering, measured</title>',
    `<style>${STYLE}</style></head><body><h1>Steering, measured by an independent judge</h1>`,
    `<p>Directions and prompts from ${escape(result.material)}. Model ${escape(result.model.slice(0, 12))}. ` +
      `${result.settings.clips} clips of each pair and condition, ${result.settings.seconds} s each after ${result.settings.promptSeconds} s of prompt. ` +
      "Intervals of 95 %: Wilson's for shares, bootstrap for means; clips count as independent.</p>",
    `<h2>Findings</h2><ul>${findings(result)
      .map((line) => `<li>${escape(line)}</li>`)
      .join("\n")}</ul>`,
    ...sections,
    `<h2>Settings</h2><pre>${escape(JSON.stringify(result.settings, null, 2))}</pre></body></html>\n`,
  ].join("\n");
}

async function taskSection(folder: string, task: TaskResult): Promise<readonly string[]> {
  const summaries = summarizeConditions(task);
  const parts = [`<h2>${task.task}</h2>`];
  if (task.probes) parts.push(...probeTables(task).map((table) => heatMapSvg(table)));
  if (task.candidates.length > 0) parts.push(heatMapSvg(candidateTable(task)));
  if (task.matrix.length > 0) parts.push(...matrixTables(task).map((table) => heatMapSvg(table)));
  if (summaries.length > 0) {
    parts.push(doseSvg(task.task, summaries), conditionTable(summaries), "<h3>Pairs</h3>", pairTable(task));
    parts.push("<h3>To listen to</h3>", await clipTable(folder, task));
  }
  return parts;
}

/** Accuracy by layer of each estimator, and by layer and head of one. */
function probeTables({ task, probes }: TaskResult): readonly Table[] {
  if (!probes) return [];
  const layers = [...new Set(probes.means.units.map(({ layer }) => layer ?? 0))].toSorted((a, b) => a - b);
  const heads = [...new Set(probes.means.units.flatMap(({ head }) => (head === null ? [] : [head])))];
  const score = (name: (typeof COMPARED)[number], layer: number, head: number | null, control = false): number => {
    const unit = probes[name].units.find((one) => one.layer === layer && one.head === head);
    return (control ? unit?.control?.value : unit?.score.value) ?? NaN;
  };
  const columns = layers.map(String);
  const scoring = probes.means.scoring;
  return [
    {
      title: `${task}: ${scoring} at the residual stream, held out; chance ${probes.means.chance.toFixed(3)}`,
      rowTitle: "estimator",
      columnTitle: "layer",
      rows: COMPARED.flatMap((name) => [`${name}, shuffled labels`, name]),
      columns,
      values: COMPARED.flatMap((name) =>
        [true, false].map((control) => layers.map((layer) => score(name, layer, null, control))),
      ),
    },
    {
      title: `${task}: ${scoring} of each head (logistic), held out`,
      rowTitle: "head",
      columnTitle: "layer",
      rows: heads.map(String),
      columns,
      values: heads.map((head) => layers.map((layer) => score("logistic", layer, head))),
    },
  ];
}

function candidateTable({ task, candidates, choice }: TaskResult): Table {
  const places = [...new Set(candidates.map(placeName))];
  const strengths = [...new Set(candidates.map(({ strength }) => strength))];
  const name = (place: string): string => place.replace("layer-", "");
  return {
    title: `${task}: share of clips turned, where layer and strength were chosen (${choice ? name(placeName(choice)) : ""}, ${choice?.strength ?? ""})`,
    rowTitle: "strength",
    columnTitle: "layer",
    rows: strengths.map(String),
    columns: places.map(name),
    values: strengths.map((strength) =>
      places.map(
        (place) => candidates.find((one) => placeName(one) === place && one.strength === strength)?.success ?? NaN,
      ),
    ),
  };
}

/** Every class to every other: the share that is heard as wanted, and of all clips that which keeps its melody as well. */
function matrixTables({ task, matrix }: TaskResult): readonly Table[] {
  const cells = matrix.filter(({ condition }) => condition === EVERY_PAIR.steered);
  const sources = [...new Set(cells.map(({ pair }) => pair.from))];
  const targets = [...new Set(cells.map(({ pair }) => pair.to))];
  const table = (title: string, measure: "success" | "withMelody"): Table => ({
    title: `${task}: share of clips steered from row to column ${title}`,
    rowTitle: "from",
    columnTitle: "to",
    rows: sources,
    columns: targets,
    values: sources.map((from) =>
      targets.map((to) => {
        const [summary] = summarizeConditions({
          pairs: cells.filter(({ pair }) => pair.from === from && pair.to === to),
        });
        return summary?.[measure].value ?? NaN;
      }),
    ),
  });
  return [table("that are heard as wanted", "success"), table("with the melody kept", "withMelody")];
}

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [620, 260, 48, 34, 24];

/** Success against strength: the direction and a random one, with intervals, and what text alone and nothing do. */
function doseSvg(task: string, summaries: readonly ConditionSummary[]): string {
  const lines = [
    { prefix: "steered ", colour: "#1f77b4" },
    { prefix: "random direction ", colour: "#888" },
  ].map(({ prefix, colour }) => ({
    colour,
    points: summaries.flatMap(({ condition, success }) =>
      condition.startsWith(prefix) ? [{ strength: Number(condition.slice(prefix.length)), success }] : [],
    ),
  }));
  const most = Math.max(...lines.flatMap(({ points }) => points.map(({ strength }) => strength)), 0.1);
  const x = (strength: number): string => (LEFT + (strength / most) * (WIDTH - LEFT - 130)).toFixed(1);
  const y = (share: number): string => (TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)).toFixed(1);
  const drawn = lines.map(({ colour, points }) => {
    const path = points.map(({ strength, success }) => `${x(strength)},${y(success.value)}`).join(" ");
    const bars = points.map(
      ({ strength, success }) =>
        `<line x1="${x(strength)}" x2="${x(strength)}" y1="${y(success.low)}" y2="${y(success.high)}" stroke="${colour}"><title>${escape(showShare(success))}</title></line>`,
    );
    return `<polyline fill="none" stroke="${colour}" stroke-width="2" points="${path}"/>${bars.join("")}`;
  });
  const levels = ["text", "text and steered", "text of the change", "left alone"].flatMap((name) => {
    const found = summaries.find(({ condition }) => condition === name);
    if (!found) return [];
    const at = y(found.success.value);
    return [
      `<line x1="${LEFT}" x2="${WIDTH - 128}" y1="${at}" y2="${at}" stroke="#d62728" stroke-dasharray="4 3"/>` +
        `<text x="${WIDTH - 124}" y="${at}">${name}</text>`,
    ];
  });
  const ticks = [0, 0.5, 1].map(
    (share) => `<text x="${LEFT - 6}" y="${y(share)}" text-anchor="end">${100 * share} %</text>`,
  );
  const names = lines[0]?.points.map(
    ({ strength }) => `<text x="${x(strength)}" y="${HEIGHT - 14}" text-anchor="middle">${strength}</text>`,
  );
  return (
    `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" font-family="sans-serif" font-size="11" role="img">` +
    `<text x="8" y="14" font-weight="bold">${task}: clips heard as wanted against strength; grey: random direction of the same norm</text>` +
    `${ticks.join("")}${names?.join("") ?? ""}${levels.join("")}${drawn.join("")}</svg>`
  );
}

function conditionTable(summaries: readonly ConditionSummary[]): string {
  const rows = summaries.map(({ condition, success, withMelody, content, divergence, normRatio, faulty }) =>
    cells([
      condition,
      showShare(success),
      showShare(withMelody),
      showMean(content),
      showMean(divergence),
      showMean(normRatio),
      `${faulty.hits}`,
    ]),
  );
  const head = ["condition", "heard as wanted", "and melody kept", "chroma", "KL", "norm", "faulty"];
  return `<table><tr>${head.map((name) => `<th>${name}</th>`).join("")}</tr>${rows.join("\n")}</table>`;
}

/** The main conditions of each pair. */
function pairTable({ pairs, choice }: TaskResult): string {
  const shown = [
    "left alone",
    "text",
    `steered ${choice?.strength ?? ""}`,
    `random direction ${choice?.strength ?? ""}`,
    "text and steered",
  ];
  const names = [...new Set(pairs.map(({ pair }) => pairName(pair)))];
  const share = (name: string, condition: string): Share | undefined => {
    const found = pairs.find((one) => pairName(one.pair) === name && one.condition === condition);
    return (
      found &&
      summarizeOutcomes(
        condition,
        found.outcomes.map((outcome) => ({ ...outcome, wanted: found.pair.to })),
      ).success
    );
  };
  const rows = names.map((name) =>
    cells([
      name.replaceAll("-", " "),
      ...shown.map((condition) => {
        const found = share(name, condition);
        return found ? showShare(found) : "–";
      }),
    ]),
  );
  return `<table><tr><th>pair</th>${shown.map((name) => `<th>${escape(name)}</th>`).join("")}</tr>${rows.join("\n")}</table>`;
}

const MOST_PAIRS = 4; // whose sounds are put into the page

async function clipTable(folder: string, { pairs, choice }: TaskResult): Promise<string> {
  const shown = [
    "left alone",
    "text",
    `steered ${choice?.strength ?? ""}`,
    `random direction ${choice?.strength ?? ""}`,
  ];
  const names = [...new Set(pairs.map(({ pair }) => pairName(pair)))].slice(0, MOST_PAIRS);
  const rows: string[] = [];
  for (const name of names) {
    const players: string[] = [];
    for (const condition of shown) {
      const file = pairs.find((one) => pairName(one.pair) === name && one.condition === condition)?.outcomes[0]?.file;
      const bytes = typeof file === "string" ? await readFile(join(folder, file)).catch(() => undefined) : undefined;
      players.push(
        bytes ? `<audio controls preload="none" src="data:audio/wav;base64,${bytes.toString("base64")}"></audio>` : "–",
      );
    }
    rows.push(
      `<tr><td>${escape(name.replaceAll("-", " "))}</td>${players.map((player) => `<td>${player}</td>`).join("")}</tr>`,
    );
  }
  return `<table><tr><th>pair</th>${shown.map((name) => `<th>${escape(name)}</th>`).join("")}</tr>${rows.join("\n")}</table>`;
}

function cells(values: readonly string[]): string {
  return `<tr>${values.map((value) => `<td>${escape(value)}</td>`).join("")}</tr>`;
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.codePointAt(0) ?? 0};`);
}
