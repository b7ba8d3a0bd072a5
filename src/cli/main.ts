#!/usr/bin/env node
import { Command, CommanderError } from "commander";

import { VERSION } from "../version.js";
import { captureCommand } from "./capture.js";
import { decodeCommand } from "./decode.js";
import { demoCommand } from "./demo.js";
import { doctorCommand } from "./doctor.js";
import { encodeCommand } from "./encode.js";
import { experimentCommand } from "./experiment.js";
import { fetchCommand } from "./fetch.js";
import { generateCommand } from "./generate.js";
import { inspectCommand } from "./inspect.js";
import { reportError } from "./output.js";
import { packCommand } from "./pack.js";
import { probeCommand } from "./probe.js";
import { reportCommand } from "./report.js";
import { sitesCommand } from "./sites.js";
import { recipeCommand } from "./recipe.js";
import { steerSpecCommand } from "./steer-spec.js";
import { sweepCommand } from "./sweep.js";
import { verifyCommand } from "./verify.js";

/**
 * The command line. Every command parses its options, calls the library and prints what it did.
 *
 * Exit codes: 0 done, 1 failed, 2 misuse, 130 interrupted.
 */
async function main(): Promise<void> {
  const program = new Command("tonearm")
    .description("MusicGen as explicit TensorFlow.js ops: generate music, read and steer its activations")
    .version(VERSION)
    .showHelpAfterError("(`tonearm help` lists the commands, `tonearm help generate` the options of one)")
    .exitOverride();
  for (const command of [
    generateCommand(),
    encodeCommand(),
    decodeCommand(),
    captureCommand(),
    probeCommand(),
    reportCommand(),
    sitesCommand(),
    inspectCommand(),
    fetchCommand(),
    verifyCommand(),
    packCommand(),
    doctorCommand(),
    demoCommand(),
    steerSpecCommand(),
    sweepCommand(),
    recipeCommand(),
    experimentCommand(),
  ]) {
    program.addCommand(command.copyInheritedSettings(program));
  }
  try {
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : 2; // commander has printed its message
    } else {
      process.exitCode = reportError(error, process.argv.includes("--json"));
    }
  }
}

await main();
