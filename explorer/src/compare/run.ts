// The comparison that is going on. It lives outside of the page, so that answers go on being written
// while somebody looks at another page.

import { ApiError, errorOf } from "../api/client";
import { authorization, sessionName } from "../api/key";
import { events } from "../api/stream";
import { makeStore } from "../ui/store";
import type { BattleEvent, StoredBattle, Verdict } from "./events";
import { change, isReady, requestOf, type Settings, settings } from "./settings";
import {
  type Battle,
  type Column,
  isRunning,
  isWhole,
  newBattle,
  newColumn,
  reduce,
  reveal,
  settle,
} from "./state";

/** A prompt and what was answered; several of them when the comparison has turns. */
export interface Turn {
  readonly prompt: string;
  readonly battle: Battle;
  /** Of each column that was asked: which of the page's columns it is. */
  readonly ids: readonly string[];
  /** By number, what the page's own columns asked. */
  readonly models: readonly string[];
  readonly vote: Vote | null;
}

export interface Vote {
  readonly verdict: Verdict;
  readonly column: number | null;
  readonly reason: string;
}

export interface Run {
  readonly turns: readonly Turn[];
  readonly problem: Error | null;
}

const AT_ONCE = 2;
/** So many retries have a stream; a browser has six connections to a host. */
const HIDDEN_FLUSH_MS = 200;
/** "Stop all" takes the place of "Compare": a second click so soon was meant for that. */
const DOUBLE_CLICK_MS = 400;

export const run = makeStore<Run>({ turns: [], problem: null });

let queue: BattleEvent[] = [];
let scheduled = false;
let main: AbortController | null = null;
let askedAtMs = Number.NEGATIVE_INFINITY;
let streams = 0;
let retrying = 0;
let wanted: number[] = [];
/** What columns were before they were asked again. */
const before = new Map<number, Column>();

export function current(): Turn | null {
  return run.get().turns.at(-1) ?? null;
}

function changeTurn(change: (turn: Turn) => Turn): void {
  run.set((now) => {
    const last = now.turns.at(-1);
    return last ? { ...now, turns: [...now.turns.slice(0, -1), change(last)] } : now;
  });
}

function changeBattle(change: (battle: Battle) => Battle): void {
  changeTurn((turn) => ({ ...turn, battle: change(turn.battle) }));
}

/** Hands what has come to the page, once for each frame. */
function flush(): void {
  scheduled = false;
  const taken = queue;
  queue = [];
  if (taken.length > 0) changeBattle((battle) => reduce(battle, taken, performance.now()));
}

function take(event: BattleEvent): void {
  queue.push(event);
  if (scheduled) return;
  scheduled = true;
  // Frames are not drawn in a hidden tab.
  if (document.hidden) setTimeout(flush, HIDDEN_FLUSH_MS);
  else requestAnimationFrame(flush);
}
if (typeof document !== "undefined")
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && scheduled) setTimeout(flush, HIDDEN_FLUSH_MS);
  });

type Message = { role: "user" | "assistant"; content: string };

/** What a column has said and was asked so far; turns that failed are no part of it. */
export function historyOf(turns: readonly Turn[], id: string): Message[] {
  return turns.flatMap((turn): Message[] => {
    const column = turn.battle.columns[turn.ids.indexOf(id)];
    if (!column || !isWhole(column) || column.source === "") return [];
    return [
      { role: "user", content: turn.prompt },
      { role: "assistant", content: column.source },
    ];
  });
}

/** Asks what the page is set to, if that can be asked now. */
export function submit(): void {
  const now = settings.get();
  if (!isReady(now) || current()?.battle.running) return;
  void compare(now);
  if (now.multi) change({ prompt: "" });
}

/** Asks all columns. */
async function compare(now: Settings): Promise<void> {
  const { prompt } = now;
  const shown = run.get().turns;
  const earlier = now.multi ? shown : [];
  const columns = now.columns.filter(({ model }) => model !== "");
  const models = columns.map(({ model }) => model);
  const turn: Turn = {
    prompt,
    battle: newBattle(models, now.blind),
    ids: now.blind ? [] : columns.map(({ id }) => id),
    models,
    vote: null,
  };
  run.set(() => ({ turns: [...earlier, turn], problem: null }));
  before.clear();
  queue = [];
  wanted = [];
  const aborted = new AbortController();
  main = aborted;
  askedAtMs = performance.now();
  const body = {
    prompt,
    models: columns.map(({ id, model, parameters }) => {
      const messages = historyOf(earlier, id);
      const asked = { model, parameters: requestOf(parameters) };
      return messages.length > 0 ? { ...asked, messages } : asked;
    }),
    session: sessionName(),
    ...(now.system.trim() ? { system: now.system } : {}),
    ...(now.task ? { task: now.task } : {}),
    ...(now.blind ? { blind: true } : {}),
  };
  const owns = (column: Column) => column.attempt === 0;
  await follow("/api/battles", body, aborted.signal, owns, (error, heard) => {
    if (heard) return;
    // It was refused as a whole, or stopped before it began: what was there before is there again.
    run.set(() => ({ turns: shown, problem: aborted.signal.aborted ? null : error }));
    if (settings.get().prompt === "") change({ prompt });
  });
}

/**
 * Follows a stream to its end.
 *
 * @param owns Whether a column is answered by this stream, and ends with it.
 * @param failed Is told of an error, and whether anything had come before.
 */
