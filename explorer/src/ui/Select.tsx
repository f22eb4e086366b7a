import styles from "./Select.module.css";

/** One of several, from a list; its label stands before it. */
export function Select(props: {
  label: string;
  value: string;
  onChange: (value: string) => void;
  /** Value and what is shown for it. */
  options: readonly (readonly [string, string])[];
}) {
  const { label, value, onChange, options } = props;
  const known = options.some(([option]) => option === value);
  return (
    <label className={styles.field}>
      <span>{label}</span>
      <select value={value} onChange={(event) => onChange(event.target.value)}>
        {!known && <option value={value}>{value}</option>}
        {options.map(([option, shown]) => (
          <option key={option} value={option}>
            {shown}
          </option>
        ))}
      </select>
    </label>
  );
}
