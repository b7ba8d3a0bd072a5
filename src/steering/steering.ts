import type { Activation } from "../activations/activation.js";
import { isDecoder } from "../activations/activation.js";
import type { Hook } from "../activations/hooks.js";
import type { Intervention, InterventionRun, RunPlan } from "../activations/intervention.js";
import type { RowRole } from "../model/guidance.js";
import { absolutePositions, type DecoderContext } from "../model/pass.js";
import { invalid, show } from "./fields.js";
import { Gate, planGate, type GatePlan } from "./gate.js";
import {
  makePlan,
  type NamedVectors,
  type Plan,
  type PlannedDirection,
  type PlannedIntervention,
  type SteerableModel,
} from "./plan.js";
import { isDrawn, layOut, layOutTexts, strengthAt, type Stretch } from "./schedule.js";
import { SiteSteps } from "./site-steps.js";
import { parseSpec, type SteeringSpec } from "./spec.js";
import { StrengthTensors, type Strengths } from "./strengths.js";

/** What steering did in one pass, before it runs: for logs and plots. */
export interface SteeringTrace {
  readonly phase: DecoderContext["phase"];
  readonly step: number;
  readonly firstPosition: number;
  /** For each intervention, in the order of the spec, its strength at each row and position of the pass: [R · T]. */
  readonly strengths: readonly (readonly number[])[];
  /** For each intervention with a gate: what it read of each clip in the pass before, and what it lets through. */
  readonly gates: readonly {
    readonly path: string;
    readonly readings: readonly number[];
    readonly factors: readonly number[];
  }[];
}

/** How to steer. */
export interface SteerOptions {
  /** Called before each pass of the decoder. */
  readonly onPass?: ((trace: SteeringTrace) => void) | undefined;
}

/** A spec made ready for a model. */
export interface Steering extends Intervention {
  readonly spec: SteeringSpec;
}

/**
 * Makes a steering spec ready for a model. Hand it to `model.generate({ steering })`, or to `withIntervention` for other
 * passes.
 *
 * ```ts
 * const vectors = { genre: await readVectors("genre.safetensors") };
 * const steering = steer(model, JSON.parse(await readFile("jazz.json", "utf8")), vectors);
 * const { audio } = await model.generate({ text: "a slow trio", seconds: 10, steering });
 * ```
 *
 * @param spec JSON as `parseSpec` reads it
 * @param vectors those that the spec names
 * @returns what holds no tensors; each run makes and frees its own.
 * @throws {UsageError} with the field's path, for whatever in the spec can't be done on this model; {@link CheckpointError}
 *   for vectors of another model.
 */
export function steer(
  model: SteerableModel,
  spec: unknown,
  vectors: NamedVectors,
  options: SteerOptions = {},
): Steering {
  const parsed = parseSpec(spec);
  const plan = makePlan(model, parsed, vectors);
  const catalogue = model.sites();
  const gates = plan.interventions.map(({ spec: { gate }, path }) =>
    gate === null ? undefined : planGate(gate, `${path}.gate`, model, catalogue, vectors),
  );
  return {
    spec: parsed,
    record: { spec: parsed, vectors: provenance(parsed, vectors) },
    texts: (frameRate) => layOutTexts(parsed, frameRate),
    begin: (run) => new SteeringRun(parsed, plan, gates, run, options),
  };
}

/** Where the vectors of a spec came from. */
function provenance(spec: SteeringSpec, vectors: NamedVectors): Readonly<Record<string, unknown>> {
  return Object.fromEntries(
    Object.keys(spec.vectors).map((name) => {
      const { label, estimator, settings, data, model, seed, tonearm } = vectors[name] ?? {};
      return [name, { label, estimator, settings, data, model, seed, tonearm }];
    }),
  );
}

/** The pass at hand. */
interface Moment {
  readonly pass: DecoderContext;
  readonly acts: boolean; // whether any strength in it is other than 0
}

/** One run: a generation or a teacher-forced pass. */
class SteeringRun implements InterventionRun {
  readonly hooks: readonly Hook[];
  readonly #spec: SteeringSpec;
  readonly #plan: Plan;
  readonly #stretches: readonly Stretch[];
  readonly #gates: readonly (Gate | undefined)[]; // of each intervention
  readonly #run: RunPlan;
  readonly #options: SteerOptions;
  readonly #sites: ReadonlyMap<string, SiteSteps>;
  readonly #strengthTensors: StrengthTensors;
  #moment: Moment | undefined;

