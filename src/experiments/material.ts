import { join } from "node:path";

import { load } from "../activations/capture-item.js";
import { readManifest } from "../activations/manifest.js";
import type { Audio } from "../audio/audio.js";
import { UsageError } from "../errors.js";
import { CONCEPTS } from "./concepts.js";
import type { JudgeTask } from "./judge.js";

/** Labelled sound of one's own: a folder of WAV files with a manifest. */

/** One clip. */
export interface LabelledClip {
  readonly id: string;
  /** The class of each task that it is an example of: an instrument alone, or a band's genre. */
  readonly classes: Readonly<Partial<Record<JudgeTask, string>>>;
  /** Clips with the same name play the same piece: they are never on both sides of a split. */
  readonly piece: string;
  /** Which side of the split it is on; without it, pieces are dealt out. */
  readonly split: "fit" | "test" | undefined;
  readonly read: () => Promise<Audio>;
}

/**
 * Reads `manifest.jsonl` of a folder, one JSON object a line: `{"id": "1", "audio": "1.wav", "instrument": "violin"}`, or
 * `"genre": "jazz"`. With both, `"kind": "solo"` makes it an example of its instrument and `"kind": "band"` of its genre.
 * `"piece"` says which clips play the same notes, `"split"` (`fit` or `test`) what a clip is for; both may be left out.
 *
 * @throws {UsageError} as {@link readManifest}, and for lines without sound, without a class, or with an unknown one.
 */
export async function readLabelledAudio(folder: string): Promise<readonly LabelledClip[]> {
  const path = join(folder, "manifest.jsonl");
  return (await readManifest(path)).map(({ id, audio, labels = {}, origin = id }) => {
    const refuse = (found: string, todo: string): never => {
      throw new UsageError({ asked: `read labelled sound (${origin})`, found, todo });
    };
    if (audio === undefined) return refuse("no audio", 'Give its file: "audio": "1.wav"');
    const { kind, piece, split } = labels;
    const classes: Partial<Record<JudgeTask, string>> = {};
    for (const task of ["instrument", "genre"] as const) {
      const name = labels[task] ?? null;
      if (name === null || kind === (task === "instrument" ? "band" : "solo")) continue;
      if (!CONCEPTS[task].some((concept) => concept === name)) {
        refuse(`the ${task} ${JSON.stringify(name)}`, `Choose one of ${CONCEPTS[task].join(", ")}`);
      }
      classes[task] = String(name);
    }
    if (Object.keys(classes).length === 0) refuse("neither an instrument nor a genre", 'Add one: "genre": "jazz"');
    if ((split ?? null) !== null && split !== "fit" && split !== "test") {
      return refuse(`the split ${JSON.stringify(split)}`, 'Give "fit" or "test", or leave it out');
    }
    return {
      id,
      classes,
      piece: String(piece ?? id),
      split: split === "fit" || split === "test" ? split : undefined,
      read: () => load(audio),
    };
  });
}
