import { Check, Copy } from "lucide-react";
import { memo, useEffect, useRef, useState } from "react";
import { Button } from "./Button";
import styles from "./Markdown.module.css";

const LINES_A_CHUNK = 60;

/** Code with a button that copies it. Long code is laid out in chunks, of which only the last grows. */
export function CodeBlock({ language, code }: { language: string; code: string }) {
  const cut = useRef<{ of: string; chunks: string[] }>({ of: "", chunks: [] });
  if (!code.startsWith(cut.current.of)) cut.current = { of: "", chunks: [] };
  const rest = code.slice(cut.current.of.length);
  const { whole, open } = chunksOf(rest);
  if (whole.length > 0) {
    cut.current = {
      of: code.slice(0, code.length - open.length),
      chunks: [...cut.current.chunks, ...whole],
    };
  }
  return (
    <div className={styles.code}>
      <div className={styles.codeHead}>
        <span dir="auto">{language}</span>
        <CopyButton text={code} label="Copy code" />
      </div>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: wide code is scrolled by keyboard. */}
      <pre tabIndex={0}>
        <code>
          {cut.current.chunks.map((chunk, index) => (
            <Chunk key={index} text={chunk} />
          ))}
          <Chunk text={open} />
        </code>
      </pre>
    </div>
  );
}

const Chunk = memo(function Chunk({ text }: { text: string }) {
  return <span className={styles.chunk}>{text}</span>;
});

/** Whole chunks of lines, and what is left. */
export function chunksOf(code: string): { whole: string[]; open: string } {
  const whole: string[] = [];
  let start = 0;
  let lines = 0;
  for (let at = code.indexOf("\n"); at >= 0; at = code.indexOf("\n", at + 1)) {
    lines += 1;
    if (lines < LINES_A_CHUNK) continue;
    whole.push(code.slice(start, at + 1));
    start = at + 1;
    lines = 0;
  }
  return { whole, open: code.slice(start) };
}

/** Copies `text`; a tick says that it has been. */
export function CopyButton({ text, label }: { text: string; label: string }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), 1500);
    return () => clearTimeout(timer);
  }, [copied]);
  return (
    <Button
      kind="plain"
      label={copied ? "Copied" : label}
      icon={copied ? <Check size={14} aria-hidden="true" /> : <Copy size={14} aria-hidden="true" />}
      onClick={() => void copyText(text).then(setCopied)}
    />
  );
}

/** Puts text on the clipboard, also where the page is not served securely. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.style.position = "fixed";
    area.style.opacity = "0";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
