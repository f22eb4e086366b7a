// What a comparison is at any moment, made from its events alone.

import { append, EMPTY, type MarkdownText, whole } from "../ui/markdownText";
import type { BattleEvent, Figures, StoredBattle } from "./events";

export type Phase = "waiting" | "streaming" | "done" | "stopped" | "error";

export interface Column {
  readonly number: number;
  /** Null while it is hidden. */
  readonly model: string | null;
  readonly phase: Phase;
  /** The answer as it came, and cut for showing. */
  readonly source: string;
  readonly text: MarkdownText;
  readonly reasoning: string;
  /** The model is not ready: how far it is. */
  readonly wait: {
    readonly state: string;
    readonly progress: number | null;
    detail: string;
  } | null;
  readonly error: { readonly code: string; readonly message: string; retryable: boolean } | null;
  readonly figures: Figures | null;
  /** By the server's clock, in ms since the battle (or the retry) began. */
  readonly startedAtMs: number | null;
  readonly wokeAtMs: number | null;
  readonly firstAtMs: number | null;
  readonly endedAtMs: number | null;
  /** By this page's clock, for the running time: when the column's start was heard of. */
  readonly heardAtMs: number | null;
  /** What should be known about the answer. */
  readonly note: string;
  /** A stop was asked for. */
  readonly stopping: boolean;
  /** Which attempt this is; events of an earlier one are late. */
  readonly attempt: number;
}

export interface Battle {
  readonly id: string | null;
  readonly blind: boolean;
  readonly columns: readonly Column[];
  readonly running: boolean;
  /** Null while it is not known. */
  readonly stored: boolean | null;
}

export function newColumn(number: number, model: string | null, attempt = 0): Column {
  return {
    number,
    model,
    phase: "waiting",
    source: "",
    text: EMPTY,
    reasoning: "",
    wait: null,
    error: null,
    figures: null,
    startedAtMs: null,
    wokeAtMs: null,
    firstAtMs: null,
    endedAtMs: null,
    heardAtMs: null,
    note: "",
    stopping: false,
    attempt,
  };
}

export function newBattle(models: readonly string[], blind: boolean): Battle {
  return {
    id: null,
    blind,
    columns: models.map((model, number) => newColumn(number, blind ? null : model)),
    running: true,
    stored: null,
  };
}

/** The battle after some events, heard at `nowMs` by this page's clock. */
export function reduce(battle: Battle, events: readonly BattleEvent[], nowMs: number): Battle {
  let next = battle;
  const columns = battle.columns.slice();
  // Pieces of text are joined first, so that a column is cut once however many came.
  const pieces = new Map<number, string[]>();
  const flush = (number: number) => {
    const joined = pieces.get(number)?.join("");
    const column = columns[number];
    pieces.delete(number);
    if (!joined || !column) return;
    columns[number] = {
      ...column,
      source: column.source + joined,
      text: append(column.text, joined),
    };
  };
  for (const event of events) {
    if (event.kind === "battle") {
      next = { ...next, id: event.battle };
    } else if (event.kind === "stored") {
      next = { ...next, stored: event.stored };
    } else {
      const column = columns[event.column];
      if (!column) continue;
      if (event.kind === "text") {
        const waiting = pieces.get(event.column);
        if (waiting) waiting.push(event.text);
        else pieces.set(event.column, [event.text]);
        if (column.phase === "waiting" || column.firstAtMs === null)
          columns[event.column] = {
            ...column,
            phase: "streaming",
            wait: null,
            firstAtMs: column.firstAtMs ?? event.at_ms,
          };
      } else {
        flush(event.column);
        columns[event.column] = step(columns[event.column] as Column, event, nowMs);
      }
    }
  }
  for (const number of [...pieces.keys()]) flush(number);
  return { ...next, columns };
}

const HIDDEN = { state: "waiting", detail: "" };

function step(
  column: Column,
  event: Exclude<BattleEvent, { kind: "battle" | "stored" | "text" }>,
  nowMs: number,
): Column {
  switch (event.kind) {
    case "start":
      return {
        ...newColumn(column.number, event.model ?? column.model, column.attempt),
        startedAtMs: event.at_ms,
        heardAtMs: nowMs,
        stopping: column.stopping,
      };
    case "waiting": {
      const { progress } = event;
      // How a model gets ready tells which it is.
      const { state, detail } = column.model === null ? HIDDEN : event;
      return { ...column, wait: { state, progress, detail }, wokeAtMs: event.at_ms };
    }
    case "reasoning":
      return {
        ...column,
        phase: "streaming",
        wait: null,
        reasoning: column.reasoning + event.text,
        firstAtMs: column.firstAtMs ?? event.at_ms,
      };
    case "end":
      return {
        ...column,
        phase: event.finish_reason === "stopped" ? "stopped" : "done",
        wait: null,
        stopping: false,
        figures: event,
        endedAtMs: event.at_ms,
      };
    case "error":
      return {
        ...column,
        phase: "error",
        wait: null,
        stopping: false,
        error: event.error,
        endedAtMs: event.at_ms,
      };
  }
}

