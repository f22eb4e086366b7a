// What `GET /api/traffic` answers.

import type { Range } from "./search";

export interface Figures {
  requests: number;
  errors: number;
  users: number;
  prompt_tokens: number;
  completion_tokens: number;
  cost_usd: number;
  ttft_p50_ms: number | null;
  ttft_p95_ms: number | null;
  ttft_p99_ms?: number | null;
  latency_p50_ms: number | null;
  latency_p95_ms: number | null;
  latency_p99_ms?: number | null;
}

export interface Point extends Figures {
  /** When the step begins, in unix seconds. */
  t: number;
  /** Most requests that began within one second. */
  peak_rps: number;
}

export interface ModelFigures extends Figures {
  model: string;
}

export interface LengthCount {
  from: number;
  to: number;
  count: number;
}

export interface ReplicaPoint {
  t: number;
  ready: number;
  starting: number;
  sleeping: number;
  desired: number;
  reason: string;
}

export interface ReplicaHistory {
  model: string;
  points: ReplicaPoint[];
}

export interface Traffic {
  range: Range;
  from: number;
  to: number;
  step_s: number;
  totals: Figures;
  points: Point[];
  prompt_lengths: LengthCount[];
  completion_lengths: LengthCount[];
  models: ModelFigures[];
  replicas: ReplicaHistory[];
  /** Logged requests that are in none of this yet. */
  pending?: number;
}
