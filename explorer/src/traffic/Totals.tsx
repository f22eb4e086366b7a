import { count, duration, percent, short, usd } from "../ui/format";
import type { Figures } from "./shapes";
import styles from "./Traffic.module.css";

/** The period in a line of figures. */
export function Totals({ totals }: { totals: Figures | undefined }) {
  const share = totals && totals.requests > 0 ? totals.errors / totals.requests : null;
  const figures: [string, string, string?][] = [
    ["Queries", count(totals?.requests)],
    ["Users", count(totals?.users)],
    ["Errors", count(totals?.errors), share ? errorShare(share) : undefined],
    ["Tokens in", short(totals?.prompt_tokens), count(totals?.prompt_tokens)],
    ["Tokens out", short(totals?.completion_tokens), count(totals?.completion_tokens)],
    ["Cost", usd(totals?.cost_usd)],
  ];
  return (
    <div className={styles.totals}>
      <dl aria-label="Totals" className={styles.counts}>
        {figures.map(([name, value, hint]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd title={name.startsWith("Tokens") ? hint : undefined}>
              {value}
              {name === "Errors" && hint && <span className={styles.share}> {hint}</span>}
            </dd>
          </div>
        ))}
      </dl>
      <table className={styles.percentiles} aria-label="Percentiles">
        <thead>
          <tr>
            <td />
            <th scope="col">p50</th>
            <th scope="col">p95</th>
            <th scope="col">p99</th>
          </tr>
        </thead>
        <tbody>
          <tr>
            <th scope="row">TTFT</th>
            <td>{duration(totals?.ttft_p50_ms)}</td>
            <td>{duration(totals?.ttft_p95_ms)}</td>
            <td>{duration(totals?.ttft_p99_ms)}</td>
          </tr>
          <tr>
            <th scope="row">Latency</th>
            <td>{duration(totals?.latency_p50_ms)}</td>
            <td>{duration(totals?.latency_p95_ms)}</td>
            <td>{duration(totals?.latency_p99_ms)}</td>
          </tr>
        </tbody>
      </table>
    </div>
  );
}

function errorShare(share: number): string {
  return share < 0.005 ? "<1 %" : percent(share);
}
