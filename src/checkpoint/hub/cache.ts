import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

import { HubError } from "../../errors.js";
import { chooseSettings, chooseWeights, readShards } from "./files.js";
import { isCommit, isRepositoryName, parseRepository, repositoryFolder, type Repository } from "./repository.js";
import { hubSettings, type HubSettings } from "./settings.js";

/**
 * The cache that Python's huggingface_hub uses, seen without the network: `models--owner--name/refs/main` holds a commit,
 * `snapshots/<commit>/` its files as links to `blobs/<checksum>`. What either program fetched serves the other.
 *
 * Looking something up takes a few calls to the file system, so it does not wait for them.
 */

/**
 * The directory of a model in the cache.
 *
 * @returns undefined if it is not there at that revision, or not with all files of a checkpoint
 */
export function cachedSnapshot(repository: Repository, settings: HubSettings = hubSettings()): string | undefined {
  const directory = snapshotOf(repository, settings);
  return directory !== undefined && missingFiles(directory).length === 0 ? directory : undefined;
}

/**
 * The directory of a checkpoint: a directory as it is; a model's name, `owner/name` or `owner/name@revision`, from the
 * cache.
 *
 * @throws {HubError} with reason "not-cached", if there is neither; nothing is fetched.
 */
export function locateModel(given: string, settings: HubSettings = hubSettings()): string {
  if (existsSync(given) || !isRepositoryName(given)) return given; // opening it says what is wrong
  const repository = parseRepository(given);
  const directory = snapshotOf(repository, settings);
  const missing = directory === undefined ? [] : missingFiles(directory);
  if (directory !== undefined && missing.length === 0) return directory;
  throw new HubError(
    {
      asked: `use the model ${given}`,
      found:
        directory === undefined
          ? `no directory of that name, and no such model in ${settings.cache}`
          : `only a part of it in ${directory}: no ${missing.join(", ")}`,
      todo: `Run \`tonearm fetch ${given}\` first`,
    },
    "not-cached",
  );
}

function snapshotOf(repository: Repository, settings: HubSettings): string | undefined {
  const folder = repositoryFolder(settings, repository);
  const commit = isCommit(repository.revision)
    ? repository.revision
    : readText(join(folder, "refs", ...repository.revision.split("/")));
  if (commit === undefined || !isCommit(commit)) return undefined;
  const directory = join(folder, "snapshots", commit);
  return statSync(directory, { throwIfNoEntry: false })?.isDirectory() === true ? directory : undefined;
}

/** Names of files that a checkpoint needs and a directory lacks; a link to nothing counts as lacking. */
function missingFiles(directory: string): readonly string[] {
  const present = readdirSync(directory).filter((name) => existsSync(join(directory, name)));
  const weights = chooseWeights(present);
  if (!weights) return ["weights"];
  const shards = weights.index === undefined ? [] : readShards(join(directory, weights.index));
  if (!shards) return [`usable ${weights.index}`];
  const needed = [...weights.files, ...shards, ...chooseSettings(present, weights)];
  return needed.filter((name) => !present.includes(name));
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}
