import { useEffect, useState } from "react";
import { count, duration, rate, usd } from "../ui/format";
import styles from "./Column.module.css";
import { type Column, isHidden } from "./state";

const TICK_MS = 100;

/** The quiet line under an answer. It has its place from the start; what is not known yet is a dash. */
export function FiguresLine({ column }: { column: Column | null }) {
  const figures = column?.figures;
  const ttft =
    figures?.ttft_ms ??
    (column?.firstAtMs != null && column.startedAtMs !== null
      ? column.firstAtMs - column.startedAtMs
      : null);
  const running = column?.heardAtMs != null && isTicking(column);
  const tokens =
    figures?.prompt_tokens != null || figures?.completion_tokens != null
      ? `${count(figures?.prompt_tokens)} / ${count(figures?.completion_tokens)}`
      : "–";
  return (
    <dl className={styles.figures} data-testid="figures">
      <Cell name="State" value={stateOf(column)} phase={column?.phase} />
      <Cell name="TTFT" hint="Time to first token" value={duration(ttft)} />
      <div>
        <dt>Latency</dt>
        <dd>
          {running ? <Running sinceMs={column.heardAtMs as number} /> : duration(latencyOf(column))}
        </dd>
      </div>
      <Cell name="Tokens/s" hint="After the first token" value={rate(figures?.tokens_per_s)} />
      <Cell name="In / out" hint="Tokens of the prompt and the answer" value={tokens} />
      <Cell name="Cost" value={isHidden(column) ? "–" : usd(figures?.cost_usd)} />
    </dl>
  );
}

function Cell(props: { name: string; value: string; hint?: string; phase?: string | undefined }) {
  return (
    <div title={props.hint}>
      <dt>{props.name}</dt>
      <dd data-phase={props.phase}>{props.value}</dd>
    </div>
  );
}

function isTicking(column: Column): boolean {
  return column.phase === "waiting" || column.phase === "streaming";
}

function latencyOf(column: Column | null): number | null {
  if (!column) return null;
  if (column.figures) return column.figures.latency_ms;
  if (column.endedAtMs === null || column.startedAtMs === null) return null;
  return column.endedAtMs - column.startedAtMs;
}

/** In a word, with why it ended if that is not the ordinary way. */
export function stateOf(column: Column | null): string {
  if (!column) return "–";
  if (column.stopping) return "stopping";
  switch (column.phase) {
    case "waiting":
      return column.wait ? column.wait.state : "waiting";
    case "streaming":
      return column.source === "" ? "thinking" : "writing";
    case "stopped":
      return "stopped";
    case "error":
      return "failed";
    case "done":
      return column.figures?.finish_reason === "length" ? "cut at max" : "done";
  }
}

function Running({ sinceMs }: { sinceMs: number }) {
  const [now, setNow] = useState(() => performance.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(performance.now()), TICK_MS);
    return () => clearInterval(timer);
  }, []);
  return `${(Math.max(0, now - sinceMs) / 1000).toFixed(1)} s`;
}
