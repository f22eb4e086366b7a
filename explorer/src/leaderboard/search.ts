/** What of the leaderboard is shown: the address says it, so that a link shows the same. */
export interface LeaderboardSearch {
  tag?: string | undefined;
  task?: string | undefined;
  /** As the server takes it; left out: all times. */
  since?: string | undefined;
  /** A column; `-` before it: the greatest first. */
  sort?: string | undefined;
}

function text(value: unknown): string | undefined {
  if (typeof value === "number") return String(value);
  return typeof value === "string" && value !== "" ? value : undefined;
}

export function leaderboardSearch(search: Record<string, unknown>): LeaderboardSearch {
  const kept = {
    tag: text(search.tag),
    task: text(search.task),
    since: text(search.since),
    sort: text(search.sort),
  };
  return Object.fromEntries(Object.entries(kept).filter(([, value]) => value !== undefined));
}
