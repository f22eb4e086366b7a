import { keepPreviousData, queryOptions } from "@tanstack/react-query";
import { getJson, type Schemas } from "../api/client";
import type { LeaderboardSearch } from "./search";

export type Row = Schemas["LeaderboardRow"];
export type Board = Schemas["Leaderboard"];

/** Where to ask for what `search` shows. */
export function boardPath(search: LeaderboardSearch, format?: "csv"): string {
  const query = new URLSearchParams();
  if (search.tag) query.set("tag", search.tag);
  if (search.task) query.set("task", search.task);
  if (search.since) query.set("since", search.since);
  if (format) query.set("format", format);
  const asked = query.toString();
  return `/api/leaderboard${asked ? `?${asked}` : ""}`;
}

export function board(search: LeaderboardSearch) {
  const path = boardPath(search);
  return queryOptions({
    queryKey: ["leaderboard", path],
    queryFn: ({ signal }) => getJson<Board>(path, signal),
    refetchInterval: 15_000,
    placeholderData: keepPreviousData,
  });
}

/** The scale that all intervals share; null when nothing is rated. */
export function ratingScale(rows: readonly Row[]): { low: number; high: number } | null {
  const ends = rows.flatMap((row) =>
    row.rating === null ? [] : [row.low ?? row.rating, row.high ?? row.rating],
  );
  if (ends.length === 0) return null;
  const low = Math.min(...ends);
  const high = Math.max(...ends);
  return high - low < 1 ? { low: low - 1, high: high + 1 } : { low, high };
}

/** A place on a scale, in percent of its width. */
export function place(value: number, scale: { low: number; high: number }): number {
  return ((value - scale.low) / (scale.high - scale.low)) * 100;
}

/** Addresses whose votes one should look at. */
export type Abuse = Schemas["Abuse"];

/** What an admin should know about votes of the last days; null when there is nothing. */
export function abuseLine({ addresses }: Abuse): string | null {
  if (addresses.length === 0) return null;
  const left = addresses.reduce((sum, entry) => sum + entry.not_counted, 0);
  const sided = addresses.filter((entry) => entry.one_sided).length;
  const said = [
    `In 7 days ${addresses.length === 1 ? "one address stands" : `${addresses.length} addresses stand`} out`,
    left > 0 &&
      `${left.toLocaleString("en-US")} ${left === 1 ? "vote was" : "votes were"} not counted`,
    sided > 0 && `${sided} ${sided === 1 ? "favours" : "favour"} one model nearly always`,
  ];
  return `${said.filter(Boolean).join("; ")}.`;
}
