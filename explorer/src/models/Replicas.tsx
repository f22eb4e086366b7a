import { fixed } from "../ui/figures";
import { ago, bytes } from "../ui/format";
import { Meter } from "../ui/Meter";
import { tableStyles } from "../ui/Table";
import styles from "./Models.module.css";
import { StateMark } from "./StateMark";
import type { Model } from "./shapes";

/** A model's replicas, one a row. */
export function Replicas({ model }: { model: Model }) {
  if (model.replicas.length === 0) return <p className="quiet">It has no replicas now.</p>;
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard.
    <section className={styles.replicas} aria-label="Replicas, scrolls" tabIndex={0}>
      <table className={tableStyles.table} aria-label={`Replicas of ${model.id}`}>
        <thead>
          <tr>
            <th scope="col">Replica</th>
            <th scope="col">State</th>
            <th scope="col">Since</th>
            <th scope="col" className={tableStyles.number}>
              Running
            </th>
            <th scope="col" className={tableStyles.number}>
              Queue
            </th>
            <th scope="col" className={tableStyles.number}>
              Tokens/s
            </th>
            <th scope="col" className={tableStyles.number}>
              Memory
            </th>
            <th scope="col" className={tableStyles.number}>
              Restarts
            </th>
            <th scope="col">Process</th>
          </tr>
        </thead>
        <tbody>
          {model.replicas.map((replica) => (
            <tr key={replica.id}>
              <th scope="row">
                <code>{replica.id}</code>
              </th>
              <td className={styles.replicaState}>
                <StateMark state={replica.state} />
                {replica.state === "starting" && (
                  <Meter value={replica.progress} label={`Start of ${replica.id}`} />
                )}
                {replica.detail && <span className={styles.detail}>{replica.detail}</span>}
              </td>
              <td className={styles.quiet}>{ago(replica.since)}</td>
              <td className={tableStyles.number}>{fixed(replica.running)}</td>
              <td className={tableStyles.number}>{fixed(replica.waiting)}</td>
              <td className={tableStyles.number}>{fixed(replica.tokens_per_s, 1)}</td>
              <td className={tableStyles.number}>{bytes(replica.memory_bytes)}</td>
              <td className={tableStyles.number}>{fixed(replica.restarts)}</td>
              <td className={styles.quiet}>
                {replica.pid > 0 && `pid ${replica.pid}`}
                {replica.node && ` on ${replica.node}`}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
