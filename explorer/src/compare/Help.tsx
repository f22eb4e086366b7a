import { Dialog } from "../ui/Dialog";
import styles from "./Compare.module.css";
import { KEYS } from "./useKeys";

export function Help(props: { open: boolean; onOpenChange: (open: boolean) => void }) {
  return (
    <Dialog {...props} title="Keys">
      <dl className={styles.keys}>
        {KEYS.map(([key, what]) => [
          <dt key={key}>
            <kbd>{key}</kbd>
          </dt>,
          <dd key={what}>{what}</dd>,
        ])}
      </dl>
    </Dialog>
  );
}