/**
 * The column's stream is over: if it has not ended, it never will.
 *
 * @param before What a column was that is asked again: the server keeps that answer.
 */
export function settle(column: Column, message: string, nowMs: number, before?: Column): Column {
  if (!isRunning(column)) return column;
  if (before && column.attempt > 0)
    return { ...before, note: `The answer of before; asked again, it broke off: ${message}` };
  const { startedAtMs, heardAtMs } = column;
  return {
    ...column,
    phase: "error",
    wait: null,
    stopping: false,
    error: { code: "broken_off", message, retryable: true },
    endedAtMs:
      startedAtMs === null || heardAtMs === null ? null : startedAtMs + (nowMs - heardAtMs),
  };
}

export function isRunning(column: Column): boolean {
  return column.phase === "waiting" || column.phase === "streaming";
}

/** Whether the column may be voted for: it ended, and has said something. */
export function isWhole(column: Column): boolean {
  if (column.phase === "done") return true;
  return column.phase === "stopped" && column.source !== "";
}

export function mayVote(battle: Battle): boolean {
  const over = battle.columns.every((column) => !isRunning(column));
  return over && battle.stored !== false && battle.columns.filter(isWhole).length >= 2;
}

/** A stored battle, as if it had just ended. */
export function ofStored(stored: StoredBattle): Battle {
  return {
    id: stored.id,
    blind: stored.blind,
    running: false,
    stored: true,
    columns: stored.columns.map((answer) => ({
      ...newColumn(answer.column, answer.model),
      phase: phaseOf(answer),
      source: answer.text,
      text: whole(answer.text),
      error:
        phaseOf(answer) === "error"
          ? { code: answer.error, message: messageOf(answer), retryable: false }
          : null,
      figures: {
        finish_reason: answer.finish_reason,
        ttft_ms: answer.ttft_ms,
        latency_ms: answer.latency_ms,
        prompt_tokens: answer.prompt_tokens,
        completion_tokens: answer.completion_tokens,
        tokens_per_s: speed(answer),
        cost_usd: answer.cost_usd,
      },
      startedAtMs: 0,
      firstAtMs: answer.ttft_ms,
      endedAtMs: answer.latency_ms,
    })),
  };
}

type StoredAnswer = StoredBattle["columns"][number];

function phaseOf(answer: StoredAnswer): Phase {
  // What was stopped before it said a word is stored as an error.
  if (answer.error === "stopped" || answer.finish_reason === "stopped") return "stopped";
  return answer.error ? "error" : "done";
}

function messageOf(answer: StoredAnswer): string {
  if (answer.error === "unfinished") return "No answer was stored.";
  return answer.text ? "The answer broke off." : "This model did not answer.";
}

/** Tokens a second after the first, as the server's `end` event has it. */
function speed(answer: StoredAnswer): number | null {
  const { completion_tokens: tokens, ttft_ms, latency_ms } = answer;
  if (tokens === null || tokens < 2 || ttft_ms === null || latency_ms <= ttft_ms) return null;
  return ((tokens - 1) / (latency_ms - ttft_ms)) * 1000;
}

/** Names of the models once they are known, the answers as they are. */
export function reveal(battle: Battle, stored: StoredBattle): Battle {
  const columns = battle.columns.map((column) => {
    const model = stored.columns.find(({ column: number }) => number === column.number)?.model;
    return model && model !== column.model ? { ...column, model } : column;
  });
  return { ...battle, columns };
}

/** Whether it is not told yet which model it is. */
export function isHidden(column: Column | null): boolean {
  return column?.model === null;
}

export interface Standouts {
  fastest: number;
  cheapest: number | null;
  longest: number | null;
}

/** Who was best at what, of two or more answers that are whole. */
export function standouts(columns: readonly Column[]): Standouts | null {
  // What was stopped early, or says nothing, is neither fast nor cheap.
  const whole = columns.filter(
    ({ phase, figures, source }) => phase === "done" && figures !== null && source !== "",
  );
  if (whole.length < 2) return null;
  const least = (of: (figures: Figures) => number | null): number | null => {
    const known = whole.flatMap((column) => {
      const value = of(column.figures as Figures);
      return value === null ? [] : [{ number: column.number, value }];
    });
    if (known.length < 2) return null;
    const best = Math.min(...known.map(({ value }) => value));
    const first = known.filter(({ value }) => value === best);
    return first.length === 1 ? (first[0]?.number ?? null) : null;
  };
  return {
    fastest: least((figures) => figures.latency_ms) ?? (whole[0] as Column).number,
    // A price tells which model it is.
    cheapest: columns.some(isHidden) ? null : least((figures) => figures.cost_usd),
    longest: least((figures) =>
      figures.completion_tokens === null ? null : -figures.completion_tokens,
    ),
  };
}

/** How a column is called: its letter while its model is hidden. */
export function nameOf(column: Column, blind: boolean): string {
  return column.model ?? (blind ? letter(column.number) : "");
}

export function letter(number: number): string {
  return String.fromCharCode(65 + number);
}
