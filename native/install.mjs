// Builds the native backend with the system's C++ compiler: `node native/install.mjs`.
//
// Runs when the package is installed. Nothing is downloaded, and nothing that goes wrong here may fail the installation:
// without the result tonearm runs on WebAssembly. Prints one line either way.
//
//   --required   exit with 1 where the backend could not be built (for `npm run build:native` and CI)
//   --sanitize   build native/build/tonearm-sanitize.node with address and undefined-behaviour sanitizers instead
//   --emulate    build native/build/tonearm-emulate.node instead: for x64, with the AVX-512 kernels' intrinsics emulated, so
//                that any processor with AVX2 runs them; for tests
//
// CXX names a compiler; TONEARM_NATIVE=0 skips the build.
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { basename, dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const here = dirname(fileURLToPath(import.meta.url));
const sources = join(here, "src");
const build = join(here, "build");
const options = new Set(process.argv.slice(2));
const sanitize = options.has("--sanitize");
const emulate = options.has("--emulate");

const WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow"];
export const LANGUAGE = ["-std=c++20", "-pthread", ...WARNINGS];
// A product and a sum are fused only where a kernel says so: fused and composed ops must agree to the last bit.
export const ARITHMETIC = ["-ffp-contract=off", "-fno-math-errno"];
const COMMON = [...LANGUAGE, ...ARITHMETIC, "-fPIC", "-fvisibility=hidden"];
const OPTIMISED = ["-O3", "-DNDEBUG"];
const SANITISED = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

const AVX2 = ["-mavx2", "-mfma", "-mf16c"];
// GCC 12's own AVX-512 headers trip over these two warnings.
const QUIET = ["-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"];
const AVX512 = [...AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", ...QUIET];

/** What the AVX-512 sets are compiled with where a test emulates them. GCC notes that it passes their vectors in memory. */
const EMULATION = [
  ...AVX2,
  "-Wno-psabi",
  "-Wno-ignored-attributes",
  "-include",
  join(here, "selftest", "emulated_avx512.h"),
];
export const EMULATED_FEATURES = join(here, "selftest", "emulated_features.cc");

/** The kernel sets of a processor architecture: name and the flags its one source file is compiled with. */
export const KERNEL_SETS = {
  x64: [
    { name: "generic", flags: [] },
    { name: "avx2", flags: AVX2 },
    { name: "avx512", flags: AVX512 },
    { name: "avx512vnni", flags: [...AVX512, "-mavx512vnni"] },
    { name: "avx512bf16", flags: [...AVX512, "-mavx512vnni", "-mavx512bf16"] },
  ],
  arm64: [
    { name: "generic", flags: [] },
    { name: "neon", flags: [] },
    { name: "neonbf16", flags: ["-march=armv8.2-a+bf16"] },
  ],
};

class CannotBuild extends Error {}

async function findCompiler() {
  const candidates = [process.env.CXX, "g++", "clang++", "c++"].filter(Boolean);
  const probe = join(build, `probe-${process.pid}.cc`);
  writeFileSync(probe, "#include <bit>\n#include <thread>\nint main() { return std::bit_cast<int>(0.0F); }\n");
  const failures = [];
  try {
    for (const compiler of candidates) {
      try {
        await run(compiler, ["-std=c++20", "-pthread", "-fsyntax-only", probe]);
        return compiler;
      } catch (error) {
        failures.push(error.code === "ENOENT" ? `no ${compiler}` : `${compiler} lacks C++20`);
      }
    }
  } finally {
    rmSync(probe, { force: true });
  }
  throw new CannotBuild(`no C++20 compiler was found (${failures.join(", ")})`);
}

function nodeApiHeaders() {
  try {
    return createRequire(import.meta.url)("node-api-headers").include_dir;
  } catch {
    throw new CannotBuild("the package node-api-headers is missing");
  }
}

/** The flags of a kernel set, in a build with emulated AVX-512 if that is asked for. */
export function flagsOf({ name, flags }, emulated) {
  return emulated && name.startsWith("avx512") ? EMULATION : flags;
}

/** Every object file to make: its name, its source and its flags. */
function objects(sets) {
  const available = sets.map(({ name }) => `-DTONEARM_HAS_${name.toUpperCase()}`);
  const kernels = sets.map((set) => ({
    name: `kernels-${set.name}`,
    source: join(sources, "kernels", "kernels.cc"),
    flags: [...flagsOf(set, emulate), `-DTONEARM_FOR_${set.name.toUpperCase()}`],
  }));
  const rest = readdirSync(sources)
    .filter((file) => file.endsWith(".cc"))
    .map((file) => (emulate && file === "cpu_features.cc" ? EMULATED_FEATURES : join(sources, file)))
    .map((source) => ({ name: basename(source, ".cc"), source, flags: available }));
  return [...kernels, ...rest]; // the slowest first
}

/** Runs jobs, as many at a time as there are processors. */
async function inParallel(jobs) {
  const queue = [...jobs];
  const lanes = Array.from({ length: Math.max(1, availableParallelism()) }, async () => {
    for (let job = queue.shift(); job !== undefined; job = queue.shift()) await job();
  });
  await Promise.all(lanes);
}

/** A digest of the given values and of every header; with it a file need not be compiled twice. */
function fingerprint(...parts) {
  const hash = createHash("sha256").update(JSON.stringify(parts));
  for (const directory of [sources, join(sources, "kernels"), ...(emulate ? [join(here, "selftest")] : [])])
    for (const file of readdirSync(directory).sort())
      if (file.endsWith(".h")) hash.update(file).update(readFileSync(join(directory, file)));
  return hash.digest("hex").slice(0, 16);
}

async function compile() {
  if (process.env.TONEARM_NATIVE === "0") throw new CannotBuild("TONEARM_NATIVE=0 says not to");
  const sets = KERNEL_SETS[process.arch];
  const link = { linux: ["-shared", "-Wl,-z,nodelete"], darwin: ["-bundle", "-undefined", "dynamic_lookup"] }[
    process.platform
  ];
  if (sets === undefined || link === undefined)
    throw new CannotBuild(`${process.platform} on ${process.arch} is not supported`);
  mkdirSync(build, { recursive: true });
  const compiler = await findCompiler();
  const mode = sanitize ? SANITISED : OPTIMISED;
  const flags = [...COMMON, ...mode, "-isystem", nodeApiHeaders()];
  const name = sanitize ? "tonearm-sanitize" : emulate ? "tonearm-emulate" : "tonearm";
  mkdirSync(join(build, name), { recursive: true }); // object files
  const target = join(build, `${name}.node`);
  const stamp = join(build, `${name}.stamp`);

  const version = (await run(compiler, ["--version"])).stdout.split("\n")[0];
  const names = sets.map((set) => set.name).join(", ");
  const files = objects(sets).map((object) => {
    const text = readFileSync(object.source, "utf8");
    const output = join(build, name, `${object.name}-${fingerprint(version, flags, object.flags, text)}.o`);
    return { ...object, output };
  });
  const identity = fingerprint(
    link,
    files.map((file) => basename(file.output)),
  );
  if (existsSync(target) && existsSync(stamp) && JSON.parse(readFileSync(stamp, "utf8")).identity === identity)
    return `is up to date (${names})`;

  // Files appear under their final names by renaming, so that two builds at once can't spoil each other's.
  const draft = (path) => `${path}.${process.pid}`;
  await inParallel(
    files
      .filter((file) => !existsSync(file.output))
      .map((file) => async () => {
        const { stderr } = await run(compiler, [...flags, ...file.flags, "-c", file.source, "-o", draft(file.output)]);
        if (stderr) process.stderr.write(stderr);
        renameSync(draft(file.output), file.output);
      }),
  );
  await run(compiler, [...flags, ...link, ...files.map((file) => file.output), "-o", draft(target)]);
  renameSync(draft(target), target); // a process that has the old one loaded keeps it
  writeFileSync(stamp, `${JSON.stringify({ identity, compiler: version, kernelSets: sets.map((set) => set.name) })}\n`);
  const current = new Set(files.map((file) => basename(file.output)));
  for (const file of readdirSync(join(build, name)))
    if (file.endsWith(".o") && !current.has(file)) rmSync(join(build, name, file), { force: true });
  return `built with ${version} (${names})`;
}

async function main() {
  try {
    process.stdout.write(`tonearm: native backend ${await compile()}\n`);
  } catch (error) {
    const lines = (error.stderr || error.message).split("\n");
    const reason = lines.find((line) => line.includes("error")) ?? lines[0];
    process.stdout.write(`tonearm: native backend not built: ${reason}; the slower WebAssembly backend will be used\n`);
    if (options.has("--required")) {
      if (error.stderr) process.stderr.write(error.stderr);
      process.exitCode = 1;
    }
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await main();
