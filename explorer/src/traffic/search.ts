export const RANGES = ["5m", "1h", "24h", "7d", "30d"] as const;
export type Range = (typeof RANGES)[number];

/** How far back, and of which model; left out: an hour, and all. */
export interface TrafficSearch {
  range?: Range | undefined;
  model?: string | undefined;
}

export function trafficSearch(search: Record<string, unknown>): TrafficSearch {
  const { range, model } = search;
  const kept: TrafficSearch = {};
  if (RANGES.includes(range as Range)) kept.range = range as Range;
  if ((typeof model === "string" && model !== "") || typeof model === "number")
    kept.model = String(model);
  return kept;
}
