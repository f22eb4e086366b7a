import { describe, expect, it } from "vitest";
import { dollarsOf, placesFor } from "../ui/figures";
import { abuseLine, boardPath, place, type Row, ratingScale } from "./board";
import { leaderboardSearch } from "./search";

function row(rating: number | null, low: number | null, high: number | null): Row {
  return { rating, low, high } as Row;
}

describe("the address", () => {
  it("keeps what it knows and drops the rest", () => {
    expect(
      leaderboardSearch({ tag: "chat", task: "", since: "7d", other: 1, sort: "-votes" }),
    ).toEqual({
      tag: "chat",
      since: "7d",
      sort: "-votes",
    });
  });

  it("asks the server for what is shown", () => {
    expect(boardPath({})).toBe("/api/leaderboard");
    expect(boardPath({ tag: "a&b", since: "24h", sort: "-votes" }, "csv")).toBe(
      "/api/leaderboard?tag=a%26b&since=24h&format=csv",
    );
  });
});

describe("the scale of intervals", () => {
  it("holds every interval", () => {
    const scale = ratingScale([row(1000, 950, 1100), row(900, 880, 910), row(null, null, null)]);
    expect(scale).toEqual({ low: 880, high: 1100 });
    expect(place(990, { low: 880, high: 1100 })).toBe(50);
  });

  it("is there for one rating without an interval, and not without ratings", () => {
    expect(ratingScale([row(1000, null, null)])).toEqual({ low: 999, high: 1001 });
    expect(ratingScale([row(null, null, null)])).toBeNull();
  });
});

describe("figures of a column", () => {
  it("have the same number of places", () => {
    expect(placesFor([0.0042, 12, null], 6)).toBe(4);
    const written = dollarsOf([0.0042, 12, null]);
    expect([0.0042, 12, null, 0].map(written)).toEqual(["0.0042", "12.0000", "–", "0.0000"]);
  });

  it("never write something as nothing", () => {
    expect(dollarsOf([0.000_000_1])(0.000_000_1)).toBe("<0.000001");
  });
});

describe("vote abuse", () => {
  it("is told in a line, when there is some", () => {
    const found = { since: 0, counted_a_day: 50, counted_a_battle: 3 };
    expect(abuseLine({ ...found, addresses: [] })).toBeNull();
    const address = {
      ...{ sessions: 2, battles: 60, first: 0, last: 1 },
      address: "a41f",
      votes: 60,
      not_counted: 10,
      favourite: "m",
      favourite_share: 0.98,
      one_sided: true,
    };
    expect(abuseLine({ ...found, addresses: [address] })).toBe(
      "In 7 days one address stands out; 10 votes were not counted; 1 favours one model nearly always.",
    );
  });
});
