import { Command } from "commander";

import { fetchCheckpoint, type FetchedCheckpoint } from "../checkpoint/hub/fetch.js";
import type { HubError } from "../errors.js";
import { listenForInterrupt } from "./interrupt.js";
import { jsonOption } from "./options.js";
import { bytes, duration, printResult, ProgressLine } from "./output.js";

interface Options {
  readonly revision?: string;
  readonly recheck?: boolean;
  readonly json?: boolean;
}

/** `tonearm fetch`: a model from the hub into the cache. */
export function fetchCommand(): Command {
  return new Command("fetch")
    .description("fetch a model from the hub, for use with -m owner/name")
    .argument("<model>", "owner/name, such as facebook/musicgen-small; @revision may follow")
    .option("--revision <name>", "a branch, tag or commit (default: main)")
    .option("--recheck", "compare the checksums of files that are there already, too")
    .addOption(jsonOption())
    .addHelpText(
      "after",
      "\nReads HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE, as Python's huggingface_hub does." +
        "\nInterrupted, it goes on where it stopped when run again.",
    )
    .action(run);
}

async function run(name: string, { revision, recheck, json }: Options): Promise<void> {
  const progress = new ProgressLine(json !== true);
  const interrupt = listenForInterrupt();
  try {
    const fetched = await fetchCheckpoint(name, {
      revision,
      recheck,
      signal: interrupt.signal,
      onProgress: ({ repository, bytes: done, totalBytes }) =>
        progress.update(`fetching ${repository}, MiB`, inMebibytes(done), inMebibytes(totalBytes)),
      onRetry: ({ found }: HubError, waitMs) => {
        progress.finish();
        if (json !== true) process.stderr.write(`${found}; trying again in ${duration(waitMs)}\n`);
      },
    });
    progress.finish();
    printResult(json === true, fetched, describe(fetched));
  } finally {
    progress.finish();
    interrupt.release();
  }
}

function inMebibytes(count: number): number {
  return Math.round(count / 2 ** 20);
}

function describe({ directory, commit, companions, ...fetched }: FetchedCheckpoint): string[] {
  const { repository } = fetched;
  if (commit === undefined) {
    return [`${repository} is in the cache (not asked for changes: HF_HUB_OFFLINE is set)`, directory];
  }
  const summary = ({
    repository: name,
    files,
    bytes: count,
    fetchedFiles,
  }: Omit<FetchedCheckpoint, "directory">): string =>
    `${name}: ${files.length} files, ${bytes(count)}; ${fetchedFiles === 0 ? "all there already" : `${fetchedFiles} fetched now`}`;
  return [
    summary({ ...fetched, commit, companions }),
    ...companions.map(summary),
    directory,
    `use it with -m ${repository}`,
  ];
}
