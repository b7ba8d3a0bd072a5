// Does a checkpoint's steering by name do what its name says? `node bench/steer-by-name.js [--model DIR] [--clips N] [--seconds S]
// [--seed N]`. For each spec in the checkpoint's folder `vectors` it makes clips of a text that names nothing: left alone, steered, and
// steered by a random direction of the same norm; and clips of a text that names the class. Counts those that the judge hears as the
// class and that have no fault, with 95 % intervals. Prints one JSON object.
import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";

import { CONCEPTS, faultsOf, NEUTRAL_TEXTS, textFor } from "../dist/experiments/concepts.js";
import { shareOf } from "../dist/experiments/intervals.js";
import { judgeAudio, loadJudge } from "../dist/experiments/judge.js";
import { meanNorms, pushNorms } from "../dist/experiments/push.js";
import { randomized, randomOfLengths } from "../dist/experiments/randomized.js";
import { transferSpec } from "../dist/experiments/seed-steering.js";
import { MusicGen } from "../dist/musicgen.js";
import { readSteering } from "../dist/steering/files.js";
import { steer } from "../dist/steering/steering.js";

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: "weights/demo" },
    clips: { type: "string", default: "16" },
    seconds: { type: "string", default: "5" },
    seed: { type: "string", default: "7" },
  },
});

const folder = join(options.model, "vectors");
const specs = (await readdir(folder)).filter((name) => name.endsWith(".json")).sort();
const judge = await loadJudge();
const model = await MusicGen.load(options.model);
const [count, seconds, seed] = [Number(options.clips), Number(options.seconds), Number(options.seed)];

const heardAs = async (task, wanted, text, steering) => {
  const request = { text, count, seconds, seed, ...(steering ? { steering } : {}) };
  const { clips } = await model.generate(request);
  const heard = {};
  let hits = 0;
  for (const { audio, codes } of clips) {
    const found = judgeAudio(judge, audio)[task];
    heard[found] = (heard[found] ?? 0) + 1;
    if (found === wanted && faultsOf(audio, codes, model.config.codec.frameRate).length === 0) hits += 1;
  }
  return { found: { hits, clips: clips.length, heard }, clips };
};

// What is taken to a goal is moved by what is missing: a random direction is as long as that was in the mean, in two steered clips.
const randomInPlaceOf = async (steering, spec, vectors, text, clips) => {
  const { concept, sites, operator, rows } = spec.segments[0].steer[0];
  if (operator !== "span") {
    const random = Object.fromEntries(Object.entries(vectors).map(([name, own]) => [name, randomized(own)]));
    return steer(model, spec, random);
  }
  const pushes = [];
  for (const { codes } of clips.slice(0, 2)) {
    pushes.push(await pushNorms({ model, steering, sites, text, promptFrames: 0, codes }));
  }
  const norms = meanNorms(pushes);
  const places = Object.keys(norms);
  const added = transferSpec(concept, { move: "add", sites: places, strength: places.length, rows }, 0);
  return steer(model, added, { vectors: randomOfLengths(Object.values(vectors)[0], concept, norms) });
};

const report = {};
const totals = {};
for (const file of specs) {
  const { spec, vectors } = await readSteering(join(folder, file));
  const { concept, sites, operator, strength, beyond } = spec.segments[0].steer[0];
  const steering = steer(model, spec, vectors);
  const task = CONCEPTS.instrument.includes(concept) ? "instrument" : "genre";
  const neutral = NEUTRAL_TEXTS[task];
  const steered = await heardAs(task, concept, neutral, steering);
  const random = await randomInPlaceOf(steering, spec, vectors, neutral, steered.clips);
  const conditions = {
    "left alone": (await heardAs(task, concept, neutral)).found,
    text: (await heardAs(task, concept, textFor(task, concept, 0))).found,
    steered: steered.found,
    "random direction": (await heardAs(task, concept, neutral, random)).found,
  };
  report[basename(file, ".json")] = { sites, operator, strength, beyond, ...conditions };
  for (const [name, { hits, clips }] of Object.entries(conditions)) {
    const total = ((totals[task] ??= {})[name] ??= { hits: 0, clips: 0 });
    total.hits += hits;
    total.clips += clips;
  }
  process.stderr.write(
    `${file}: ${Object.entries(conditions)
      .map(([name, { hits }]) => `${name} ${hits}`)
      .join(", ")} of ${count}\n`,
  );
}
for (const task of Object.values(totals))
  for (const total of Object.values(task)) Object.assign(total, shareOf(total.hits, total.clips));
console.log(JSON.stringify({ model: options.model, seconds, seed, classes: report, totals }, null, 2));
await model.dispose();
