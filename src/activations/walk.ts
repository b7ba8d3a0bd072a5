import type { PassStop } from "../model/pass.js";
import { Activation } from "./activation.js";

/** A walk that `for … of` and `for await … of` step through alike. Leaving it early frees all it holds. */
export interface ActivationWalk extends Iterable<Activation>, AsyncIterable<Activation> {}

/**
 * Turns the stops of a walk into activations.
 *
 * @param finish gets the walk's result, unless the walk is left early
 */
export function* activations<Result>(
  stops: Generator<PassStop, Result, void>,
  finish: (result: Result) => void,
): Generator<Activation, void, void> {
  try {
    for (;;) {
      const next = stops.next();
      if (next.done) {
        finish(next.value);
        return;
      }
      yield new Activation(next.value);
    }
  } finally {
    stops.return(undefined as never); // no effect on a walk that has ended
  }
}

/** The same for an asynchronous walk. @returns the walk's result */
export async function* activationsAsync<Result>(
  stops: AsyncGenerator<PassStop, Result, void>,
): AsyncGenerator<Activation, Result, void> {
  try {
    for (;;) {
      const next = await stops.next();
      if (next.done) return next.value;
      yield new Activation(next.value);
    }
  } finally {
    await stops.return(undefined as never); // no effect on a walk that has ended
  }
}
