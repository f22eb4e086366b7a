import { describe, expect, it, vi } from "vitest";
import { follow } from "./follow";
import { keepLast } from "./LogView";
import { backoffMs } from "./retry";
import type { Model, Replica } from "./shapes";
import { fieldValue, previewState } from "./spec";
import { readiness, startProgress, summary } from "./state";

function model(state: Model["state"], replicas: Partial<Replica>[] = [], desired = 1): Model {
  return { state, replicas, desired_replicas: desired } as Model;
}

describe("the fleet at a glance", () => {
  it("says what wants a look first", () => {
    expect(summary([model("ready"), model("failed"), model("ready")])).toBe(
      "3 models · 1 failed · 2 ready",
    );
    expect(summary([model("sleeping")])).toBe("1 model · 1 sleeping");
  });

  it("counts what is ready against what should be", () => {
    expect(readiness(model("ready", [{ state: "ready" }, { state: "starting" }], 2))).toBe("1 / 2");
  });

  it("shows the one that is furthest from ready", () => {
    const starting = [
      { state: "starting" as const, progress: 0.7 },
      { state: "starting" as const, progress: 0.2 },
      { state: "ready" as const, progress: null },
    ];
    expect(startProgress(model("starting", starting))).toBe(0.2);
    expect(startProgress(model("starting", [{ state: "starting", progress: null }]))).toBeNull();
  });
});

describe("coming back", () => {
  it("waits longer each time, but never long", () => {
    expect(backoffMs(0, 0.5)).toBe(500);
    expect(backoffMs(3, 0.5)).toBe(4000);
    expect(backoffMs(90, 0.5)).toBe(15_000);
    expect(backoffMs(0, 0)).toBeLessThan(backoffMs(0, 1));
  });
});

describe("following", () => {
  it("begins when the stream opens, and a comment breaks its silence", async () => {
    const ending = new AbortController();
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const writer = writable.getWriter();
    vi.stubGlobal("fetch", async (_: string, { signal }: RequestInit) => {
      signal?.addEventListener("abort", () => writer.abort(signal.reason).catch(() => undefined));
      return new Response(readable);
    });
    const told: string[] = [];
    const began = performance.now();
    const over = follow("/x", ending.signal, 400, {
      onStart: () => told.push("start"),
      onItem: () => told.push("item"),
      onBreak: () => {
        told.push("break");
        ending.abort();
      },
    });
    await vi.waitFor(() => expect(told).toEqual(["start"]));
    await new Promise((resolve) => setTimeout(resolve, 200));
    void writer.write(new TextEncoder().encode(": \n\n"));
    await over;
    vi.unstubAllGlobals();
    expect(told).toEqual(["start", "break"]);
    expect(performance.now() - began).toBeGreaterThan(590);
  });
});

describe("log lines", () => {
  it("are bounded, the newest kept", () => {
    expect(keepLast(["a", "b"], ["c", "d"], 3)).toEqual(["b", "c", "d"]);
    expect(keepLast(["a"], ["b", "c", "d"], 2)).toEqual(["c", "d"]);
  });
});

describe("a preview", () => {
  const change = { model: "m", action: "changed" as const, fields: [], restarts: true };
  const clean = { spec: {}, model: "m", changes: [change], errors: [] };

  it("lets apply what was looked at, and only that", () => {
    expect(previewState("id: m", { text: "id: m", preview: clean })).toBe("clean");
    expect(previewState("id: n", { text: "id: m", preview: clean })).toBe("stale");
    expect(previewState("id: m", null)).toBe("none");
  });

  it("does not let apply what is wrong, or changes nothing", () => {
    const errors = [{ message: "no", line: 1, column: 1, field: null }];
    expect(previewState("x", { text: "x", preview: { ...clean, errors } })).toBe("wrong");
    const same = { ...clean, changes: [{ ...change, action: "unchanged" as const }] };
    expect(previewState("x", { text: "x", preview: same })).toBe("unchanged");
  });

  it("shows values as a spec has them", () => {
    expect(fieldValue(null)).toBe("not given");
    expect(fieldValue("two words")).toBe("two words");
    expect(fieldValue(["a", 1])).toBe('["a", 1]');
  });
});
