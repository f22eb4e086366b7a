// What the charts draw and say, made of what the server tells.

import { moment } from "../charts/scales";
import { count, duration, rate, short } from "../ui/format";
import type { LengthCount, ModelFigures, Point, ReplicaHistory, ReplicaPoint } from "./shapes";

/** Rates are null where the step is not over. */
export interface Step extends Point {
  mean_rps: number | null;
  tokens_in_per_s: number | null;
  tokens_out_per_s: number | null;
}

/** The points with their rates a second, which compare across ranges. Of the last there is more to come. */
export function steps(points: readonly Point[], step_s: number): Step[] {
  return points.map((point, index) => {
    const rateOf = (sum: number) => (index < points.length - 1 ? sum / step_s : null);
    return {
      ...point,
      mean_rps: rateOf(point.requests),
      tokens_in_per_s: rateOf(point.prompt_tokens),
      tokens_out_per_s: rateOf(point.completion_tokens),
    };
  });
}

function highest<T>(items: readonly T[], of: (item: T) => number | null | undefined): T | null {
  let found: T | null = null;
  for (const item of items) {
    const value = of(item);
    if (value != null && value > 0 && (found === null || value > (of(found) ?? 0))) found = item;
  }
  return found;
}

function nothing(requests: number): string {
  return requests > 0 ? "No figures." : "No requests in this period.";
}

function requestsIn(points: readonly Step[]): number {
  return points.reduce((sum, point) => sum + point.requests, 0);
}

export function queriesSaid(points: readonly Step[], step_s: number): string {
  const peak = highest(points, (point) => point.peak_rps);
  if (peak === null) return nothing(requestsIn(points));
  const means = points.flatMap(({ mean_rps }) => mean_rps ?? []);
  const mean = means.length > 0 ? means.reduce((sum, one) => sum + one, 0) / means.length : null;
  return `${rate(mean)} a second on average; at most ${count(peak.peak_rps)} in one second, ${moment(peak.t, step_s)}.`;
}

export function percentilesSaid(
  points: readonly Step[],
  step_s: number,
  kind: "ttft" | "latency",
  totals: { p50: number | null; p99: number | null },
): string {
  const worst = highest(points, (point) => point[`${kind}_p99_ms`]);
  if (worst === null) return nothing(requestsIn(points));
  return `Half within ${duration(totals.p50)}, 99 % within ${duration(totals.p99)}; worst ${moment(worst.t, step_s)}: p99 ${duration(worst[`${kind}_p99_ms`])}.`;
}

export function tokensSaid(points: readonly Step[], step_s: number): string {
  const peak = highest(points, (point) => point.tokens_out_per_s);
  if (peak === null) return nothing(requestsIn(points));
  return `Out: at most ${short(peak.tokens_out_per_s)} a second, ${moment(peak.t, step_s)}.`;
}

export function errorsSaid(points: readonly Step[], step_s: number): string {
  const sum = points.reduce((total, point) => total + point.errors, 0);
  if (sum === 0) return "No errors in this period.";
  const worst = highest(points, (point) => point.errors);
  return `${count(sum)} in all; most ${worst ? `${moment(worst.t, step_s)}: ${count(worst.errors)}` : ""}.`;
}

export function stepName(step_s: number): string {
  if (step_s < 60) return `${step_s} s`;
  if (step_s < 3600) return `${+(step_s / 60).toFixed(1)} min`;
  return `${+(step_s / 3600).toFixed(1)} h`;
}

/** The bins from the first to the last that holds something. */
export function filledBins(bins: readonly LengthCount[]): LengthCount[] {
  const first = bins.findIndex((bin) => bin.count > 0);
  if (first < 0) return [];
  return bins.slice(first, bins.findLastIndex((bin) => bin.count > 0) + 1);
}

export function lengthsSaid(bins: readonly LengthCount[], requests: number): string {
  const all = bins.reduce((sum, bin) => sum + bin.count, 0);
  const most = highest(bins, (bin) => bin.count);
  if (most === null) return nothing(requests);
  let seen = 0;
  const middle = bins.find((bin) => {
    seen += bin.count;
    return seen * 2 >= all;
  });
  return `Half have at most ${count(middle?.to)} tokens; most often ${binName(most)}.`;
}

export function binName({ from, to }: LengthCount): string {
  return from === to ? short(from) : `${short(from)}–${short(to)}`;
}

export interface ReplicaChange extends ReplicaPoint {
  model: string;
  said: string;
}

const COUNTS = [
  ["ready", "ready"],
  ["starting", "starting"],
  ["sleeping", "asleep"],
  ["desired", "wanted"],
] as const;

/** `ready 1 → 2, wanted 1 → 2`. */
export function difference(before: ReplicaPoint, after: ReplicaPoint): string {
  return COUNTS.filter(([key]) => before[key] !== after[key])
    .map(([key, word]) => `${word} ${before[key]} → ${after[key]}`)
    .join(", ");
}

/** All changes of all models, the newest first. */
export function replicaChanges(histories: readonly ReplicaHistory[]): ReplicaChange[] {
  return histories
    .flatMap(({ model, points }) =>
      points.slice(1).map((point, index) => ({
        ...point,
        model,
        said: difference(points[index] as ReplicaPoint, point),
      })),
    )
    .sort((a, b) => b.t - a.t);
}

/** The models whose replicas changed most, first; names tell between equals. */
export function byChanges(histories: readonly ReplicaHistory[]): ReplicaHistory[] {
  return histories.toSorted(
    (a, b) => b.points.length - a.points.length || (a.model < b.model ? -1 : 1),
  );
}

/** Sorted by a column; what is not known comes last, either way. */
export function sortedModels(
  models: readonly ModelFigures[],
  key: keyof ModelFigures,
  descending: boolean,
): ModelFigures[] {
  return models.toSorted((a, b) => {
    const [x, y] = [a[key], b[key]];
    if (x == null || y == null) return (x == null ? 1 : 0) - (y == null ? 1 : 0);
    const order = x < y ? -1 : x > y ? 1 : 0;
    return descending ? -order : order;
  });
}
