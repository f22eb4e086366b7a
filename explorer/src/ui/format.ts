// How figures are written, everywhere the same. `null` is what is not known.

const NOTHING = "–";

export function duration(ms: number | null | undefined): string {
  if (ms == null) return NOTHING;
  if (ms < 0.95) return `${ms.toFixed(2)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(ms < 9_995 ? 2 : 1)} s`;
  const seconds = Math.round(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${String(seconds % 60).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function count(value: number | null | undefined): string {
  return value == null ? NOTHING : Math.round(value).toLocaleString("en-US");
}

/** Few digits for an axis or a tight column: 1.2k, 3.4M. */
export function short(value: number | null | undefined): string {
  if (value == null) return NOTHING;
  const size = Math.abs(value);
  if (size < 1000) return Number.isInteger(value) ? String(value) : String(+value.toPrecision(3));
  for (const [unit, by] of [
    ["k", 1e3],
    ["M", 1e6],
    ["G", 1e9],
  ] as const) {
    if (size < by * 999.5) return `${+(value / by).toPrecision(3)}${unit}`;
  }
  return `${+(value / 1e12).toPrecision(3)}T`;
}

export function rate(perSecond: number | null | undefined): string {
  if (perSecond == null) return NOTHING;
  // What is little has two digits that say something, never an exponent.
  if (perSecond > 0 && perSecond < 0.095)
    return perSecond.toFixed(Math.min(12, 1 - Math.floor(Math.log10(perSecond))));
  return perSecond < 9.95 ? perSecond.toFixed(1) : count(perSecond);
}

export function usd(value: number | null | undefined): string {
  if (value == null) return NOTHING;
  if (value === 0) return "$0";
  if (value < 0.000_000_1) return "<$0.0000001";
  if (value < 0.01) return `$${value.toFixed(1 - Math.floor(Math.log10(value)))}`;
  return `$${value.toFixed(value < 1 ? 3 : 2)}`;
}

export function percent(share: number | null | undefined): string {
  return share == null ? NOTHING : `${Math.round(share * 100)} %`;
}

export function bytes(value: number | null | undefined): string {
  if (value == null) return NOTHING;
  if (value < 1e6) return `${Math.round(value / 1e3)} kB`;
  if (value < 1e9) return `${Math.round(value / 1e6)} MB`;
  return `${(value / 1e9).toFixed(1)} GB`;
}

/** `3 min ago`, from unix seconds. */
export function ago(time: number | null | undefined, now = Date.now() / 1000): string {
  if (time == null) return NOTHING;
  const s = Math.max(0, now - time);
  if (s < 10) return "now";
  if (s < 60) return `${Math.round(s)} s ago`;
  if (s < 3600) return `${Math.round(s / 60)} min ago`;
  if (s < 172_800) return `${Math.round(s / 3600)} h ago`;
  return `${Math.round(s / 86_400)} d ago`;
}
