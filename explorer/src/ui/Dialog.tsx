import { Dialog as Primitive } from "radix-ui";
import type { ReactNode } from "react";
import styles from "./Dialog.module.css";

/** A dialog over the page; Escape and the backdrop close it, the focus stays in it. */
export function Dialog(props: {
  open: boolean;
  onOpenChange: (open: boolean) => void;
  title: string;
  description?: ReactNode;
  wide?: boolean;
  children: ReactNode;
}) {
  const { open, onOpenChange, title, description, wide, children } = props;
  return (
    <Primitive.Root open={open} onOpenChange={onOpenChange}>
      <Primitive.Portal>
        <Primitive.Overlay className={styles.overlay} />
        <Primitive.Content
          className={wide ? `${styles.dialog} ${styles.wide}` : styles.dialog}
          {...(description === undefined ? { "aria-describedby": undefined } : {})}
        >
          <Primitive.Title asChild>
            <h2>{title}</h2>
          </Primitive.Title>
          {description !== undefined && (
            <Primitive.Description className="quiet">{description}</Primitive.Description>
          )}
          {children}
        </Primitive.Content>
      </Primitive.Portal>
    </Primitive.Root>
  );
}

export function DialogButtons({ children }: { children: ReactNode }) {
  return <div className={styles.buttons}>{children}</div>;
}
