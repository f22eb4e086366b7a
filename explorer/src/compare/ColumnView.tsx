import { Check, RotateCcw, Square } from "lucide-react";
import { memo, type ReactNode, useDeferredValue, useLayoutEffect, useRef, useState } from "react";
import { Button } from "../ui/Button";
import { CopyButton } from "../ui/CodeBlock";
import { percent } from "../ui/format";
import { Markdown } from "../ui/Markdown";
import { EMPTY } from "../ui/markdownText";
import styles from "./Column.module.css";
import { FiguresLine } from "./FiguresLine";
import type { Turn } from "./run";
import { type Column, isRunning, isWhole } from "./state";

/** A question and answer that came before. */
export interface Past {
  prompt: string;
  column: Column | null;
}

interface Props {
  /** Counted from 1, as it is seen. */
  place: number;
  name: string;
  head: ReactNode;
  /** Shown until something was asked. */
  blank?: ReactNode;
  /** What should be known about the answer, such as that another model gave it. */
  note?: string | undefined;
  column: Column | null;
  past?: readonly Past[];
  prompt?: string | undefined;
  best?: boolean;
  /** Absent where one cannot vote, or not yet. */
  onBest?: ((number: number) => void) | undefined;
  onStop?: ((number: number) => void) | undefined;
  onRetry?: ((number: number) => void) | undefined;
  /** False while nothing can be asked again. */
  mayRetry?: boolean;
}

const NEAR_END_PX = 40;

/** One model's answers with its clock and its buttons. */
export const ColumnView = memo(function ColumnView(props: Props) {
  const { place, name, head, blank, note, column, past = [], prompt, best, onBest } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const pinned = useRef(true);
  const ran = useRef(false);
  const running = column !== null && isRunning(column);

  // biome-ignore lint/correctness/useExhaustiveDependencies: what is shown is what moves the end.
  useLayoutEffect(() => {
    const box = scroller.current;
    // The last piece comes with the end.
    if (box && pinned.current && (running || ran.current)) box.scrollTop = box.scrollHeight;
    ran.current = running;
  }, [column, running]);

  return (
    <section
      className={styles.column}
      aria-label={`Column ${place}: ${name}`}
      aria-busy={running}
      data-phase={column?.phase}
      id={`column-${place}`}
      tabIndex={-1}
    >
      <header className={styles.head}>{head}</header>
      {/* biome-ignore lint/a11y/useSemanticElements: it is no set of fields. */}
      <div
        ref={scroller}
        className={styles.body}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: long answers are scrolled by keyboard.
        tabIndex={0}
        role="group"
        aria-label={`Answer of column ${place}`}
        onScroll={({ currentTarget: box }) => {
          pinned.current = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END_PX;
        }}
      >
        {past.map((turn, index) => (
          <PastTurn key={index} turn={turn} />
        ))}
        {prompt !== undefined && <p className={styles.prompt}>{prompt}</p>}
        {note && <p className={styles.note}>{note}</p>}
        {column?.note && <p className={styles.note}>{column.note}</p>}
        {column ? <Answer column={column} /> : blank}
      </div>
      <footer className={styles.foot}>
        <FiguresLine column={column} />
        <div className={styles.actions}>
          <Button
            className={best ? styles.best : undefined}
            aria-pressed={best ?? false}
            label={`Best: column ${place}`}
            disabled={!onBest || !column || !isWhole(column)}
            onClick={() => column && onBest?.(column.number)}
            icon={<Check size={15} aria-hidden="true" />}
          >
            Best
          </Button>
          <span className={styles.space} />
          {column && column.source !== "" && !running && (
            <CopyButton text={column.source} label={`Copy answer ${place}`} />
          )}
          {running && props.onStop ? (
            <Button
              kind="plain"
              label={`Stop column ${place}`}
              disabled={column.stopping}
              icon={<Square size={13} aria-hidden="true" />}
              onClick={() => props.onStop?.(column.number)}
            >
              Stop
            </Button>
          ) : (
            props.onRetry && (
              <Button
                kind="plain"
                label={`Retry column ${place}`}
                disabled={!column || props.mayRetry === false}
                icon={<RotateCcw size={14} aria-hidden="true" />}
                onClick={() => column && props.onRetry?.(column.number)}
              >
                Retry
              </Button>
            )
          )}
        </div>
      </footer>
    </section>
  );
});

const PastTurn = memo(function PastTurn({ turn }: { turn: Past }) {
  return (
    <div className={styles.past}>
      <p className={styles.prompt}>{turn.prompt}</p>
      {turn.column ? <Answer column={turn.column} /> : <p className="quiet">Was not asked.</p>}
    </div>
  );
});

function Answer({ column }: { column: Column }) {
  const running = isRunning(column);
  // A long answer that is there at once is drawn bit by bit, so that the page stays awake.
  const [atOnce, setAtOnce] = useState(!running);
  if (atOnce && running) setAtOnce(false);
  const later = useDeferredValue(atOnce ? column.text : EMPTY, EMPTY);
  return (
    <>
      {column.phase === "waiting" && <Waiting column={column} />}
      {column.reasoning !== "" && (
        <details className={styles.reasoning}>
          <summary>Reasoning</summary>
          <p>{column.reasoning}</p>
        </details>
      )}
      {column.source !== "" && (
        <div data-testid="answer">
          <Markdown text={atOnce ? later : column.text} growing={running} />
        </div>
      )}
      {column.phase === "done" && column.source === "" && (
        <p className="quiet">The answer is empty.</p>
      )}
      {column.error && (
        <div className={styles.error} role="alert">
          <p>{column.error.message}</p>
          {column.error.code && <code>{column.error.code}</code>}
        </div>
      )}
    </>
  );
}

const WAITING: Record<string, string> = {
  sleeping: "Waking the model",
  waiting: "Waiting for the model",
};

function Waiting({ column }: { column: Column }) {
  const { wait } = column;
  if (!wait) return <span className={styles.caret} aria-hidden="true" />;
  const { state, progress, detail } = wait;
  return (
    <div className={styles.waking}>
      <div className={styles.wakingLine}>
        <span>{WAITING[state] ?? `The model is ${state}`}</span>
        <span>{progress === null ? "" : percent(progress)}</span>
      </div>
      <div
        className={styles.progress}
        role="progressbar"
        aria-label="The model gets ready"
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={progress === null ? undefined : Math.round(progress * 100)}
        data-unknown={progress === null || undefined}
      >
        <span style={{ width: `${(progress ?? 0) * 100}%` }} />
      </div>
      {detail && <p className={styles.detail}>{detail}</p>}
    </div>
  );
}

/** What a column of the page was asked and has answered before. */
export function pastOf(turns: readonly Turn[], id: string): Past[] {
  return turns.map((turn) => ({
    prompt: turn.prompt,
    column: turn.battle.columns[turn.ids.indexOf(id)] ?? null,
  }));
}
