import type { Model } from "./shapes";

export type Shape = "full" | "half" | "ring" | "cross" | "square";
export type Tone = "good" | "warn" | "bad" | "quiet";

/** How a state looks: a shape and a colour beside its word, so that neither is needed alone. */
export const LOOKS: Record<string, { shape: Shape; tone: Tone }> = {
  ready: { shape: "full", tone: "good" },
  starting: { shape: "half", tone: "warn" },
  rolling: { shape: "half", tone: "warn" },
  stopping: { shape: "half", tone: "quiet" },
  sleeping: { shape: "ring", tone: "quiet" },
  stopped: { shape: "square", tone: "quiet" },
  removed: { shape: "square", tone: "quiet" },
  superseded: { shape: "square", tone: "quiet" },
  failed: { shape: "cross", tone: "bad" },
  rolled_back: { shape: "cross", tone: "bad" },
};

const ORDER = ["failed", "starting", "ready", "sleeping", "stopped"] as const;

/** `12 models · 1 failed · 9 ready`: what wants a look first. */
export function summary(models: readonly Model[]): string {
  const counts = ORDER.map(
    (state) => [models.filter((m) => m.state === state).length, state] as const,
  );
  return [
    `${models.length} ${models.length === 1 ? "model" : "models"}`,
    ...counts.filter(([n]) => n > 0).map(([n, state]) => `${n} ${state}`),
  ].join(" · ");
}

/** How many of a model's replicas are ready, of how many there should be. */
export function readiness(model: Model): string {
  const ready = model.replicas.filter((replica) => replica.state === "ready").length;
  return `${ready} / ${model.desired_replicas}`;
}

/** The progress of what starts, from 0 to 1; null when nothing does, or nobody knows. */
export function startProgress(model: Model): number | null {
  const known = model.replicas
    .filter((replica) => replica.state === "starting")
    .flatMap((replica) => (replica.progress === null ? [] : [replica.progress]));
  return known.length === 0 ? null : Math.min(...known);
}
