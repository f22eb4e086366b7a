import { describe, expect, it } from "vitest";
import { ago, bytes, count, duration, rate, short, usd } from "./format";

describe("figures", () => {
  it.each([
    [null, "–"],
    [0, "$0"],
    [0.000_000_04, "<$0.0000001"],
    [0.000_009_3, "$0.0000093"],
    [0.000_12, "$0.00012"],
    [0.0099, "$0.0099"],
    [0.25, "$0.250"],
    [12, "$12.00"],
  ])("usd %s is %s", (value, text) => {
    expect(usd(value)).toBe(text);
  });

  it.each([
    [null, "–"],
    [0.31, "0.31 ms"],
    [16.4, "16 ms"],
    [999.6, "1.00 s"],
    [12_345, "12.3 s"],
    [59_949, "59.9 s"],
    [59_950, "1 min 00 s"],
    [61_000, "1 min 01 s"],
    [3_599_700, "1 h 00 min"],
    [3_723_000, "1 h 02 min"],
    [200_000_000, "2 d 7 h"],
  ])("duration %s is %s", (value, text) => {
    expect(duration(value)).toBe(text);
  });

  it("are short where there is little room", () => {
    expect([0, 12.345, 999, 1_234, 999_600, 3_400_000].map(short)).toEqual([
      "0",
      "12.3",
      "999",
      "1.23k",
      "1M",
      "3.4M",
    ]);
    expect([rate(3.14), rate(99.6), count(12_345), bytes(50e6), bytes(1.5e9)]).toEqual([
      "3.1",
      "100",
      "12,345",
      "50 MB",
      "1.5 GB",
    ]);
  });

  it("do not round a low rate to nothing", () => {
    expect([0, 0.0023, 0.0951, 0.31].map(rate)).toEqual(["0.0", "0.0023", "0.1", "0.3"]);
  });

  it("tell how long ago in one unit", () => {
    expect([99, 70, 0, -7_100, -200_000].map((time) => ago(time, 100))).toEqual([
      "now",
      "30 s ago",
      "2 min ago",
      "2 h ago",
      "2 d ago",
    ]);
  });
});
