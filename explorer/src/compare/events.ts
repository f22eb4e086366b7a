// The events of `POST /api/battles`, as docs/http.md ("Comparing models") has them.

import type { Schemas } from "../api/client";

export type StoredBattle = Schemas["StoredBattle"];
export type Verdict = Schemas["CastVote"]["verdict"];

/** What is known of an answer at its end, by the column's own clock at the server. */
export interface Figures {
  finish_reason: string;
  ttft_ms: number | null;
  latency_ms: number;
  prompt_tokens: number | null;
  completion_tokens: number | null;
  tokens_per_s: number | null;
  cost_usd: number | null;
}

interface OfColumn {
  column: number;
  at_ms: number;
}

export type BattleEvent =
  | { kind: "battle"; battle: string; columns: number; blind: boolean }
  | (OfColumn & { kind: "start"; model: string | null })
  | (OfColumn & { kind: "waiting"; state: string; progress: number | null; detail: string })
  | (OfColumn & { kind: "reasoning"; text: string })
  | (OfColumn & { kind: "text"; text: string })
  | (OfColumn & Figures & { kind: "end" })
  | (OfColumn & {
      kind: "error";
      error: { code: string; message: string; retryable: boolean };
    })
  | { kind: "stored"; stored: boolean };
