import { expect } from "vitest";

interface CloseOptions {
  /** Largest absolute difference allowed. */
  readonly within: number;
}

declare module "vitest" {
  interface Matchers<T> {
    /** Every number lies within an absolute tolerance of the expected one; NaN never does. */
    toBeAllClose(expected: ArrayLike<number>, options: CloseOptions): T;
  }
}

expect.extend({
  toBeAllClose(received: ArrayLike<number>, expected: ArrayLike<number>, { within }: CloseOptions) {
    if (received.length !== expected.length) {
      return { pass: false, message: () => `expected ${expected.length} numbers, got ${received.length}` };
    }
    let worst = { index: -1, difference: -1 };
    for (let index = 0; index < expected.length; index++) {
      const difference = Math.abs((received[index] ?? NaN) - (expected[index] ?? NaN));
      if (Number.isNaN(difference)) {
        return { pass: false, message: () => `NaN at ${index}: got ${received[index]}, expected ${expected[index]}` };
      }
      if (difference > worst.difference) worst = { index, difference };
    }
    const pass = expected.length > 0 && worst.difference <= within;
    return {
      pass,
      message: () =>
        `largest difference ${worst.difference} at ${worst.index} of ${expected.length} (got ${received[worst.index]}, ` +
        `expected ${expected[worst.index]}), allowed ${within}`,
    };
  },
});
