import { describe, expect, it } from "vitest";
import { placeLabels } from "./labels";
import { alone, axisFor, linearAxis, logAxis, roundStep, tickTime, timeTicks } from "./scales";

describe("axes", () => {
  it("go in round steps", () => {
    expect([0.3, 1, 1.2, 3, 70].map(roundStep)).toEqual([0.5, 1, 2, 5, 100]);
    expect(linearAxis(0, 37)).toEqual({
      kind: "linear",
      domain: [0, 40],
      ticks: [0, 10, 20, 30, 40],
    });
    expect(linearAxis(871, 1203).ticks).toEqual([800, 900, 1000, 1100, 1200, 1300]);
    expect(linearAxis(5, 5).ticks.length).toBeGreaterThan(1);
  });

  it("go by powers of ten where figures span decades", () => {
    expect(logAxis(0.000_012, 0.0071)).toEqual({
      kind: "log",
      domain: [0.000_01, 0.01],
      ticks: [0.000_01, 0.0001, 0.001, 0.01],
    });
    expect(axisFor([30, 9000, null]).kind).toBe("log");
    expect(axisFor([30, 90]).kind).toBe("linear");
    expect(axisFor([0, 30, 9000]).kind).toBe("linear");
    expect(axisFor([null, null]).domain).toEqual([0, 1]);
    expect(axisFor([1, 2], 9, 1).ticks).toEqual([0, 1, 2]);
    expect(axisFor([7]).domain[1]).toBeGreaterThanOrEqual(7);
  });

  it("tick at round times", () => {
    const noon = new Date(2026, 4, 1, 12, 0, 7).getTime() / 1000;
    const hour = timeTicks(noon, noon + 3600, 6).map((t) => tickTime(t, 3600));
    expect(hour).toEqual(["12:10", "12:20", "12:30", "12:40", "12:50", "13:00"]);
    const week = timeTicks(noon, noon + 7 * 86_400, 7).map((t) => tickTime(t, 7 * 86_400));
    expect(week).toEqual(["2 May", "3 May", "4 May", "5 May", "6 May", "7 May", "8 May"]);
    expect(timeTicks(noon, noon + 30 * 86_400, 6).length).toBeLessThanOrEqual(6);
  });
});

describe("points without neighbours", () => {
  it("are found, so that they can be seen", () => {
    const points = [1, null, 3, 4, null, 6].map((v) => ({ v }));
    expect([...alone(points, ({ v }) => v)].map(({ v }) => v)).toEqual([1, 6]);
  });
});

describe("names of dots", () => {
  const area = { left: 0, top: 0, right: 300, bottom: 200 };
  const width = (label: string) => label.length * 6;

  it("stand beside their dots and never on each other", () => {
    const dots = [
      { x: 100, y: 100, r: 5, label: "first-model" },
      { x: 104, y: 102, r: 5, label: "second-model" },
    ];
    const [first, second] = placeLabels(dots, [], area, width);
    expect(first?.anchor).toBe("start");
    expect(second?.anchor).toBe("end");
  });

  it("are left out where there is no room", () => {
    const tight = { left: 0, top: 0, right: 20, bottom: 20 };
    expect(placeLabels([{ x: 10, y: 10, r: 5, label: "name" }], [], tight, width)).toEqual([null]);
  });
});
