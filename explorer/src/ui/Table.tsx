import { ArrowDown, ArrowUp } from "lucide-react";
import type { ReactNode } from "react";
import styles from "./Table.module.css";

export { styles as tableStyles };

/** The box of a wide table: it can be scrolled by keyboard too. */
export function TableBox({ label, children }: { label: string; children: ReactNode }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard.
    <section className={styles.box} aria-label={`${label}, scrolls`} tabIndex={0}>
      {children}
    </section>
  );
}

export type Order = "ascending" | "descending" | undefined;

/** A column's head that sorts by it. */
export function SortHead(props: {
  name: string;
  /** Of the column's figures; under the name. */
  unit?: string;
  /** What the figures are, for those who hover. */
  hint?: string;
  order: Order;
  number?: boolean;
  className?: string;
  onSort: () => void;
}) {
  const { name, unit, hint, order, number, className, onSort } = props;
  const Arrow = order === "ascending" ? ArrowUp : ArrowDown;
  return (
    <th
      scope="col"
      aria-sort={order ?? "none"}
      className={[number && styles.number, className].filter(Boolean).join(" ")}
    >
      <button type="button" className={styles.sort} onClick={onSort} title={hint}>
        <span>
          {name}
          {unit && <span className={styles.unit}> {unit}</span>}
        </span>
        <Arrow size={13} aria-hidden="true" />
      </button>
    </th>
  );
}

/** Rows that keep the place of those that are on their way. */
export function SkeletonRows({ rows, columns }: { rows: number; columns: number }) {
  return Array.from({ length: rows }, (_, row) => (
    <tr key={row}>
      {Array.from({ length: columns }, (_, column) => (
        <td key={column}>
          <span
            className={styles.bone}
            style={{ width: column === 1 ? 160 : 36 + ((row * 7 + column * 13) % 24) }}
          />
        </td>
      ))}
    </tr>
  ));
}
