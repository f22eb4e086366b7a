import styles from "./Meter.module.css";

/** How far something is, from 0 to 1; null: on its way, nobody knows how far. */
export function Meter({ value, label }: { value: number | null; label: string }) {
  return (
    <span
      className={styles.meter}
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      {...(value === null ? {} : { "aria-valuenow": Math.round(value * 100) })}
    >
      <span
        className={value === null ? styles.unknown : styles.known}
        style={value === null ? undefined : { width: `${value * 100}%` }}
      />
    </span>
  );
}
