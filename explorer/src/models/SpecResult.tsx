import type { Schemas } from "../api/client";
import styles from "./Spec.module.css";
import type { SpecProblem } from "./shapes";
import { fieldValue } from "./spec";

/** What is wrong with a text, and where. */
export function SpecProblems(props: { errors: SpecProblem[]; onGoTo: (line: number) => void }) {
  const { errors, onGoTo } = props;
  return (
    <>
      <h3>{errors.length === 1 ? "One thing is wrong" : `${errors.length} things are wrong`}</h3>
      <ul className={styles.problems}>
        {errors.map((error) => (
          <li key={`${error.line}:${error.column}:${error.field}:${error.message}`}>
            <span className={styles.place}>
              {error.line !== null ? (
                <button type="button" onClick={() => onGoTo(error.line as number)}>
                  Line {error.line}
                </button>
              ) : (
                "Whole text"
              )}
            </span>
            <span>
              {error.field && <code>{error.field}</code>}
              {error.field && " "}
              {error.message}
            </span>
          </li>
        ))}
      </ul>
    </>
  );
}

const VERBS: Record<string, string> = {
  added: "is added",
  changed: "changes",
  unchanged: "stays as it is",
  pruned: "is removed",
  kept: "is kept",
};

/** What a text would change, field by field. */
export function SpecDiff({ changes }: { changes: Schemas["Change"][] }) {
  return changes.map((change) => (
    <section key={change.model} className={styles.diff}>
      <h3>
        {change.model} {VERBS[change.action] ?? change.action}
      </h3>
      {change.action === "changed" && (
        <p className={change.restarts ? styles.restarts : "quiet"}>
          {change.restarts
            ? "Its replicas are replaced one after the other; no request is dropped."
            : "No replica restarts."}
        </p>
      )}
      {change.fields.length > 0 && change.action !== "added" && (
        <table className={styles.fields} aria-label={`Changes of ${change.model}`}>
          <thead>
            <tr>
              <th scope="col">Field</th>
              <th scope="col">Before</th>
              <th scope="col">After</th>
            </tr>
          </thead>
          <tbody>
            {change.fields.map((field) => (
              <tr key={field.field}>
                <th scope="row">
                  <code>{field.field}</code>
                </th>
                <td className={styles.before}>
                  <code>{fieldValue(field.before)}</code>
                </td>
                <td className={styles.after}>
                  <code>{fieldValue(field.after)}</code>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  ));
}
