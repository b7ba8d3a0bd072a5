// Builds and runs native/selftest/selftest.cc:
// `node native/selftest.mjs [--arch=x64|arm64] [--runner="COMMAND …"] [--emulate-avx512]`.
//
// With --emulate-avx512 the kernels for AVX-512, VNNI and BF16 run on any processor with AVX2: each of their intrinsics is a
// function of native/selftest/emulated_avx512.h.
//
// For another processor than this one, name a cross compiler in CXX and an emulator to run the result with, for example
// `CXX=aarch64-linux-gnu-g++ node native/selftest.mjs --arch=arm64 --runner=qemu-aarch64`.
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { ARITHMETIC, EMULATED_FEATURES, flagsOf, KERNEL_SETS, LANGUAGE } from "./install.mjs";

const { values: options } = parseArgs({
  options: {
    arch: { type: "string", default: process.arch },
    runner: { type: "string", default: "" },
    "emulate-avx512": { type: "boolean", default: false },
  },
});
const here = dirname(fileURLToPath(import.meta.url));
const source = (...names) => join(here, ...names);
const emulated = options["emulate-avx512"];
const build = join(here, "build", `selftest-${options.arch}${emulated ? "-emulated" : ""}`);
mkdirSync(build, { recursive: true });

function run(command, args) {
  const { status, error } = spawnSync(command, args, { stdio: "inherit" });
  if (error) throw error;
  if (status !== 0) process.exit(1);
}

const compiler = process.env.CXX ?? "g++";
const sets = KERNEL_SETS[options.arch];
const flags = [...LANGUAGE, ...ARITHMETIC, "-O2"];
const kernels = sets.map((set) => {
  const object = join(build, `${set.name}.o`);
  const define = `-DTONEARM_FOR_${set.name.toUpperCase()}`;
  run(compiler, [
    ...flags,
    ...flagsOf(set, emulated),
    define,
    "-c",
    source("src", "kernels", "kernels.cc"),
    "-o",
    object,
  ]);
  return object;
});
const rest = ["checksum", "dispatch", "mapped_file", "memory", "thread_pool", "weight"].map((name) =>
  source("src", `${name}.cc`),
);
const available = sets.map(({ name }) => `-DTONEARM_HAS_${name.toUpperCase()}`);
const program = join(build, "selftest");
const features = emulated ? EMULATED_FEATURES : source("src", "cpu_features.cc");
const all = [source("selftest", "selftest.cc"), features, ...rest, ...kernels];
run(compiler, [...flags, ...available, "-static", ...all, "-o", program]);
const [command, ...args] = [...options.runner.split(" ").filter(Boolean), program];
run(command, args);
