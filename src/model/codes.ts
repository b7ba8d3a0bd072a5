import { UsageError } from "../errors.js";
import type { DecoderConfig } from "./config.js";
import type { Codes } from "./delay.js";

/**
 * Checks that codes fit a model: as many codebooks as it has, every code one of its entries, all clips of one length.
 *
 * @returns their number of frames
 * @throws {UsageError} naming the clip and the first code that doesn't fit.
 */
export function checkCodes(clips: readonly Codes[], { codebooks, codebookSize }: DecoderConfig): number {
  const frames = clips[0]?.frames ?? 0;
  clips.forEach((clip, item) => {
    const refuse = (found: string, todo: string): never => {
      throw new UsageError({ asked: `use the codes of clip ${item}`, found, todo });
    };
    if (clip.codebooks !== codebooks) {
      refuse(`${clip.codebooks} codebooks, where the model has ${codebooks}`, "Encode the sound with the same model");
    }
    if (clip.values.length !== codebooks * clip.frames) {
      refuse(`${clip.values.length} codes for ${codebooks} codebooks of ${clip.frames} frames`, "Give K · F codes");
    }
    if (clip.frames !== frames || frames === 0) {
      refuse(`${clip.frames} frames, beside ${frames} of clip 0`, "Give clips of one length, of at least one frame");
    }
    const bad = clip.values.findIndex((code) => code < 0 || code >= codebookSize);
    if (bad >= 0) {
      const place = `codebook ${Math.floor(bad / clip.frames)}, frame ${bad % clip.frames}`;
      refuse(`code ${clip.values[bad]} at ${place}`, `Codes go from 0 to ${codebookSize - 1}`);
    }
  });
  return frames;
}
