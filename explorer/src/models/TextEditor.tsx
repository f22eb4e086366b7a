import { type Ref, useId, useImperativeHandle, useRef } from "react";
import styles from "./TextEditor.module.css";

export interface TextEditorHandle {
  /** Puts the cursor on a line (from 1), and it in sight. */
  goTo: (line: number) => void;
}

const LEAST_LINES = 12;
const MOST_LINES = 26;

/** A text of lines with their numbers; `marked` lines have something wrong. */
export function TextEditor(props: {
  label: string;
  value: string;
  onChange: (value: string) => void;
  marked: ReadonlySet<number>;
  describedBy?: string | undefined;
  readOnly?: boolean;
  ref?: Ref<TextEditorHandle>;
}) {
  const { label, value, onChange, marked, describedBy, readOnly, ref } = props;
  const area = useRef<HTMLTextAreaElement>(null);
  const gutter = useRef<HTMLDivElement>(null);
  const hint = useId();
  const lines = value.split("\n");

  useImperativeHandle(ref, () => ({
    goTo(line) {
      const text = area.current;
      if (text === null) return;
      const start = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
      text.focus();
      text.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
      const height = text.scrollHeight / lines.length;
      text.scrollTop = Math.max(0, (line - 4) * height);
    },
  }));

  return (
    <div className={styles.editor}>
      <div className={styles.gutter} ref={gutter} aria-hidden="true">
        {lines.map((_, index) => (
          <div key={`${index + 1}`} className={marked.has(index + 1) ? styles.marked : undefined}>
            {index + 1}
          </div>
        ))}
      </div>
      <textarea
        ref={area}
        className={styles.text}
        aria-label={label}
        aria-invalid={marked.size > 0}
        aria-describedby={describedBy ? `${describedBy} ${hint}` : hint}
        value={value}
        readOnly={readOnly}
        onChange={(event) => onChange(event.target.value)}
        onScroll={(event) => {
          if (gutter.current) gutter.current.scrollTop = event.currentTarget.scrollTop;
        }}
        rows={Math.min(MOST_LINES, Math.max(LEAST_LINES, lines.length + 1))}
        wrap="off"
        spellCheck={false}
        autoCapitalize="off"
        autoCorrect="off"
        autoComplete="off"
      />
      <span id={hint} className="visually-hidden">
        YAML or JSON. {lines.length} lines.
      </span>
    </div>
  );
}
