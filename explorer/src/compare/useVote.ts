import { useCallback, useState } from "react";
import type { StoredBattle } from "./events";
import { castVote, type Vote } from "./run";

export interface Voting {
  vote: Vote | null;
  /** The server has it on its disk. */
  saved: boolean;
  saving: boolean;
  error: string;
  cast: (verdict: Vote["verdict"], column?: number | null, reason?: string) => void;
}

/** Casts and changes this browser's vote on a battle. */
export function useVote(
  battle: string | null,
  vote: Vote | null,
  onStored: (stored: StoredBattle) => void,
): Voting {
  const [pending, setPending] = useState<{ battle: string; vote: Vote } | null>(null);
  const [failed, setFailed] = useState({ battle: "", message: "" });
  const reason = vote?.reason ?? "";
  const cast = useCallback(
    async (verdict: Vote["verdict"], column: number | null = null, why = reason) => {
      if (battle === null) return;
      const next = { verdict, column, reason: why };
      setPending({ battle, vote: next });
      setFailed({ battle: "", message: "" });
      try {
        onStored(await castVote(battle, next));
      } catch (error) {
        setFailed({ battle, message: (error as Error).message });
      } finally {
        setPending((now) => (now?.vote === next ? null : now));
      }
    },
    [battle, reason, onStored],
  );
  const saving = pending !== null && pending.battle === battle;
  return {
    vote: saving ? pending.vote : vote,
    saving,
    saved: !saving && vote !== null,
    error: failed.battle === battle ? failed.message : "",
    cast: (...of) => void cast(...of),
  };
}
