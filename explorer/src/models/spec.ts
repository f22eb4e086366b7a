import type { Preview } from "./shapes";

/** A preview and the text it was made of. */
export interface Previewed {
  text: string;
  preview: Preview;
}

/**
 * Where a text stands: not looked at, changed since, wrong, without an effect, or `clean`, which
 * alone may be applied.
 */
export type PreviewState = "none" | "stale" | "wrong" | "unchanged" | "clean";

export function previewState(text: string, previewed: Previewed | null): PreviewState {
  if (previewed === null) return "none";
  if (previewed.text !== text) return "stale";
  const { errors, changes } = previewed.preview;
  if (errors.length > 0) return "wrong";
  return changes.every((change) => change.action === "unchanged") ? "unchanged" : "clean";
}

/** A field's value in a diff. */
export function fieldValue(value: unknown): string {
  if (value === null || value === undefined) return "not given";
  if (typeof value === "string") return value === "" ? '""' : value;
  return JSON.stringify(value, null, 1)
    .replace(/\n\s*/g, " ")
    .replace(/([[{]) /g, "$1")
    .replace(/ ([\]}])/g, "$1");
}
