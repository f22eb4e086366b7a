import { ChevronRight } from "lucide-react";
import { useId } from "react";
import { fixed } from "../ui/figures";
import { bytes } from "../ui/format";
import { Meter } from "../ui/Meter";
import { tableStyles } from "../ui/Table";
import { Actions } from "./Actions";
import { ModelPanel } from "./ModelPanel";
import styles from "./Models.module.css";
import { StateMark } from "./StateMark";
import type { Tab } from "./search";
import type { Model } from "./shapes";
import { readiness, startProgress } from "./state";

/** One model: a row of figures, and all about it below when it is open. */
export function ModelRow(props: {
  model: Model;
  cost: string;
  admin: boolean;
  open: boolean;
  tab: Tab;
  columns: number;
  onOpen: (open: boolean) => void;
  onTab: (tab: Tab) => void;
}) {
  const { model, cost, admin, open, tab, columns, onOpen, onTab } = props;
  const panel = useId();
  const progress = startProgress(model);
  const detail =
    model.detail ||
    (model.state === "ready" ? "" : model.replicas.find((replica) => replica.detail)?.detail);
  return (
    <>
      <tr className={open ? styles.open : undefined}>
        <th scope="row" className={`${tableStyles.first} ${tableStyles.sticky} ${styles.model}`}>
          <button
            type="button"
            className={styles.opener}
            aria-expanded={open}
            aria-controls={open ? panel : undefined}
            onClick={() => onOpen(!open)}
          >
            <ChevronRight size={15} aria-hidden="true" />
            <span className={styles.name}>{model.id}</span>
          </button>
          <span className={styles.tags}>{[model.engine, ...model.tags].join(" · ")}</span>
        </th>
        <td className={styles.state}>
          <StateMark state={model.state} />
          {model.state === "starting" && <Meter value={progress} label={`Start of ${model.id}`} />}
          {detail && (
            <span className={styles.detail} title={detail}>
              {detail}
            </span>
          )}
        </td>
        <td className={tableStyles.number}>{readiness(model)}</td>
        <td className={tableStyles.number}>{fixed(model.running)}</td>
        <td className={`${tableStyles.number} ${model.waiting > 0 ? styles.queue : ""}`}>
          {fixed(model.waiting)}
        </td>
        <td className={tableStyles.number}>{fixed(model.tokens_per_s, 1)}</td>
        <td className={tableStyles.number}>{bytes(model.memory_bytes)}</td>
        <td className={`${tableStyles.number} ${admin ? "" : tableStyles.last}`}>{cost}</td>
        {admin && (
          <td>
            <Actions model={model} />
          </td>
        )}
      </tr>
      {open && (
        <tr className={styles.panelRow}>
          <td colSpan={columns} id={panel}>
            <ModelPanel model={model} admin={admin} tab={tab} onTab={onTab} />
          </td>
        </tr>
      )}
    </>
  );
}
