import { type ReactNode, useEffect } from "react";
import styles from "./Page.module.css";

/** A page with its title in the window's title and at its top, and what belongs beside that. */
export function Page(props: { title: string; beside?: ReactNode; children: ReactNode }) {
  const { title, beside, children } = props;
  useEffect(() => {
    document.title = `${title} · Aviary`;
  }, [title]);
  return (
    <div className={styles.page}>
      <div className={styles.head}>
        <h1>{title}</h1>
        {beside}
      </div>
      {children}
    </div>
  );
}
