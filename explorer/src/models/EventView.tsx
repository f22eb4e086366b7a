import { useEffect, useState } from "react";
import { moment } from "../charts/scales";
import { follow, SILENCE_MS } from "./follow";
import { keepLast } from "./LogView";
import styles from "./Streams.module.css";
import type { FleetEvent } from "./shapes";

const MOST_EVENTS = 500;

/** In the order in which they came: a model's own events have no other number. */
type Numbered = FleetEvent & { number: number };

/** What happened to a model, the newest first, as it happens. */
export function EventView({ model, admin }: { model: string; admin: boolean }) {
  const [happened, setHappened] = useState<Numbered[]>([]);
  const [trouble, setTrouble] = useState("");

  useEffect(() => {
    const ending = new AbortController();
    let number = 0;
    const path = admin
      ? `/api/events?${new URLSearchParams({ model, limit: "100", follow: "true" })}`
      : `/api/models/${encodeURIComponent(model)}/events?history=100`;
    void follow<FleetEvent>(path, ending.signal, SILENCE_MS, {
      onStart: () => {
        setTrouble("");
        setHappened([]);
      },
      onItem: (event) => {
        const came = { ...event, number: number++ };
        setHappened((before) => keepLast(before, [came], MOST_EVENTS));
      },
      onBreak: (error, final) =>
        setTrouble(final ? error.message : "The events broke off; trying again."),
    });
    return () => {
      ending.abort();
      setHappened([]);
    };
  }, [model, admin]);

  return (
    <div className={styles.stream}>
      {trouble && (
        <p className={styles.foot} role="status">
          {trouble}
        </p>
      )}
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard. */}
      <section className={styles.events} aria-label={`Events of ${model}`} tabIndex={0}>
        {happened.length === 0 && <p className="quiet">Nothing has happened yet.</p>}
        <ol>
          {happened.toReversed().map((event) => (
            <li key={event.number}>
              <time dateTime={new Date(event.time * 1000).toISOString()}>
                {moment(event.time, 1)}
              </time>
              <span className={styles.kind}>
                {(event.kind ?? event.state ?? "").replace("_", " ")}
              </span>
              <span className={styles.detail}>
                {event.detail}
                {event.replica && <code> {event.replica}</code>}
                {event.changed_by && <span className="quiet"> by {event.changed_by}</span>}
              </span>
            </li>
          ))}
        </ol>
      </section>
    </div>
  );
}
