import type { ReactNode } from "react";
import styles from "./Chart.module.css";
import { type Mark, Sample } from "./Figure";

/** What a chart shows at one place. */
export function Tip(props: {
  title: string;
  figures: { mark?: Mark; name: string; value: string }[];
  children?: ReactNode;
}) {
  const { title, figures, children } = props;
  return (
    <div className={styles.tip} role="status">
      <strong>{title}</strong>
      {children}
      <dl>
        {figures.map(({ mark, name, value }) => (
          <div key={name} className={styles.pair}>
            <dt>
              {mark && <Sample mark={mark} />}
              {name}
            </dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </div>
  );
}
