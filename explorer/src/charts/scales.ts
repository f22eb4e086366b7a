// Domains and ticks of axes: round figures, few of them, the same for the same data.

export interface Axis {
  kind: "linear" | "log";
  domain: [number, number];
  ticks: number[];
}

/** The round number (1, 2 or 5 times a power of ten) that is at least `size`. */
export function roundStep(size: number): number {
  const power = 10 ** Math.floor(Math.log10(size));
  const times = size / power;
  return power * (times <= 1 ? 1 : times <= 2 ? 2 : times <= 5 ? 5 : 10);
}

/** An axis from a round number to a round number, in about `wanted` steps. */
export function linearAxis(low: number, high: number, wanted = 4, leastStep = 0): Axis {
  if (!(high > low)) return linearAxis(low, low + (Math.abs(low) || 1), wanted, leastStep);
  const step = Math.max(leastStep, roundStep((high - low) / wanted));
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  const ticks = Array.from(
    { length: last - first + 1 },
    (_, n) => +((first + n) * step).toPrecision(12),
  );
  return { kind: "linear", domain: [ticks[0] as number, ticks.at(-1) as number], ticks };
}

/** An axis of powers of ten, with 2 and 5 between them where there is room; `low` must be above 0. */
export function logAxis(low: number, high: number): Axis {
  const marks = (factors: readonly number[]): number[] => {
    const found: number[] = [];
    for (let power = Math.floor(Math.log10(low)) - 1; power <= Math.log10(high) + 1; power++)
      for (const factor of factors) found.push(+(factor * 10 ** power).toPrecision(12));
    return found;
  };
  const all = marks([1, 2, 5]);
  const start = all.findLast((mark) => mark <= low * (1 + 1e-9)) ?? low;
  const end = all.find((mark) => mark >= high * (1 - 1e-9) && mark > start) ?? high;
  const within = (mark: number) => mark >= start && mark <= end;
  const fine = all.filter(within);
  return {
    kind: "log",
    domain: [start, end],
    ticks: fine.length <= 8 ? fine : marks([1]).filter(within),
  };
}

type Figure = number | null | undefined;

/** An axis for `values`: from zero, or by powers of ten where they span decades. */
export function axisFor(values: readonly Figure[], decades = 1.3, leastStep = 0): Axis {
  const known = values.filter((value): value is number => value != null);
  const above = known.filter((value) => value > 0);
  if (above.length === 0) return linearAxis(0, 1, 2, leastStep);
  const [low, high] = [least(above), greatest(above)];
  const spans = Math.log10(high / low);
  return above.length === known.length && spans >= decades
    ? logAxis(low, high)
    : linearAxis(0, high, 4, leastStep);
}

/** Of points in order, those with a figure between two without: no line leads to them. */
export function alone<T>(points: readonly T[], of: (point: T) => Figure): Set<T> {
  return new Set(
    points.filter((point, index) => {
      const [before, after] = [points[index - 1], points[index + 1]];
      return (
        of(point) != null &&
        (before === undefined || of(before) == null) &&
        (after === undefined || of(after) == null)
      );
    }),
  );
}

export function least(values: readonly number[]): number {
  return values.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
}

export function greatest(values: readonly number[]): number {
  return values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
}

const MINUTE = 60;
const HOUR = 3600;
const DAY = 86_400;
const STEPS_S = [
  10,
  30,
  MINUTE,
  2 * MINUTE,
  5 * MINUTE,
  10 * MINUTE,
  15 * MINUTE,
  30 * MINUTE,
  HOUR,
  2 * HOUR,
  3 * HOUR,
  6 * HOUR,
  12 * HOUR,
  DAY,
  2 * DAY,
  5 * DAY,
  7 * DAY,
];

/** Round local times between two unix times, at most `most` of them. */
export function timeTicks(from: number, to: number, most: number): number[] {
  const step = STEPS_S.find((s) => (to - from) / s <= most) ?? 7 * DAY;
  const ticks: number[] = [];
  if (step >= DAY) {
    const day = new Date(from * 1000);
    day.setHours(24, 0, 0, 0);
    for (; day.getTime() / 1000 <= to; day.setDate(day.getDate() + step / DAY))
      ticks.push(day.getTime() / 1000);
    return ticks;
  }
  const zone = new Date(from * 1000).getTimezoneOffset() * MINUTE;
  for (let t = Math.ceil((from - zone) / step) * step + zone; t <= to; t += step) ticks.push(t);
  return ticks;
}

const two = (value: number) => String(value).padStart(2, "0");
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** A tick's time, as short as the span of the axis lets it be; local. */
export function tickTime(t: number, span_s: number): string {
  const at = new Date(t * 1000);
  const midnight = at.getHours() === 0 && at.getMinutes() === 0 && at.getSeconds() === 0;
  if (span_s > 2 * DAY || (midnight && span_s > HOUR))
    return `${at.getDate()} ${MONTHS[at.getMonth()]}`;
  const clock = `${two(at.getHours())}:${two(at.getMinutes())}`;
  return span_s <= 10 * MINUTE ? `${clock}:${two(at.getSeconds())}` : clock;
}

/** A moment in full, as exact as steps of `step_s` are; local. */
export function moment(t: number, step_s: number): string {
  const at = new Date(t * 1000);
  const clock = `${two(at.getHours())}:${two(at.getMinutes())}${step_s < MINUTE ? `:${two(at.getSeconds())}` : ""}`;
  return `${at.getDate()} ${MONTHS[at.getMonth()]} ${clock}`;
}
