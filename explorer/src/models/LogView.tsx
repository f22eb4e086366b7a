import { useEffect, useLayoutEffect, useRef, useState } from "react";
import { Button } from "../ui/Button";
import { follow, SILENCE_MS } from "./follow";
import styles from "./Streams.module.css";

const MOST_LINES = 2_000;
const SHOW_EVERY_MS = 120;
const AT_END_PX = 24;

/** The last `most` of both. */
export function keepLast<T>(before: readonly T[], more: readonly T[], most: number): T[] {
  if (more.length >= most) return more.slice(-most);
  return [...before.slice(Math.max(0, before.length + more.length - most)), ...more];
}

/** A model's log as it is written; stays at its end unless one scrolls up. */
export function LogView({ model }: { model: string }) {
  const [lines, setLines] = useState<string[]>([]);
  const [trouble, setTrouble] = useState("");
  const [following, setFollowing] = useState(true);
  const box = useRef<HTMLPreElement>(null);

  useEffect(() => {
    const ending = new AbortController();
    let waiting: string[] = [];
    let afresh = true;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const show = () => {
      timer = undefined;
      const [more, clear] = [waiting, afresh];
      waiting = [];
      afresh = false;
      setLines((before) => keepLast(clear ? [] : before, more, MOST_LINES));
    };
    const path = `/api/logs?${new URLSearchParams({ model, lines: "500", follow: "true" })}`;
    void follow<{ line: string }>(path, ending.signal, SILENCE_MS, {
      onStart: () => {
        waiting = [];
        afresh = true;
        setTrouble("");
      },
      onItem: ({ line }) => {
        waiting.push(line);
        timer ??= setTimeout(show, SHOW_EVERY_MS);
      },
      onBreak: (error, final) =>
        setTrouble(final ? error.message : "The log broke off; trying again."),
    });
    return () => {
      ending.abort();
      clearTimeout(timer);
      setLines([]);
    };
  }, [model]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: more lines move the end.
  useLayoutEffect(() => {
    if (following && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines, following]);

  return (
    <div className={styles.stream}>
      <pre
        ref={box}
        className={styles.log}
        role="log"
        aria-label={`Log of ${model}`}
        aria-live="off"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard.
        tabIndex={0}
        onScroll={({ currentTarget: at }) =>
          setFollowing(at.scrollHeight - at.scrollTop - at.clientHeight < AT_END_PX)
        }
      >
        {lines.length > 0 ? lines.join("\n") : "Nothing written yet."}
      </pre>
      <div className={styles.foot}>
        <span role="status">
          {trouble || (following ? "Follows the log." : "Stopped here while you read.")}
        </span>
        <Button kind="plain" disabled={following} onClick={() => setFollowing(true)}>
          To the newest line
        </Button>
      </div>
    </div>
  );
}