async function follow(
  path: string,
  body: unknown,
  signal: AbortSignal,
  owns: (column: Column) => boolean,
  failed: (error: Error, heard: boolean) => void,
): Promise<void> {
  let heard = false;
  let message = "The stream ended before the answer did.";
  streams += 1;
  try {
    for await (const event of events<BattleEvent>(path, { body, signal })) {
      heard = true;
      take(event);
      // A stop that was asked for before the column began has met nothing.
      if (event.kind === "start" && current()?.battle.columns[event.column]?.stopping)
        void postStop(event.column);
    }
  } catch (error) {
    message = signal.aborted ? "Stopped." : (error as Error).message;
    flush();
    failed(error as Error, heard);
  } finally {
    streams -= 1;
    flush();
    changeBattle((battle) => ({
      ...battle,
      columns: battle.columns.map((column) =>
        owns(column)
          ? settle(column, message, performance.now(), before.get(column.number))
          : column,
      ),
      running: streams > 0 || wanted.length > 0,
    }));
  }
}

async function post(path: string, body: unknown): Promise<Response> {
  const headers = { "content-type": "application/json", ...authorization() };
  const init = { method: "POST", headers, body: JSON.stringify(body) };
  const response = await fetch(path, init).catch(() => {
    throw new ApiError("Aviary cannot be reached.", 0, "unreachable");
  });
  if (!response.ok) throw await errorOf(response);
  return response;
}

function fail(error: unknown): void {
  run.set((now) => ({ ...now, problem: error as Error }));
}

export function dismiss(): void {
  run.set((now) => ({ ...now, problem: null }));
}

/** Stops one column; what it has written stays. */
export async function stop(number: number): Promise<void> {
  const battle = current()?.battle;
  const column = battle?.columns[number];
  if (!battle?.id || !column || !isRunning(column) || column.stopping) return;
  const was = before.get(number);
  if (was && wanted.includes(number)) {
    // It was not asked again yet, and will not be.
    wanted = wanted.filter((one) => one !== number);
    setColumn(number, () => was);
    return;
  }
  setColumn(number, (now) => ({ ...now, stopping: true }));
  await postStop(number);
}

function setColumn(number: number, change: (column: Column) => Column): void {
  changeBattle((battle) => ({
    ...battle,
    columns: battle.columns.map((one) => (one.number === number ? change(one) : one)),
  }));
}

async function postStop(number: number): Promise<void> {
  const id = current()?.battle.id;
  if (!id) return;
  try {
    await post(`/api/battles/${encodeURIComponent(id)}/columns/${number}/stop`, {
      session: sessionName(),
    });
  } catch (error) {
    setColumn(number, (now) => ({ ...now, stopping: false }));
    fail(error);
  }
}

export async function stopAll(): Promise<void> {
  if (performance.now() - askedAtMs < DOUBLE_CLICK_MS) return;
  flush();
  const battle = current()?.battle;
  if (!battle) return;
  if (battle.id === null) {
    // Nothing has come back yet, so there is nothing to keep.
    main?.abort();
    return;
  }
  await Promise.all(battle.columns.filter(isRunning).map(({ number }) => stop(number)));
}

/** Asks a column once more; its answer replaces the old one. */
export function retry(number: number): void {
  const turn = current();
  const column = turn?.battle.columns[number];
  if (!turn?.battle.id || !column || isRunning(column) || turn.vote) return;
  changeBattle((battle) => ({ ...battle, running: true }));
  setColumn(number, (one) => newColumn(number, one.model, one.attempt + 1));
  before.set(number, column);
  wanted.push(number);
  nextRetry();
}

function nextRetry(): void {
  const battle = current()?.battle;
  if (!battle?.id || wanted.length === 0 || retrying >= AT_ONCE) return;
  const columns = wanted;
  const attempts = new Map(columns.map((number) => [number, battle.columns[number]?.attempt]));
  wanted = [];
  retrying += 1;
  const body = { columns, session: sessionName() };
  const path = `/api/battles/${encodeURIComponent(battle.id)}/retry`;
  const owns = (column: Column) => attempts.get(column.number) === column.attempt;
  const { signal } = new AbortController();
  const refused = (error: Error, heard: boolean) => {
    if (heard) return;
    // Nothing was asked again, so the answers of before still stand.
    changeBattle((now) => ({
      ...now,
      columns: now.columns.map((column) => (owns(column) && before.get(column.number)) || column),
    }));
    fail(error);
  };
  void follow(path, body, signal, owns, refused).finally(() => {
    retrying -= 1;
    nextRetry();
  });
}

/** Votes, or changes the vote; resolves when it is stored for good. */
export async function castVote(battle: string, vote: Vote): Promise<StoredBattle> {
  const body = { battle, session: sessionName(), ...vote };
  const response = await post("/api/votes", body);
  return (await response.json()) as StoredBattle;
}

/** Takes what the server has stored of the vote. */
export function voted(stored: StoredBattle): void {
  changeTurn((turn) =>
    turn.battle.id === stored.id
      ? { ...turn, vote: stored.vote, battle: reveal(turn.battle, stored) }
      : turn,
  );
}

/** Clears the page for something new. */
export function clear(): void {
  if (current()?.battle.running) return;
  run.set(() => ({ turns: [], problem: null }));
}
