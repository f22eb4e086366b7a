import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { BattleEvent } from "./events";
import { current, retry, run, stop, stopAll, submit } from "./run";
import { addColumn, change, restored, settings } from "./settings";

/** A stream of which the test says what comes. */
interface Stream {
  path: string;
  send: (...events: BattleEvent[]) => void;
  close: () => void;
  break: () => void;
}

let streams: Stream[] = [];
let stops: string[] = [];
let refusal: Response | null = null;

async function fetched(path: string, { signal }: RequestInit): Promise<Response> {
  if (path.endsWith("/stop")) {
    stops.push(path);
    return new Response("{}", { status: 202 });
  }
  if (refusal) return refusal;
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  const writer = writable.getWriter();
  const ignore = () => undefined;
  signal?.addEventListener("abort", () => writer.abort(signal.reason).catch(ignore));
  streams.push({
    path,
    send: (...events) => {
      const text = events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("");
      void writer.write(new TextEncoder().encode(text)).catch(ignore);
    },
    close: () => void writer.close().catch(ignore),
    break: () => void writer.abort(new Error("gone")).catch(ignore),
  });
  return new Response(readable);
}

const later = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
/** The machine may be busy. */
const soon = (check: () => void) => vi.waitFor(check, { timeout: 4_000, interval: 10 });
const isOver = () => expect(current()?.battle.running).toBe(false);
const columns = () => current()?.battle.columns ?? [];
const phases = () => columns().map(({ phase }) => phase);
const begun: BattleEvent = { kind: "battle", battle: "bt-1", columns: 3, blind: false };
const start = (column: number): BattleEvent => ({ kind: "start", column, at_ms: 1, model: "m" });
const text = (column: number, said: string): BattleEvent => ({
  ...{ kind: "text", column, at_ms: 2, text: said },
});
const end = (column: number, finish_reason = "stop"): BattleEvent => ({
  ...{ kind: "end", column, at_ms: 9, finish_reason, ttft_ms: 1, latency_ms: 8 },
  ...{ prompt_tokens: 1, completion_tokens: 2, tokens_per_s: 3, cost_usd: null },
});

beforeEach(() => {
  vi.stubGlobal("fetch", fetched);
  vi.stubGlobal("document", { hidden: false });
  vi.stubGlobal("requestAnimationFrame", (draw: () => void) => setTimeout(draw));
  [streams, stops, refusal] = [[], [], null];
  run.set(() => ({ turns: [], problem: null }));
  settings.set(() => restored(null));
  for (const _ of [0, 1, 2]) addColumn("m");
});
afterEach(() => vi.unstubAllGlobals());

/** A comparison of three columns that has ended. */
async function ended(): Promise<void> {
  change({ prompt: "first" });
  submit();
  await soon(() => expect(streams).toHaveLength(1));
  const all = [0, 1, 2].flatMap((number) => [start(number), text(number, "old"), end(number)]);
  streams[0]?.send(begun, ...all);
  streams[0]?.close();
  await soon(isOver);
  expect(phases()).toEqual(["done", "done", "done"]);
  streams = [];
}

it("A refused comparison leaves what was there, and the prompt", async () => {
  await ended();
  change({ multi: true, prompt: "second" });
  refusal = new Response('{"error":{"message":"Too many.","code":"x"}}', { status: 429 });
  submit();
  expect(settings.get().prompt).toBe("");
  await soon(() => expect(run.get().problem?.message).toBe("Too many."));
  await soon(isOver);
  expect(run.get().turns.map(({ prompt }) => prompt)).toEqual(["first"]);
  expect(settings.get().prompt).toBe("second");
});

it("Asking while answers come changes nothing", async () => {
  change({ multi: true, prompt: "first" });
  submit();
  change({ prompt: "second" });
  submit();
  expect(settings.get().prompt).toBe("second");
  await soon(() => expect(streams).toHaveLength(1));
  streams[0]?.close();
  await soon(isOver);
});

it("A comparison that is stopped before it began was none; a second click is no stop", async () => {
  await ended();
  change({ prompt: "second" });
  submit();
  void stopAll();
  await later(450);
  expect(current()).toMatchObject({ prompt: "second", battle: { running: true } });
  await stopAll();
  await soon(isOver);
  expect(run.get()).toMatchObject({ problem: null, turns: [{ prompt: "first" }] });
});

it("A retry that waits for its turn can be stopped", async () => {
  await ended();
  for (const number of [0, 1, 2]) retry(number);
  await soon(() => expect(streams).toHaveLength(2));
  await stop(2);
  expect(phases()).toEqual(["waiting", "waiting", "done"]);
  expect(stops).toEqual([]);
  for (const [number, stream] of streams.entries()) {
    stream.send(begun, start(number), end(number));
    stream.close();
  }
  await soon(isOver);
  expect(streams).toHaveLength(2);
});

it("A stop before a retry began is asked for again when it does", async () => {
  await ended();
  retry(1);
  await soon(() => expect(streams).toHaveLength(1));
  await stop(1);
  expect(stops).toHaveLength(1);
  streams[0]?.send(begun, start(1));
  await soon(() => expect(stops).toEqual(Array(2).fill("/api/battles/bt-1/columns/1/stop")));
  streams[0]?.send(end(1, "stopped"));
  streams[0]?.close();
  await soon(() => expect(phases()).toEqual(["done", "stopped", "done"]));
  await soon(isOver);
});

it("A retry that breaks off leaves the answer of before", async () => {
  await ended();
  retry(0);
  await soon(() => expect(streams).toHaveLength(1));
  streams[0]?.send(begun, start(0), text(0, "ne"));
  await soon(() => expect(columns()[0]?.source).toBe("ne"));
  streams[0]?.break();
  await soon(isOver);
  expect(columns()[0]).toMatchObject({ phase: "done", source: "old" });
  expect(columns()[0]?.note).not.toBe("");
});
