// Runs every example, and the JavaScript of each guide that says that its snippets "run in order as one module": what is
// there for users to copy has to work. The package must be built. `node .ci/guides.mjs MODEL [FILE …]`
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";

const [given, ...only] = process.argv.slice(2);
if (given === undefined) throw new Error("name a checkpoint's folder");
const model = resolve(given);
const guides = readdirSync("docs").filter((name) => name.endsWith(".md"));
const examples = readdirSync("examples").filter((name) => name.endsWith(".js") && name !== "model.js");
mkdirSync("out", { recursive: true });
const folder = mkdtempSync(join("out", "guides-")); // inside the package, so that "tonearm" is found
let failed = 0;

function run(name, file, args) {
  if (only.length > 0 && !only.includes(name)) return;
  const start = performance.now();
  const { status, stdout, stderr } = spawnSync(process.execPath, [resolve(file), ...args], {
    cwd: folder, // some write files
    env: { ...process.env, MODEL: model },
    encoding: "utf8",
  });
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(`${status === 0 ? "ran" : "FAILED"} ${name} in ${seconds} s`);
  if (status === 0) return;
  failed++;
  console.log(stdout, stderr);
}

for (const name of guides) {
  const text = readFileSync(join("docs", name), "utf8");
  const fences = [...text.matchAll(/^```js\n([\s\S]*?)^```$/gm)].map(([, code]) => code);
  if (!/run in\s+order\s+as one module/.test(text)) continue;
  const file = join(folder, name.replace(/\.md$/, ".mjs"));
  writeFileSync(file, fences.join("\n"));
  run(join("docs", name), file, []);
}
for (const name of examples) {
  run(join("examples", name), join("examples", name), name === "melody.js" ? [] : [model]); // the demo reads no melody
}
rmSync(folder, { recursive: true, force: true });
process.exitCode = failed > 0 ? 1 : 0;
