import { useEffect, useState } from "react";
import { duration } from "../ui/format";
import { type Battle, isRunning, letter, nameOf } from "./state";
import styles from "./Waterfall.module.css";

const TICK_MS = 100;
const STEPS = [1, 2, 2.5, 5, 10];

/** When each answer waited and was written, on one line of time. */
export function Waterfall({ battle, order }: { battle: Battle; order: readonly number[] }) {
  const now = useNow(battle.running);
  const rows = order.flatMap((number) => {
    const column = battle.columns[number];
    if (!column) return [];
    const start = column.startedAtMs ?? 0;
    const running = isRunning(column) && column.heardAtMs !== null;
    const end = running
      ? start + Math.max(0, now - (column.heardAtMs ?? now))
      : (column.endedAtMs ?? start);
    const first = column.firstAtMs;
    const woke = column.wokeAtMs === null ? start : Math.min(column.wokeAtMs, first ?? end);
    const bars = [
      { what: "waking", from: start, to: woke },
      { what: "first", from: woke, to: first ?? end },
      { what: "writing", from: first ?? end, to: end },
    ].filter(({ from, to }) => to > from);
    return [{ column, bars, end, total: end - start }];
  });
  const most = Math.max(1, ...rows.map(({ end }) => end));
  const ticks = ticksOf(most);
  const at = (ms: number) => `${(ms / most) * 100}%`;
  return (
    <section className={styles.waterfall} aria-label="Waterfall">
      <ol className={styles.rows}>
        {rows.map(({ column, bars, total }) => (
          <li key={column.number}>
            <span className={styles.name}>
              {nameOf(column, battle.blind) || letter(column.number)}
            </span>
            <span className={styles.track}>
              {ticks.map((tick) => (
                <i key={tick} style={{ left: at(tick) }} />
              ))}
              {bars.map(({ what, from, to }) => (
                <b
                  key={what}
                  data-what={what}
                  title={`${NAMES[what]}: ${duration(to - from)}`}
                  style={{ left: at(from), width: at(to - from) }}
                />
              ))}
            </span>
            <span className={styles.total}>
              {duration(total)}
              <span className="visually-hidden">
                {bars.map(({ what, from, to }) => `, ${NAMES[what]} ${duration(to - from)}`)}
              </span>
            </span>
          </li>
        ))}
      </ol>
      <div className={styles.axis} aria-hidden="true">
        <span className={styles.legend}>
          <b data-what="waking" /> waking <b data-what="first" /> to first token{" "}
          <b data-what="writing" /> writing
        </span>
        <span className={styles.ticks}>
          {ticks.map((tick) => (
            <span key={tick} style={{ left: at(tick) }}>
              {tick === 0 ? "0" : duration(tick)}
            </span>
          ))}
        </span>
        <span className={styles.total} />
      </div>
    </section>
  );
}

const NAMES: Record<string, string> = {
  waking: "waking",
  first: "to first token",
  writing: "writing",
};

/** Round times that divide the line in three to six parts. */
export function ticksOf(most: number): number[] {
  const rough = most / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * (STEPS.find((one) => one * power >= rough) ?? 10);
  const ticks: number[] = [];
  for (let tick = 0; tick <= most * 0.97; tick += step) ticks.push(tick);
  return ticks;
}

function useNow(running: boolean): number {
  const [now, setNow] = useState(() => performance.now());
  useEffect(() => {
    if (!running) return;
    const timer = setInterval(() => setNow(performance.now()), TICK_MS);
    return () => clearInterval(timer);
  }, [running]);
  return now;
}
