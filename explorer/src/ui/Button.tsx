import type { ButtonHTMLAttributes, ReactNode } from "react";
import styles from "./Button.module.css";

type Kind = "normal" | "primary" | "plain" | "danger";

type Props = ButtonHTMLAttributes<HTMLButtonElement> & {
  kind?: Kind;
  /** Shown alone; `label` is then read out and shown as a hint. */
  icon?: ReactNode;
  label?: string;
};

export function Button({ kind = "normal", icon, label, className, children, ...rest }: Props) {
  const alone = icon !== undefined && children === undefined;
  const names = [styles.button, kind !== "normal" && styles[kind], alone && styles.icon, className];
  return (
    <button
      type="button"
      className={names.filter(Boolean).join(" ")}
      aria-label={label}
      title={alone ? label : undefined}
      {...rest}
    >
      {icon}
      {children}
    </button>
  );
}
