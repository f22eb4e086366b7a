import { useState } from "react";
import { Area, ComposedChart, Line, ResponsiveContainer, Tooltip, XAxis, YAxis } from "recharts";
import chart from "../charts/Chart.module.css";
import { type Mark, Sample } from "../charts/Figure";
import { greatest, moment, tickTime, timeTicks } from "../charts/scales";
import { AXIS_LINE, TICK } from "../charts/TimeChart";
import { Tip } from "../charts/Tip";
import { WhenSeen } from "../charts/WhenSeen";
import { Button } from "../ui/Button";
import { byChanges, replicaChanges } from "./series";
import type { ReplicaHistory, ReplicaPoint } from "./shapes";
import styles from "./Traffic.module.css";

const FIRST = 6;
const HISTORY_PX = 58;
const MOST_CHANGES = 200;
const READY: Mark = { name: "Ready", color: "var(--series-1)", filled: true };
const STARTING: Mark = { name: "Starting", color: "var(--series-2)", filled: true };
const WANTED: Mark = { name: "Wanted", color: "var(--text)", dash: "3 3" };

/** The replicas of each model over time, and why they changed. */
export function ReplicaHistories(props: { histories: ReplicaHistory[]; from: number; to: number }) {
  const { histories, from, to } = props;
  const [all, setAll] = useState(false);
  const ordered = byChanges(histories);
  const shown = all ? ordered : ordered.slice(0, FIRST);
  const changes = replicaChanges(histories);
  const span = to - from;
  const place = (t: number) => `${((t - from) / span) * 100}%`;
  if (histories.length === 0) return null;
  return (
    <section className={styles.replicas} aria-labelledby="replicas-over-time">
      <div className={chart.head}>
        <h2 id="replicas-over-time">Replicas over time</h2>
        {ordered.length > FIRST && (
          <Button kind="plain" onClick={() => setAll(!all)}>
            {all ? "Show fewer models" : `Show all ${ordered.length} models`}
          </Button>
        )}
      </div>
      <ul className={chart.legend}>
        {[READY, STARTING, WANTED].map((mark) => (
          <li key={mark.name}>
            <Sample mark={mark} />
            {mark.name}
          </li>
        ))}
      </ul>
      <div className={styles.histories}>
        {shown.map((history) => (
          <History key={history.model} history={history} from={from} to={to} />
        ))}
        <div className={styles.times} aria-hidden="true">
          {timeTicks(from, to, 8)
            .filter((t) => t - from > span * 0.02 && to - t > span * 0.02)
            .map((t) => (
              <span key={t} style={{ left: place(t) }}>
                {tickTime(t, span)}
              </span>
            ))}
        </div>
      </div>
      <h3>Changes</h3>
      {changes.length === 0 ? (
        <p className="quiet">The number of replicas did not change in this period.</p>
      ) : (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard.
        <section className={styles.changes} aria-label="Changes of replicas, scrolls" tabIndex={0}>
          <ol aria-label="Changes of replicas">
            {changes.slice(0, MOST_CHANGES).map((change) => (
              <li key={`${change.model} ${change.t} ${change.said}`}>
                <time dateTime={new Date(change.t * 1000).toISOString()}>
                  {moment(change.t, 1)}
                </time>
                <span className={styles.changed}>{change.model}</span>
                <span>{change.said}</span>
                <span className="quiet">{change.reason}</span>
              </li>
            ))}
          </ol>
        </section>
      )}
    </section>
  );
}

function History(props: { history: ReplicaHistory; from: number; to: number }) {
  const { history, from, to } = props;
  const last = history.points.at(-1);
  if (!last) return null;
  const points: (ReplicaPoint & { still?: boolean })[] = [
    ...history.points,
    { ...last, t: to, still: true },
  ];
  const most = Math.max(1, greatest(points.map((p) => Math.max(p.ready + p.starting, p.desired))));
  const now = `${last.ready} ready${last.sleeping > 0 ? `, ${last.sleeping} asleep` : ""}`;
  return (
    <div className={styles.history}>
      <div className={styles.historyName}>
        <span>{history.model}</span>
        <span className="quiet">{now}</span>
      </div>
      <WhenSeen height={HISTORY_PX}>
        <ResponsiveContainer width="100%" height="100%">
          <ComposedChart
            data={points}
            margin={{ top: 7, right: 0, bottom: 7, left: 0 }}
            aria-label={`Replicas of ${history.model}, now ${now}; arrow keys go through changes`}
          >
            <XAxis dataKey="t" type="number" domain={[from, to]} hide allowDataOverflow />
            <YAxis
              domain={[0, most]}
              ticks={[0, most]}
              width={24}
              tick={{ ...TICK, fontSize: 11 }}
              axisLine={AXIS_LINE}
              tickLine={false}
              interval={0}
            />
            <Tooltip
              isAnimationActive={false}
              cursor={{ stroke: "var(--line-strong)" }}
              wrapperStyle={{ zIndex: 3 }}
              allowEscapeViewBox={{ x: false, y: true }}
              content={({ active, payload }) => {
                const at = payload?.[0]?.payload as (typeof points)[number] | undefined;
                if (!active || !at) return null;
                return (
                  <Tip
                    title={at.still ? "Now" : moment(at.t, 1)}
                    figures={[
                      { mark: READY, name: "Ready", value: String(at.ready) },
                      { mark: STARTING, name: "Starting", value: String(at.starting) },
                      { mark: WANTED, name: "Wanted", value: String(at.desired) },
                      { name: "Asleep", value: String(at.sleeping) },
                    ]}
                  >
                    {at.reason && <p>{at.reason}</p>}
                  </Tip>
                );
              }}
            />
            <Area
              dataKey="ready"
              stackId="replicas"
              type="stepAfter"
              stroke={READY.color}
              fill={READY.color}
              fillOpacity={0.35}
              isAnimationActive={false}
              activeDot={{ r: 3, strokeWidth: 0, fill: READY.color }}
            />
            <Area
              dataKey="starting"
              stackId="replicas"
              type="stepAfter"
              stroke="none"
              fill={STARTING.color}
              fillOpacity={0.6}
              activeDot={false}
              isAnimationActive={false}
            />
            <Line
              dataKey="desired"
              type="stepAfter"
              stroke={WANTED.color}
              strokeDasharray={WANTED.dash ?? ""}
              dot={false}
              activeDot={false}
              isAnimationActive={false}
            />
          </ComposedChart>
        </ResponsiveContainer>
      </WhenSeen>
    </div>
  );
}
