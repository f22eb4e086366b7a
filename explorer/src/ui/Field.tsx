import type { ReactNode } from "react";
import styles from "./Field.module.css";

/** A labelled control. */
export function Field({ label, children }: { label: string; children: ReactNode }) {
  return (
    // biome-ignore lint/a11y/noLabelWithoutControl: the control is among the children.
    <label className={styles.field}>
      <span>{label}</span>
      {children}
    </label>
  );
}

export const inputClass = styles.input;
