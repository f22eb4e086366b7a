import { type ReactNode, useId, useState } from "react";
import { Button } from "../ui/Button";
import styles from "./Chart.module.css";
import { WhenSeen } from "./WhenSeen";

export interface Mark {
  name: string;
  color: string;
  dash?: string;
  /** A filled patch instead of a line. */
  filled?: boolean;
}

/** How a series looks in its chart, as a small picture. */
export function Sample({ mark }: { mark: Mark }) {
  return (
    <svg width="18" height="10" aria-hidden="true">
      {mark.filled ? (
        <rect y="1" width="18" height="8" fill={mark.color} fillOpacity="0.35" />
      ) : (
        <line
          x2="18"
          y1="5"
          y2="5"
          stroke={mark.color}
          strokeWidth="2"
          {...(mark.dash ? { strokeDasharray: mark.dash } : {})}
        />
      )}
    </svg>
  );
}

/** A chart with its title, what it shows in a sentence, and the same as a table on demand. */
export function Figure(props: {
  title: string;
  summary: string;
  marks?: Mark[];
  height: number;
  head: string[];
  /** Of the table; made only when it is asked for. */
  rows: () => { key: string; cells: string[] }[];
  children: ReactNode;
}) {
  const { title, summary, marks, height, head, rows, children } = props;
  const [tabular, setTabular] = useState(false);
  const name = useId();
  return (
    <figure className={styles.figure} aria-labelledby={name}>
      <div className={styles.head}>
        <h2 id={name}>{title}</h2>
        <Button
          kind="plain"
          aria-pressed={tabular}
          label={`${title} as a table`}
          onClick={() => setTabular(!tabular)}
        >
          Table
        </Button>
      </div>
      <figcaption className={styles.summary}>{summary}</figcaption>
      {marks && (
        <ul className={styles.legend}>
          {marks.map((mark) => (
            <li key={mark.name}>
              <Sample mark={mark} />
              {mark.name}
            </li>
          ))}
        </ul>
      )}
      {tabular ? (
        <Rows title={title} height={height} head={head} rows={rows()} />
      ) : (
        <WhenSeen className={styles.space} height={height}>
          {children}
        </WhenSeen>
      )}
    </figure>
  );
}

function Rows(props: {
  title: string;
  height: number;
  head: string[];
  rows: { key: string; cells: string[] }[];
}) {
  const { title, height, head, rows } = props;
  return (
    <section
      className={styles.rows}
      style={{ height }}
      aria-label={`${title}, scrolls`}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard.
      tabIndex={0}
    >
      <table aria-label={title}>
        <thead>
          <tr>
            {head.map((cell) => (
              <th key={cell} scope="col">
                {cell}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map(({ key, cells: [first, ...others] }) => (
            <tr key={key}>
              <th scope="row">{first}</th>
              {others.map((cell, index) => (
                <td key={head[index + 1]}>{cell}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
