import { useState } from "react";
import { dollarsOf, fixed } from "../ui/figures";
import { SortHead, TableBox, tableStyles } from "../ui/Table";
import { sortedModels } from "./series";
import type { ModelFigures } from "./shapes";
import styles from "./Traffic.module.css";

type Key = keyof ModelFigures;

const HEADS: { key: Key; name: string; unit?: string }[] = [
  { key: "model", name: "Model" },
  { key: "requests", name: "Queries" },
  { key: "users", name: "Users" },
  { key: "errors", name: "Errors" },
  { key: "prompt_tokens", name: "Tokens in" },
  { key: "completion_tokens", name: "Tokens out" },
  { key: "cost_usd", name: "Cost", unit: "$" },
  { key: "ttft_p50_ms", name: "TTFT p50", unit: "ms" },
  { key: "ttft_p95_ms", name: "TTFT p95", unit: "ms" },
  { key: "latency_p50_ms", name: "Latency p50", unit: "ms" },
  { key: "latency_p95_ms", name: "Latency p95", unit: "ms" },
];

/** The period's figures, a row for each model. */
export function ModelsTable({ models }: { models: ModelFigures[] }) {
  const [{ key, descending }, setSort] = useState<{ key: Key; descending: boolean }>({
    key: "requests",
    descending: true,
  });
  const cost = dollarsOf(
    models.map((model) => model.cost_usd),
    4,
  );
  return (
    <section className={styles.models} aria-labelledby="models-in-this-period">
      <h2 id="models-in-this-period">Models in this period</h2>
      <TableBox label="Models in this period">
        <table
          className={`${tableStyles.table} ${styles.table}`}
          aria-label="Models in this period"
        >
          <thead>
            <tr>
              {HEADS.map((head, index) => (
                <SortHead
                  key={head.key}
                  name={head.name}
                  {...(head.unit ? { unit: head.unit } : {})}
                  number={index > 0}
                  order={head.key === key ? (descending ? "descending" : "ascending") : undefined}
                  className={
                    index === 0
                      ? `${tableStyles.first} ${tableStyles.sticky}`
                      : index === HEADS.length - 1
                        ? (tableStyles.last ?? "")
                        : ""
                  }
                  onSort={() =>
                    setSort(
                      head.key === key
                        ? { key, descending: !descending }
                        : { key: head.key, descending: head.key !== "model" },
                    )
                  }
                />
              ))}
            </tr>
          </thead>
          <tbody>
            {sortedModels(models, key, descending).map((model) => (
              <tr key={model.model}>
                <th
                  scope="row"
                  className={`${tableStyles.first} ${tableStyles.sticky} ${styles.model}`}
                >
                  {model.model}
                </th>
                <td className={tableStyles.number}>{fixed(model.requests)}</td>
                <td className={tableStyles.number}>{fixed(model.users)}</td>
                <td className={tableStyles.number}>{fixed(model.errors)}</td>
                <td className={tableStyles.number}>{fixed(model.prompt_tokens)}</td>
                <td className={tableStyles.number}>{fixed(model.completion_tokens)}</td>
                <td className={tableStyles.number}>{cost(model.cost_usd)}</td>
                <td className={tableStyles.number}>{fixed(model.ttft_p50_ms)}</td>
                <td className={tableStyles.number}>{fixed(model.ttft_p95_ms)}</td>
                <td className={tableStyles.number}>{fixed(model.latency_p50_ms)}</td>
                <td className={`${tableStyles.number} ${tableStyles.last}`}>
                  {fixed(model.latency_p95_ms)}
                </td>
              </tr>
            ))}
            {models.length === 0 && (
              <tr>
                <td colSpan={HEADS.length} className={tableStyles.empty}>
                  No model was asked in this period.
                </td>
              </tr>
            )}
          </tbody>
        </table>
      </TableBox>
    </section>
  );
}
