import styles from "./StateMark.module.css";
import { LOOKS } from "./state";

const SHAPES = {
  full: <circle cx="6" cy="6" r="4.5" fill="currentColor" />,
  half: (
    <>
      <circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" strokeWidth="1.5" />
      <path d="M6 2a4 4 0 0 1 0 8z" fill="currentColor" />
    </>
  ),
  ring: <circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" strokeWidth="1.5" />,
  cross: <path d="M2.5 2.5l7 7m0-7l-7 7" stroke="currentColor" strokeWidth="2" />,
  square: (
    <rect x="2" y="2" width="8" height="8" fill="none" stroke="currentColor" strokeWidth="1.5" />
  ),
};

/** A state: its word, and a shape and a colour that go with it. */
export function StateMark({ state }: { state: string }) {
  const { shape, tone } = LOOKS[state] ?? { shape: "ring", tone: "quiet" };
  return (
    <span className={styles.mark}>
      <svg width="12" height="12" viewBox="0 0 12 12" className={styles[tone]} aria-hidden="true">
        {SHAPES[shape]}
      </svg>
      {state.replace("_", " ")}
    </span>
  );
}
