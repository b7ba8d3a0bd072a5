import { basename, extname } from "node:path";

import { Command, Option } from "commander";

import { captureActivations, type CaptureSummary } from "../activations/capture.js";
import type { CaptureItem } from "../activations/capture-item.js";
import type { CaptureEstimate, CaptureReduction } from "../activations/capture-plan.js";
import { joinInterventions } from "../activations/intervention.js";
import { readCodesFile, readManifest } from "../activations/manifest.js";
import { UsageError } from "../errors.js";
import { MusicGen } from "../musicgen.js";
import type { Precision } from "../runtime/linear.js";
import { readSteering } from "../steering/files.js";
import { steer } from "../steering/steering.js";
import { listenForInterrupt } from "./interrupt.js";
import { backendOption, computeOption, jsonOption, modelDirectory, modelOption, parseNumber } from "./options.js";
import { bytes, duration, printResult, ProgressLine } from "./output.js";

interface Options {
  readonly output: string;
  readonly sites: readonly string[];
  readonly text?: string;
  readonly codes?: string;
  readonly data?: string;
  readonly model?: string;
  readonly backend?: string;
  readonly compute?: Precision;
  readonly mode: "forced" | "generated";
  readonly rows?: "cond" | "null" | "both";
  readonly reduce?: "none" | "mean" | "last" | "variance" | "covariance";
  readonly by?: string;
  readonly window?: number;
  readonly hop?: number;
  readonly seconds?: number;
  readonly guidance?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly greedy?: boolean;
  readonly seed?: number;
  readonly dtype: "f32" | "f16";
  readonly steer?: readonly string[];
  readonly shard?: { readonly index: number; readonly of: number };
  readonly budget?: number;
  readonly json?: boolean;
}

/** `tonearm capture`: activations of clips to disk. */
export function captureCommand(): Command {
  return new Command("capture")
    .description("store activations of clips as safetensors, for probes and for Python")
    .requiredOption(
      "--sites <glob...>",
      'which activations, for example "blocks.*.hook_resid_post" (`*` stops at dots)',
    )
    .requiredOption("-o, --output <folder>", "where they go; one with the beginning of this capture is gone on with")
    .option("--data <manifest.jsonl>", "clips, one JSON object a line: id, text, audio or codes, and label columns")
    .option("--text <text>", "instead of --data: what the model is told")
    .option("--codes <file.safetensors>", "instead of --data: the codes to run, as `tonearm encode` writes them")
    .addOption(
      new Option("--mode <mode>", "run given codes or sounds, or generate and keep the decode steps")
        .choices(["forced", "generated"])
        .default("forced"),
    )
    .addOption(
      new Option("--rows <rows>", "rows with the text, without or both (default: cond, or null without texts)").choices(
        ["cond", "null", "both"],
      ),
    )
    .addOption(
      new Option(
        "--reduce <how>",
        "what becomes of a clip's positions: every one, their mean, the last complete one, or sums over all clips from " +
          "which mean and variance or covariance follow (default: none)",
      ).choices(["none", "mean", "last", "variance", "covariance"]),
    )
    .option("--by <column>", "with --reduce variance or covariance: sums for each value of a label column")
    .option("--window <s>", "instead of --reduce: one mean for each window of so many seconds", parseNumber("--window"))
    .option("--hop <s>", "from one window's start to the next's (default: the window)", parseNumber("--hop"))
    .option("--seconds <s>", "length of a generated clip, its prompt included (default: 10)", parseNumber("--seconds"))
    .option("--guidance <g>", "of generated clips (default: 3)", parseNumber("--guidance"))
    .option("--temperature <t>", "of generated clips (default: 1)", parseNumber("--temperature"))
    .option("--top-k <k>", "of generated clips (default: 250)", parseNumber("--top-k"))
    .option("--top-p <p>", "of generated clips (default: 1)", parseNumber("--top-p"))
    .option("--greedy", "generate with the most likely tokens")
    .option("--seed <n>", "from which each generated clip's own seed follows (default: 0)", parseNumber("--seed"))
    .option("--steer <spec.json...>", "capture while steered as these specs say (`tonearm steer-spec` makes one)")
    .addOption(new Option("--dtype <type>", "how values are stored").choices(["f32", "f16"]).default("f32"))
    .option("--shard <i/n>", "every n-th clip only, from clip i on; i counts from 0", parseShard)
    .option("--budget <size>", "refuse what takes more on disk, for example 500MB or 20GB (default: 4GiB)", parseSize)
    .addOption(modelOption())
    .addOption(backendOption())
    .addOption(computeOption())
    .addOption(jsonOption())
    .action(run);
}

