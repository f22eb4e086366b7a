import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef } from "react";
import { getJson } from "../api/client";
import { Problem } from "../ui/Problem";
import styles from "./Spec.module.css";
import { StateMark } from "./StateMark";
import type { Application } from "./shapes";

const WORDS: Record<string, string> = {
  rolling: "The new version starts; the old one answers meanwhile.",
  ready: "It is served.",
  sleeping: "It is in place, and sleeps until it is asked.",
  rolled_back: "It could not start. The version before was put back.",
  failed: "It could not start.",
  superseded: "A newer change took its place.",
  removed: "It is removed.",
};

/** Follows what becomes of an apply, to its end. */
export function ApplyOutcome({ id, onServed }: { id: string; onServed?: () => void }) {
  const queries = useQueryClient();
  const found = useQuery({
    queryKey: ["apply", id],
    queryFn: ({ signal }) => getJson<Application>(`/api/apply/${encodeURIComponent(id)}`, signal),
    refetchInterval: ({ state }) => (state.data?.done ? false : 1_000),
  });
  const served = useRef(onServed);
  served.current = onServed;
  const { data } = found;
  useEffect(() => {
    if (!data?.done) return;
    void queries.invalidateQueries({ queryKey: ["model"] });
    if (data.models.every(({ state }) => state === "ready" || state === "sleeping"))
      served.current?.();
  }, [data, queries]);

  if (found.isError) return <Problem error={found.error} retry={() => void found.refetch()} />;
  return (
    <>
      {!data && <p className="quiet">Applied.</p>}
      {data?.models.map((outcome) => (
        <section key={outcome.model} className={styles.outcome}>
          <h3>
            {outcome.model} <StateMark state={outcome.state} />
          </h3>
          <p>{WORDS[outcome.state]}</p>
          {outcome.detail && <p className={styles.cause}>{outcome.detail}</p>}
          {outcome.log.length > 0 && (
            // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard.
            <pre className={styles.log} aria-label="Last log lines" role="log" tabIndex={0}>
              {outcome.log.join("\n")}
            </pre>
          )}
        </section>
      ))}
    </>
  );
}
