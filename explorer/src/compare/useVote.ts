import { useCallback, useRef, useState } from "react";
import { makeCasts } from "./casts";
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
  const [failed, setFailed] = useState<{ battle: string; reason: string; message: string }>();
  const take = useRef(onStored);
  take.current = onStored;
  const [send] = useState(() =>
    makeCasts(castVote, {
      stored: (stored) => take.current(stored),
      failed: (battle, { reason }, { message }) => setFailed({ battle, reason, message }),
      settled: (battle) => setPending((now) => (now?.battle === battle ? null : now)),
    }),
  );
  const saving = pending !== null && pending.battle === battle;
  const shown = saving ? pending.vote : vote;
  const failure = failed?.battle === battle ? failed : undefined;
  // A reason that could not be saved is still in its field, and goes with the next vote.
  const reason = failure?.reason ?? shown?.reason ?? "";
  const cast = useCallback(
    (verdict: Vote["verdict"], column: number | null = null, why = reason) => {
      if (battle === null) return;
      const next = { verdict, column, reason: why };
      setPending({ battle, vote: next });
      setFailed(undefined);
      send(battle, next);
    },
    [battle, reason, send],
  );
  return {
    vote: shown,
    saving,
    saved: !saving && !failure && vote !== null,
    error: failure?.message ?? "",
    cast,
  };
}
