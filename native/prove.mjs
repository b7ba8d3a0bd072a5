// Runs the tests that prove the native backend, in ways that one ordinary run does not: `node native/prove.mjs`.
//
//   paths       the suites that hold the networks to the reference, on every kernel set that this processor can run, with
//               one thread and with two
//   emulated    the same with one thread on the AVX-512 kernel sets, whose intrinsics are emulated (x64 with AVX2)
//   sanitizers  the kernels' own suites on a build with address and undefined-behaviour sanitizers (GCC on Linux)
//   elsewhere   native/selftest.mjs: the kernels against plain C++ without Node; for other processors in an emulator
//   all         all of them; this is the default
//
// Prints a line for each run and exits with 1 if one failed. The long test of memory is another matter: TONEARM_LONG=1.
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const [what = "all"] = process.argv.slice(2);

/** Suites that compare with transformers' numbers, or one way of computing with another. */
const PARITY = ["test/text", "test/encodec", "test/model", "test/activations", "test/musicgen.test.ts"];
/** Suites of the kernels themselves. */
const KERNELS = ["test/runtime/native", "test/checkpoint/pack.test.ts", "test/runtime/checksum.test.ts"];

let failures = 0;

function run(label, command, args, environment = {}) {
  const started = performance.now();
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, NO_COLOR: "1", ...environment },
    encoding: "utf8",
    maxBuffer: 2 ** 28,
  });
  const seconds = Math.round((performance.now() - started) / 1000);
  const tests = /Tests\s+(.*)/.exec(stdout)?.[1] ?? "";
  process.stdout.write(`${status === 0 ? "passed" : "FAILED"}  ${label}: ${tests}${tests ? ", " : ""}${seconds} s\n`);
  if (status === 0) return;
  failures += 1;
  process.stdout.write(`${stdout.slice(-6000)}\n${stderr.slice(-6000)}\n`);
}

function vitest(label, suites, environment) {
  const program = join(root, "node_modules", "vitest", "vitest.mjs");
  run(label, process.execPath, [program, "run", ...suites], { TONEARM_TEST_BACKENDS: "native", ...environment });
}

function paths() {
  const addon = createRequire(import.meta.url)("./build/tonearm.node");
  process.stdout.write(`this processor runs ${addon.kernelSets().join(", ")}\n`);
  for (const set of addon.kernelSets())
    for (const threads of ["1", "2"])
      vitest(`${set}, ${threads} threads`, PARITY, { TONEARM_CPU: set, TONEARM_THREADS: threads });
}

function emulated() {
  run("building with emulated AVX-512", process.execPath, [join(here, "install.mjs"), "--required", "--emulate"]);
  const addon = createRequire(import.meta.url)("./build/tonearm-emulate.node");
  for (const set of addon.kernelSets().filter((name) => name.startsWith("avx512")))
    vitest(`${set}, emulated`, PARITY, { TONEARM_CPU: set, TONEARM_NATIVE_BUILD: "emulate" });
}

function sanitizers() {
  run("building with sanitizers", process.execPath, [join(here, "install.mjs"), "--required", "--sanitize"]);
  // The sanitizer's runtime has to be in the process before the addon; Node itself is not built with it.
  const library = spawnSync(process.env.CXX ?? "g++", ["-print-file-name=libasan.so"], {
    encoding: "utf8",
  }).stdout.trim();
  vitest("sanitizers", KERNELS, {
    LD_PRELOAD: library,
    ASAN_OPTIONS: "detect_leaks=0:handle_sigbus=0:allocator_may_return_null=1",
    UBSAN_OPTIONS: "print_stacktrace=1:halt_on_error=1",
    TONEARM_NATIVE_BUILD: "sanitize",
  });
}

function elsewhere() {
  run("plain program", process.execPath, [join(here, "selftest.mjs")]);
}

if (what === "paths" || what === "all") paths();
if (what === "emulated" || (what === "all" && process.arch === "x64")) emulated();
if (what === "sanitizers" || what === "all") sanitizers();
if (what === "elsewhere" || what === "all") elsewhere();
process.exitCode = failures === 0 ? 0 : 1;
