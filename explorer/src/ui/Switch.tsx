import { Switch as Primitive } from "radix-ui";
import { useId } from "react";
import styles from "./Switch.module.css";

export function Switch(props: {
  label: string;
  checked: boolean;
  onChange: (checked: boolean) => void;
  disabled?: boolean;
  hint?: string;
}) {
  const { label, checked, onChange, disabled, hint } = props;
  const id = useId();
  return (
    <span className={styles.field} title={hint}>
      <Primitive.Root
        id={id}
        className={styles.switch}
        checked={checked}
        onCheckedChange={onChange}
        disabled={disabled}
      >
        <Primitive.Thumb className={styles.thumb} />
      </Primitive.Root>
      <label htmlFor={id}>{label}</label>
    </span>
  );
}
