import { useId } from "react";
import styles from "./Segments.module.css";

/** One of a few, all in sight. */
export function Segments<T extends string>(props: {
  label: string;
  value: T;
  onChange: (value: T) => void;
  options: readonly (readonly [T, string])[];
}) {
  const { label, value, onChange, options } = props;
  const name = useId();
  return (
    <div role="radiogroup" aria-label={label} className={styles.segments}>
      {options.map(([option, shown]) => (
        <label key={option} className={styles.segment}>
          <input
            type="radio"
            name={name}
            value={option}
            checked={option === value}
            onChange={() => onChange(option)}
          />
          <span>{shown}</span>
        </label>
      ))}
    </div>
  );
}
