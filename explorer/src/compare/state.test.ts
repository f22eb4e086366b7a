import { describe, expect, it } from "vitest";
import type { BattleEvent, Figures, StoredBattle } from "./events";
import { historyOf, type Turn } from "./run";
import {
  type Battle,
  isWhole,
  mayVote,
  newBattle,
  newColumn,
  ofStored,
  reduce,
  reveal,
  settle,
  standouts,
} from "./state";

const FIGURES: Figures = {
  finish_reason: "stop",
  ttft_ms: 100,
  latency_ms: 1100,
  prompt_tokens: 7,
  completion_tokens: 11,
  tokens_per_s: 10,
  cost_usd: 0.002,
};

const start = (column: number, at_ms = 1): BattleEvent => ({
  kind: "start",
  column,
  at_ms,
  model: `m${column}`,
});
const text = (column: number, said: string, at_ms = 50): BattleEvent => ({
  kind: "text",
  column,
  at_ms,
  text: said,
});
const end = (column: number, of: Partial<Figures> = {}): BattleEvent => ({
  kind: "end",
  column,
  at_ms: 1100,
  ...FIGURES,
  ...of,
});
const failure = (column: number): BattleEvent => ({
  kind: "error",
  column,
  at_ms: 60,
  error: { code: "overloaded", message: "Full.", retryable: true },
});

function after(events: readonly BattleEvent[], columns = 2, blind = false): Battle {
  const models = Array.from({ length: columns }, (_, number) => `m${number}`);
  return reduce(newBattle(models, blind), events, 5000);
}

describe("events", () => {
  it("fill each column by itself", () => {
    const battle = after([
      { kind: "battle", battle: "bt-1", columns: 2, blind: false },
      start(0),
      start(1, 2),
      text(1, "a", 40),
      text(0, "x", 70),
      text(1, "b", 80),
      end(1),
    ]);
    const [first, second] = battle.columns;
    expect(battle.id).toBe("bt-1");
    expect(first).toMatchObject({ phase: "streaming", source: "x", firstAtMs: 70, figures: null });
    expect(second).toMatchObject({ phase: "done", source: "ab", firstAtMs: 40, startedAtMs: 2 });
    expect(second?.figures).toMatchObject(FIGURES);
  });

  it("leave columns as they are that they are not about", () => {
    const before = after([start(0), start(1)]);
    const next = reduce(before, [text(0, "x"), failure(7)], 0);
    expect(next.columns[1]).toBe(before.columns[1]);
    expect(before.columns[0]?.source).toBe("");
  });

  it("make the same whether they come at once or one by one", () => {
    const events = [start(0), text(0, "# a\n"), text(0, "\nb"), failure(0), start(1), end(1)];
    let one = after([]);
    for (const event of events) one = reduce(one, [event], 5000);
    expect(one).toEqual(after(events));
  });

  it("tell of a model that wakes, until it answers", () => {
    const waiting: BattleEvent = {
      kind: "waiting",
      column: 0,
      at_ms: 30,
      state: "starting",
      progress: 0.4,
      detail: "",
    };
    const battle = after([start(0), waiting]);
    expect(battle.columns[0]).toMatchObject({ phase: "waiting", wait: { progress: 0.4 } });
    const later = reduce(battle, [text(0, "x", 90)], 0).columns[0];
    expect(later).toMatchObject({ phase: "streaming", wait: null, wokeAtMs: 30, firstAtMs: 90 });
  });

  it("do not tell who waits while that is hidden", () => {
    const waiting: BattleEvent = {
      ...{ kind: "waiting", column: 0, at_ms: 30, state: "sleeping", progress: 0.4 },
      detail: "m0 loads",
    };
    const begin: BattleEvent = { kind: "start", column: 0, at_ms: 1, model: null };
    expect(after([begin, waiting], 2, true).columns[0]?.wait).toEqual({
      state: "waiting",
      progress: 0.4,
      detail: "",
    });
  });

  it("keep what a stopped column has said", () => {
    const battle = after([start(0), text(0, "half"), end(0, { finish_reason: "stopped" })]);
    expect(battle.columns[0]).toMatchObject({ phase: "stopped", source: "half" });
    expect(battle.columns.map(isWhole)).toEqual([true, false]);
    const silent = after([start(0), end(0, { finish_reason: "stopped" })]).columns[0];
    expect(silent && isWhole(silent)).toBe(false);
  });

  it("begin a column anew when it is asked again", () => {
    const battle = after([start(0), text(0, "old"), failure(0), start(0, 3), text(0, "new")]);
    expect(battle.columns[0]).toMatchObject({ source: "new", phase: "streaming", error: null });
  });
});

