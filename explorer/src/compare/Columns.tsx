import { type ReactNode, useEffect, useRef, useState } from "react";
import styles from "./Compare.module.css";
import { Dot } from "./ModelSelect";
import { type Column, isRunning } from "./state";

export interface Pane {
  name: string;
  column: Column | null;
}

/** Columns of the same width; where there is no room for them side by side, one at a time. */
export function Columns({ panes, children }: { panes: readonly Pane[]; children: ReactNode }) {
  const box = useRef<HTMLDivElement>(null);
  const [shown, setShown] = useState(0);
  useEffect(() => {
    if (shown >= panes.length) setShown(Math.max(0, panes.length - 1));
  }, [shown, panes.length]);
  return (
    <>
      <nav className={styles.switch} aria-label="Columns">
        {panes.map(({ name, column }, index) => (
          <button
            key={index}
            type="button"
            aria-label={`Show column ${index + 1}`}
            aria-current={index === shown || undefined}
            onClick={() => {
              const { current } = box;
              current?.scrollTo({ left: index * current.clientWidth, behavior: "smooth" });
            }}
          >
            <Dot state={dotOf(column)} />
            <span>{name || index + 1}</span>
          </button>
        ))}
      </nav>
      <div
        ref={box}
        className={styles.columns}
        style={{ "--count": panes.length } as React.CSSProperties}
        onScroll={({ currentTarget: { scrollLeft, clientWidth } }) => {
          if (clientWidth > 0) setShown(Math.round(scrollLeft / clientWidth));
        }}
      >
        {children}
      </div>
    </>
  );
}

function dotOf(column: Column | null): string {
  if (!column) return "none";
  if (isRunning(column)) return "starting";
  return column.phase === "error" ? "failed" : "ready";
}
