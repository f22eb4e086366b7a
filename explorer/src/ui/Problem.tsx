import { Button } from "./Button";
import styles from "./Problem.module.css";

/** Something went wrong: what, and a way to go on. */
export function Problem(props: { error: Error; retry?: () => void; action?: string }) {
  const { error, retry, action = "Try again" } = props;
  return (
    <div className={styles.problem} role="alert">
      <p>{error.message}</p>
      {retry && <Button onClick={retry}>{action}</Button>}
    </div>
  );
}