describe("the end", () => {
  it("ends columns whose stream broke off, and only those", () => {
    const { columns } = after([start(0), text(0, "x"), end(0), start(1), text(1, "y")]);
    const over = columns.map((column) => settle(column, "Broken off.", 5400));
    expect(over[0]).toBe(columns[0]);
    expect(over[1]).toMatchObject({ phase: "error", source: "y", error: { code: "broken_off" } });
    expect(over[1]?.endedAtMs).toBe(1 + 400);
  });

  it("brings back what was there before a retry that broke off", () => {
    const [old] = after([start(0), text(0, "old"), end(0)]).columns;
    const again = { ...newColumn(0, "m0", 1), source: "ne" };
    const over = settle(again, "Gone.", 0, old);
    expect(over).toMatchObject({ phase: "done", source: "old", attempt: 0 });
    expect(over.note).toContain("Gone.");
  });

  it("lets one vote when two ended well and none runs", () => {
    const ended = [start(0), text(0, "x"), end(0), start(1), text(1, "y"), end(1)];
    expect(mayVote(after(ended))).toBe(true);
    expect(mayVote(after([...ended, { kind: "stored", stored: false }]))).toBe(false);
    expect(mayVote(after(ended, 3))).toBe(false);
    expect(mayVote(after([...ended, start(2), failure(2)], 3))).toBe(true);
    expect(mayVote(after([start(0), text(0, "x"), end(0), start(1), failure(1)]))).toBe(false);
  });

  it("names who stood out, if somebody did", () => {
    const { columns } = after(
      [
        ...[start(0), text(0, "x"), end(0, { latency_ms: 900, cost_usd: null })],
        ...[start(1), text(1, "x"), end(1, { completion_tokens: 40, cost_usd: null })],
        ...[start(2), failure(2)],
      ],
      3,
    );
    expect(standouts(columns)).toEqual({ fastest: 0, cheapest: null, longest: 1 });
    expect(standouts(columns.slice(1))).toBeNull();
    const dear = end(1, { cost_usd: 0.3 });
    const two = after([start(0), text(0, "x"), end(0), start(1), text(1, "y"), dear]).columns;
    expect(standouts(two)?.cheapest).toBe(0);
    expect(standouts(two.map((column) => ({ ...column, model: null })))?.cheapest).toBeNull();
  });
});

const STORED: StoredBattle = {
  id: "bt-1",
  created: 0,
  messages: [],
  system: "",
  blind: true,
  task: "",
  votes: { best: 0, tie: 0, all_bad: 0 },
  vote: null,
  columns: [
    {
      ...{ column: 0, model: "wren", spec_hash: "", parameters: {}, text: "hi", error: "" },
      ...{ finish_reason: "stop", ttft_ms: 100, latency_ms: 1100 },
      ...{ prompt_tokens: 7, completion_tokens: 11, cost_usd: null, messages: [] },
    },
    {
      ...{ column: 1, model: "owl", spec_hash: "", parameters: {}, text: "", error: "overloaded" },
      ...{ finish_reason: "", ttft_ms: null, latency_ms: 5 },
      ...{ prompt_tokens: null, completion_tokens: null, cost_usd: null, messages: [] },
    },
  ],
};

describe("a stored battle", () => {
  it("is shown with the figures that it ended with", () => {
    const [first, second] = ofStored(STORED).columns;
    expect(first?.figures).toMatchObject({ tokens_per_s: 10, latency_ms: 1100 });
    expect(first?.phase).toBe("done");
    expect(second).toMatchObject({ phase: "error", error: { code: "overloaded" } });
  });

  it("names the models of a blind one", () => {
    const battle = after([], 2, true);
    expect(battle.columns.map(({ model }) => model)).toEqual([null, null]);
    expect(reveal(battle, STORED).columns.map(({ model }) => model)).toEqual(["wren", "owl"]);
  });
});

describe("a column's history", () => {
  it("is its own, without what failed", () => {
    const turn = (prompt: string, events: BattleEvent[]): Turn => ({
      prompt,
      battle: after(events),
      ids: ["a", "b"],
      models: ["m0", "m1"],
      vote: null,
    });
    const turns = [
      turn("one", [start(0), text(0, "1a"), end(0), start(1), failure(1)]),
      turn("two", [start(0), text(0, "2a"), end(0), start(1), text(1, "2b"), end(1)]),
    ];
    expect(historyOf(turns, "b")).toEqual([
      { role: "user", content: "two" },
      { role: "assistant", content: "2b" },
    ]);
    expect(historyOf(turns, "a").map(({ content }) => content)).toEqual(["one", "1a", "two", "2a"]);
    expect(historyOf(turns, "new")).toEqual([]);
  });
});
