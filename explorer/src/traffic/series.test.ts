import { describe, expect, it } from "vitest";
import { trafficSearch } from "./search";
import {
  byChanges,
  errorsSaid,
  filledBins,
  lengthsSaid,
  percentilesSaid,
  queriesSaid,
  replicaChanges,
  sortedModels,
  stepName,
  steps,
  tokensSaid,
} from "./series";
import type { ModelFigures, Point } from "./shapes";

function point(t: number, requests: number, peak_rps: number, errors = 0): Point {
  return {
    t,
    requests,
    peak_rps,
    errors,
    prompt_tokens: requests * 10,
    completion_tokens: 0,
  } as Point;
}

const state = (t: number, ready: number, desired: number, reason = "") => ({
  t,
  ready,
  starting: 0,
  sleeping: 0,
  desired,
  reason,
});

describe("the address", () => {
  it("knows the ranges", () => {
    expect(trafficSearch({ range: "7d", model: "m" })).toEqual({ range: "7d", model: "m" });
    expect(trafficSearch({ range: "9d", model: "" })).toEqual({});
  });
});

describe("rates", () => {
  it("are by the second, and the peak stays what it was within one", () => {
    const [first, last] = steps([point(0, 50, 31), point(10, 4, 3)], 10);
    expect(first).toMatchObject({ mean_rps: 5, tokens_in_per_s: 50, peak_rps: 31 });
    // It is not over.
    expect(last).toMatchObject({ mean_rps: null, tokens_in_per_s: null, peak_rps: 3 });
  });

  it("are said in words", () => {
    const at = new Date(2026, 4, 1, 12, 30).getTime() / 1000;
    const points = [point(at - 60, 60, 2), point(at, 180, 41), point(at + 60, 1, 1)];
    expect(queriesSaid(steps(points, 60), 60)).toBe(
      "2.0 a second on average; at most 41 in one second, 1 May 12:30.",
    );
    expect(queriesSaid(steps([point(at, 0, 0)], 60), 60)).toBe("No requests in this period.");
    const bare = steps([{ ...point(at - 60, 2, 1), ttft_p99_ms: null }, point(at, 0, 0)], 60);
    expect(percentilesSaid(bare, 60, "ttft", { p50: null, p99: null })).toBe("No figures.");
    expect(tokensSaid(bare, 60)).toBe("No figures.");
    expect(errorsSaid(steps([point(at, 9, 1, 3)], 60), 60)).toBe("3 in all; most 1 May 12:30: 3.");
    expect([5, 90, 3600, 7200].map(stepName)).toEqual(["5 s", "1.5 min", "1 h", "2 h"]);
  });
});

describe("lengths", () => {
  const bins = [0, 4, 10, 0, 1, 0].map((count, n) => ({ from: n * 10, to: n * 10 + 9, count }));

  it("begin and end with what there is", () => {
    expect(filledBins(bins).map((bin) => bin.from)).toEqual([10, 20, 30, 40]);
    expect(filledBins([])).toEqual([]);
    expect(lengthsSaid(bins, 15)).toBe("Half have at most 29 tokens; most often 20–29.");
    expect(lengthsSaid([], 15)).toBe("No figures.");
    expect(lengthsSaid([], 0)).toBe("No requests in this period.");
  });
});

describe("replicas", () => {
  const histories = [
    { model: "quiet", points: [state(0, 1, 1)] },
    { model: "busy", points: [state(0, 1, 1), state(5, 1, 2, "load"), state(9, 2, 2, "ready")] },
  ];

  it("tell each change and its reason, the newest first", () => {
    expect(
      replicaChanges(histories).map(({ model, said, reason }) => [model, said, reason]),
    ).toEqual([
      ["busy", "ready 1 → 2", "ready"],
      ["busy", "wanted 1 → 2", "load"],
    ]);
    expect(byChanges(histories).map(({ model }) => model)).toEqual(["busy", "quiet"]);
  });
});

describe("the table", () => {
  it("puts what is not known last", () => {
    const rows = [1, null, 3].map(
      (ttft_p50_ms, n) => ({ model: `${n}`, ttft_p50_ms }) as ModelFigures,
    );
    const order = (down: boolean) =>
      sortedModels(rows, "ttft_p50_ms", down).map(({ model }) => model);
    expect(order(true)).toEqual(["2", "0", "1"]);
    expect(order(false)).toEqual(["0", "2", "1"]);
  });
});