async function run(options: Options): Promise<void> {
  const started = performance.now();
  const reduction = chooseReduction(options);
  const items = await chooseItems(options);
  const specs = await Promise.all((options.steer ?? []).map(readSteering));
  const model = await MusicGen.load(modelDirectory(options.model), {
    backend: options.backend,
    compute: options.compute,
  });
  const progress = new ProgressLine(options.json !== true);
  const interrupt = listenForInterrupt();
  try {
    const steering = specs.map(({ spec, vectors }) => steer(model, spec, vectors));
    const summary = await captureActivations(model, {
      ...options,
      items,
      reduction,
      steering: steering.length > 0 ? joinInterventions(steering) : undefined,
      signal: interrupt.signal,
      onPlan: (estimate) => {
        if (options.json !== true) process.stderr.write(`${describe(estimate)}\n`);
      },
      onProgress: ({ done, total }) => progress.update("positions", done, total),
    });
    progress.finish();
    report(summary, model, performance.now() - started, options.json === true);
  } finally {
    interrupt.release();
    progress.finish();
    await model.dispose();
  }
}

function describe({ clips, sites, rows, bytes: size }: CaptureEstimate): string {
  return `${counted(clips, "clip")}, ${counted(sites, "site")}, ${counted(rows, "row")} each: ${bytes(size)} on disk`;
}

function report(summary: CaptureSummary, model: MusicGen, elapsed: number, json: boolean): void {
  const { directory, complete, items, resumed, rows, estimate } = summary;
  const earlier = resumed > 0 ? `, ${resumed} of them from an earlier run` : "";
  const lines = [
    `${complete ? "wrote" : "interrupted:"} ${directory}: ${items} of ${counted(estimate.clips, "clip")}${earlier}, ` +
      `${counted(rows, "row")} of ${counted(estimate.sites, "site")}, in ${duration(elapsed)} on ${model.backend}`,
  ];
  if (!complete) lines.push("run the same command again to go on");
  const result = { directory, complete, items, resumed, rows, estimate, backend: model.backend };
  printResult(json, { ...result, model: model.fingerprint, elapsedMs: Math.round(elapsed) }, lines);
  if (!complete) process.exitCode = 130;
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

function chooseReduction({ reduce, window, hop, by }: Options): CaptureReduction {
  const refuse = (asked: string, found: string, todo: string): never => {
    throw new UsageError({ asked, found, todo });
  };
  const sums = reduce === "variance" || reduce === "covariance";
  if (window !== undefined && reduce !== undefined) {
    refuse(`--window and --reduce ${reduce}`, "two ways to reduce", "Give one of them");
  }
  if (hop !== undefined && window === undefined) refuse("--hop", "no window", "Give --window as well");
  if (by !== undefined && !sums)
    refuse(`--by ${by}`, "nothing that is summed up", "Give --reduce variance or covariance");
  if (window !== undefined) return { window, hop };
  if (sums) return { moments: reduce, by };
  return reduce ?? "none";
}

/** The clips: those of a manifest, those of a codes file, or one that is generated from a text. */
async function chooseItems({ data, text, codes, mode }: Options): Promise<readonly CaptureItem[]> {
  if (data !== undefined) {
    if (text === undefined && codes === undefined) return readManifest(data);
    throw new UsageError({
      asked: `--data together with ${text === undefined ? "--codes" : "--text"}`,
      found: "two sources of clips",
      todo: "Put texts and codes into the manifest, or leave --data out",
    });
  }
  if (codes !== undefined) {
    const clips = await readCodesFile(codes);
    const name = basename(codes, extname(codes));
    return clips.map((clip, index) => ({
      id: clips.length === 1 ? name : `${name}-${index}`,
      text: text ?? null,
      codes: clip,
      source: clips.length === 1 ? codes : `${codes}[${index}]`,
    }));
  }
  if (text !== undefined && mode === "generated") return [{ id: "text", text }];
  throw new UsageError({
    asked: text === undefined ? "capture activations" : `capture "${text}" teacher-forced`,
    found: text === undefined ? "no clips" : "no codes to run",
    todo: "Give --data MANIFEST.jsonl, --codes FILE (with or without --text), or --text with --mode generated",
  });
}

/** "2/8" */
function parseShard(text: string): { readonly index: number; readonly of: number } {
  const match = /^(\d+)\/(\d+)$/.exec(text);
  if (match) return { index: Number(match[1]), of: Number(match[2]) };
  throw new UsageError({ asked: `--shard ${text}`, found: "no i/n", todo: "Give it as 0/4, 1/4, 2/4 or 3/4" });
}

const POWERS = ["", "k", "m", "g", "t"];

/** "500MB", "2 GiB" or a number of bytes. */
function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?$/i.exec(text.trim());
  const [, number = "", prefix = "", binary = ""] = match ?? [];
  if (match) return Number(number) * (binary === "" ? 1000 : 1024) ** POWERS.indexOf(prefix.toLowerCase());
  throw new UsageError({ asked: `--budget ${text}`, found: "no size", todo: "Give it as 500MB, 20GB or 4GiB" });
}
