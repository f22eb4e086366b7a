/** How long to wait before trying again, after so many failures in a row; spread by `chance`. */
export function backoffMs(failures: number, chance = Math.random()): number {
  return Math.min(15_000, 500 * 2 ** Math.min(failures, 10)) * (0.75 + chance / 2);
}

/** Waits, or until `signal` fires. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}