  constructor(
    spec: SteeringSpec,
    plan: Plan,
    gates: readonly (GatePlan | undefined)[],
    run: RunPlan,
    options: SteerOptions,
  ) {
    this.#spec = spec;
    this.#plan = plan;
    this.#run = run;
    this.#options = options;
    this.#stretches = layOut(spec, run);
    plan.interventions.forEach((intervention) => this.#requireRows(intervention));
    plan.interventions.forEach((intervention) => this.#requirePositions(intervention));
    const acts = plan.interventions.some(({ spec: { strength } }) => strength !== 0);
    this.#gates = gates.map((gate) => gate && new Gate(gate, run.rows.batch));
    this.#sites = new Map(plan.sites.map((site) => [site.site, new SiteSteps(site)]));
    this.#strengthTensors = new StrengthTensors((index, strengths, site) => this.#draw(index, strengths, site));
    this.hooks = acts ? this.#makeHooks() : [];
  }

  end(): void {
    this.#sites.forEach((site) => site.dispose());
    this.#strengthTensors.dispose();
    this.#moment = undefined;
  }

  /** A gate reads a site before it is steered. */
  #makeHooks(): readonly Hook[] {
    const monitors = this.#gates.flatMap((gate, index) => {
      const path = this.#plan.interventions[index]?.path ?? "";
      return gate ? [gate.hook(`${path}.gate`)] : [];
    });
    const sites = [...this.#sites.keys()];
    return [...monitors, { sites, name: "steering", trusted: true, run: (value, at) => this.#steer(value, at) }];
  }

  #steer(value: Parameters<Hook["run"]>[0], at: Activation): ReturnType<Hook["run"]> {
    const { pass } = at;
    if (!isDecoder(pass)) return undefined;
    const { acts } = this.#momentOf(pass);
    return acts ? this.#sites.get(at.site)?.apply(value, this.#strengthTensors) : undefined;
  }

  /** Strengths of a pass: made at its first site, for all of them. */
  #momentOf(pass: DecoderContext): Moment {
    if (this.#moment?.pass === pass) return this.#moment;
    this.#gates.forEach((gate) => gate?.enter(pass));
    const strengths = this.#plan.interventions.map((intervention, index) => this.#strengths(intervention, index, pass));
    this.#moment = { pass, acts: strengths.some((one) => one !== undefined) };
    this.#strengthTensors.enter(strengths);
    this.#options.onPass?.(this.#trace(pass, strengths));
    return this.#moment;
  }

  #strengths({ spec, segment }: PlannedIntervention, index: number, pass: DecoderContext): Strengths {
    const { firstPosition, positions, rows } = pass;
    const stretch = this.#stretches[segment];
    if (!stretch || firstPosition >= stretch.end || firstPosition + positions <= stretch.first) return undefined;
    const atPosition = absolutePositions(pass).map((position) =>
      strengthAt(position, spec, stretch, this.#spec, this.#run),
    );
    if (atPosition.every((strength) => strength === 0)) return undefined;
    const factors = this.#gates[index]?.factors;
    const strengths = new Float32Array(rows.roles.length * rows.batch * positions);
    rows.roles.forEach((role, block) => {
      if (!isChosen(spec.rows, role)) return;
      for (let item = 0; item < rows.batch; item++) {
        const factor = factors?.[item] ?? 1;
        strengths.set(
          atPosition.map((strength) => strength * factor),
          (block * rows.batch + item) * positions,
        );
      }
    });
    return strengths.some((strength) => strength !== 0) ? strengths : undefined;
  }

  /** Leaves out the positions of the pass at hand that the dice leave out at this site. */
  #draw(number: number, strengths: Float32Array, site: number): Strengths {
    const planned = this.#plan.interventions[number];
    if (!planned || !this.#moment || planned.spec.probability >= 1) return strengths;
    const drawn = absolutePositions(this.#moment.pass).map((position) =>
      isDrawn(planned.spec.probability, this.#spec.seed, planned, site, position),
    );
    const left = strengths.map((strength, place) => (drawn[place % drawn.length] === true ? strength : 0));
    return left.some((strength) => strength !== 0) ? left : undefined;
  }

  #trace(pass: DecoderContext, strengths: readonly Strengths[]): SteeringTrace {
    const { phase, step, firstPosition, positions, rows } = pass;
    const places = rows.batch * rows.roles.length * positions;
    const gates = this.#plan.interventions.flatMap(({ path }, index) => {
      const gate = this.#gates[index];
      return gate ? [{ path, readings: gate.readings, factors: [...gate.factors] }] : [];
    });
    return {
      phase,
      step,
      firstPosition,
      strengths: strengths.map((one) => Array.from(one ?? new Float32Array(places))),
      gates,
    };
  }

  #requireRows({ spec, path }: PlannedIntervention): void {
    const { rows } = this.#run;
    if (!rows.roles.some((role) => isChosen(spec.rows, role))) {
      const found = `${show(spec.rows)}, while this run has only ${rows.roles.map((role) => `"${role}"`).join(" and ")} rows`;
      throw invalid(
        `${path}.rows`,
        found,
        'Choose one of these or "all"; "cond" needs a text, "negative" a negative one',
      );
    }
    const reading = rows.roles.filter((role) => role !== "null"); // those with a text
    const missing = this.#sitesOf(path).find((site) => {
      const ofTextRows = /cross_attn\.|\.ln2\./.test(site);
      if (!ofTextRows && !site.includes("cross")) return false;
      return !reading.some((role) => !ofTextRows || isChosen(spec.rows, role));
    });
    if (missing === undefined) return;
    const found = `${missing}, where only rows with a text are, with rows ${show(spec.rows)}`;
    throw invalid(`${path}.sites`, found, "Give a text and steer its rows, or choose another site");
  }

  #sitesOf(path: string): readonly string[] {
    const isHere = ({ intervention }: PlannedDirection): boolean =>
      this.#plan.interventions[intervention]?.path === path;
    return this.#plan.sites
      .filter(({ steps }) => steps.some(({ directions }) => directions.some(isHere)))
      .map(({ site }) => site);
  }

  #requirePositions({ spec, segment, path }: PlannedIntervention): void {
    const stretch = this.#stretches[segment];
    const { frames } = this.#run;
    if (!stretch) return;
    for (let position = stretch.first; position < Math.min(stretch.end, frames); position++) {
      const always = { ...spec, strength: 1, ramp: null };
      if (strengthAt(position, always, stretch, this.#spec, this.#run) !== 0) return;
    }
    const found = `${spec.every} from ${spec.offset} on, which no position of its segment meets`;
    throw invalid(`${path}.every`, found, `Its positions are ${stretch.first} … ${stretch.first + stretch.length - 1}`);
  }
}

function isChosen(choice: RowRole | "all", role: RowRole): boolean {
  return choice === "all" || choice === role;
}
