import { place, type Row } from "./board";
import styles from "./Leaderboard.module.css";

/** A rating's interval on the scale that all rows share; the figures beside it say the same. */
export function Interval({
  row,
  scale,
}: {
  row: Row;
  scale: { low: number; high: number } | null;
}) {
  if (scale === null || row.rating === null) return <span className={styles.interval} />;
  const low = place(row.low ?? row.rating, scale);
  const high = place(row.high ?? row.rating, scale);
  return (
    <span className={styles.interval} aria-hidden="true">
      <span className={styles.range} style={{ left: `${low}%`, width: `${high - low}%` }} />
      <span className={styles.point} style={{ left: `${place(row.rating, scale)}%` }} />
    </span>
  );
}
