import { Button } from "./Button";
import styles from "./Problem.module.css";

/** Something went wrong: what, and a way to go on. */
export function Problem({ error, retry }: { error: Error; retry?: () => void }) {
  return (
    <div className={styles.problem} role="alert">
      <p>{error.message}</p>
      {retry && <Button onClick={retry}>Try again</Button>}
    </div>
  );
}
