import { ApiError } from "../api/client";
import { events } from "../api/stream";
import { backoffMs, pause } from "./retry";

/** Of a stream that may have nothing to tell; the server sends a comment every 10 s. */
export const SILENCE_MS = 30_000;

export interface Follower<T> {
  /** A connection begins: what came over the one before comes again. */
  onStart?: () => void;
  onItem: (item: T) => void;
  /** Broken off; it is tried again, unless `final`. */
  onBreak: (error: Error, final: boolean) => void;
}

/** What must not be asked again: refused, or nothing there. */
function isFinal(error: unknown): boolean {
  return (
    error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429
  );
}

/**
 * Follows an event stream and comes back to it whenever it breaks, until `signal` fires.
 *
 * @param silenceMs A stream that says nothing for so long counts as broken.
 */
export async function follow<T>(
  path: string,
  signal: AbortSignal,
  silenceMs: number,
  follower: Follower<T>,
): Promise<void> {
  let failures = 0;
  while (!signal.aborted) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    signal.addEventListener("abort", stop);
    let watch: ReturnType<typeof setTimeout> | undefined;
    const heard = () => {
      clearTimeout(watch);
      watch = setTimeout(stop, silenceMs);
    };
    let error: Error = new ApiError("The connection to Aviary ended.", 0, "broken_off");
    try {
      heard();
      const onOpen = () => {
        failures = 0;
        heard();
        follower.onStart?.();
      };
      const said = { signal: attempt.signal, onOpen, onComment: heard };
      for await (const item of events<T>(path, said)) {
        heard();
        follower.onItem(item);
      }
    } catch (caught) {
      if (caught instanceof Error && !attempt.signal.aborted) error = caught;
    } finally {
      clearTimeout(watch);
      signal.removeEventListener("abort", stop);
    }
    if (signal.aborted) return;
    const final = isFinal(error);
    follower.onBreak(error, final);
    if (final) return;
    await pause(backoffMs(failures++), signal);
  }
}
