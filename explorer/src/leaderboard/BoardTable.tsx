import { useTable } from "@tanstack/react-table";
import { useMemo } from "react";
import { dollarsOf, fixed, points } from "../ui/figures";
import { ago } from "../ui/format";
import { type Order, SkeletonRows, SortHead, TableBox, tableStyles } from "../ui/Table";
import { type Row, ratingScale } from "./board";
import { columns, features } from "./columns";
import { Interval } from "./Interval";
import styles from "./Leaderboard.module.css";

const NO_ROWS: Row[] = [];
const NARROW = new Set(["rank"]);

/** Of the columns, whatever is in them; the model takes the rest. */
const WIDTHS_PX: Record<string, number | undefined> = {
  rank: 64,
  rating: 262,
  votes: 76,
  win_rate: 84,
  judge: 70,
  ttft_p50_ms: 86,
  tokens_per_s: 82,
  mean_answer_tokens: 78,
  cost_per_answer_usd: 110,
  cost_per_million_tokens_usd: 92,
  last_seen: 104,
};

/** The leaderboard; `sort` as the address has it. */
export function BoardTable(props: {
  rows: Row[] | undefined;
  sort: string | undefined;
  onSort: (sort: string | undefined) => void;
}) {
  const { rows = NO_ROWS, sort, onSort } = props;
  const sorting = useMemo(() => {
    const id = (sort ?? "-rating").replace(/^-/, "");
    return columns.some((column) => column.id === id)
      ? [{ id, desc: (sort ?? "-rating").startsWith("-") }]
      : [];
  }, [sort]);
  const table = useTable({
    features,
    columns,
    data: rows,
    enableSortingRemoval: false,
    enableMultiSort: false,
    state: { sorting },
    onSortingChange: (change) => {
      const [first] = typeof change === "function" ? change(sorting) : change;
      onSort(first && `${first.desc ? "-" : ""}${first.id}`);
    },
  });
  const write = useMemo(
    () => ({
      scale: ratingScale(rows),
      perAnswer: dollarsOf(rows.map((row) => row.cost_per_answer_usd)),
      perMillion: dollarsOf(
        rows.map((row) => row.cost_per_million_tokens_usd),
        3,
      ),
    }),
    [rows],
  );

  return (
    <TableBox label="Leaderboard">
      <table
        className={`${tableStyles.table} ${styles.table}`}
        aria-label="Leaderboard"
        aria-busy={props.rows === undefined}
      >
        <colgroup>
          {columns.map((column) => (
            <col key={column.id} style={{ width: WIDTHS_PX[column.id ?? ""] }} />
          ))}
        </colgroup>
        <thead>
          {table.getHeaderGroups().map((group) => (
            <tr key={group.id}>
              {group.headers.map((header) => {
                const { name, unit, hint, number } = header.column.columnDef.meta ?? { name: "" };
                const sorted = header.column.getIsSorted();
                const order: Order =
                  sorted === "asc" ? "ascending" : sorted === "desc" ? "descending" : undefined;
                return (
                  <SortHead
                    key={header.id}
                    name={name}
                    {...(unit ? { unit } : {})}
                    {...(hint ? { hint } : {})}
                    number={number === true && !NARROW.has(header.id) && header.id !== "rating"}
                    order={order}
                    onSort={() => header.column.toggleSorting()}
                    className={HEAD_CLASSES[header.id] ?? ""}
                  />
                );
              })}
            </tr>
          ))}
        </thead>
        <tbody>
          {props.rows === undefined && <SkeletonRows rows={8} columns={columns.length} />}
          {table.getRowModel().rows.map(({ original: row }) => (
            <tr key={row.model}>
              <td className={`${tableStyles.first} ${styles.rank}`}>{row.rank ?? "–"}</td>
              <th scope="row" className={`${tableStyles.sticky} ${styles.model}`}>
                <span className={styles.name}>{row.model}</span>
                {(row.tags.length > 0 || !row.served) && (
                  <span className={styles.tags}>
                    {!row.served && <span className={styles.gone}>not served</span>}
                    {row.tags.join(" · ")}
                  </span>
                )}
              </th>
              <td>
                <span className={styles.rating}>
                  <span className={styles.points}>{points(row.rating)}</span>
                  <Interval row={row} scale={write.scale} />
                  <span className={styles.ends}>
                    {row.low !== null &&
                      row.high !== null &&
                      `${points(row.low)} – ${points(row.high)}`}
                  </span>
                </span>
              </td>
              <td className={tableStyles.number}>{fixed(row.votes)}</td>
              <td className={tableStyles.number}>
                {fixed(row.win_rate === null ? null : row.win_rate * 100, 1)}
              </td>
              <td className={tableStyles.number}>{points(row.judge)}</td>
              <td className={tableStyles.number}>{fixed(row.ttft_p50_ms)}</td>
              <td className={tableStyles.number}>{fixed(row.tokens_per_s, 1)}</td>
              <td className={tableStyles.number}>{fixed(row.mean_answer_tokens)}</td>
              <td className={tableStyles.number}>{write.perAnswer(row.cost_per_answer_usd)}</td>
              <td className={tableStyles.number}>
                {write.perMillion(row.cost_per_million_tokens_usd)}
              </td>
              <td className={`${tableStyles.number} ${tableStyles.last} ${styles.seen}`}>
                {row.last_seen === null ? (
                  "–"
                ) : (
                  <time
                    dateTime={new Date(row.last_seen * 1000).toISOString()}
                    title={new Date(row.last_seen * 1000).toLocaleString()}
                  >
                    {ago(row.last_seen)}
                  </time>
                )}
              </td>
            </tr>
          ))}
          {props.rows?.length === 0 && (
            <tr>
              <td colSpan={columns.length} className={tableStyles.empty}>
                No model matches these filters.
              </td>
            </tr>
          )}
        </tbody>
      </table>
    </TableBox>
  );
}

const HEAD_CLASSES: Record<string, string | undefined> = {
  rank: tableStyles.first,
  model: tableStyles.sticky,
  last_seen: tableStyles.last,
};
