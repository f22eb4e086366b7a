import { useEffect, useRef, useState } from "react";

const ARMED_MS = 3000;

export const KEYS: readonly (readonly [string, string])[] = [
  ["Enter", "Compare (Shift+Enter: new line)"],
  ["Ctrl+Enter", "Compare, from anywhere"],
  ["Alt+1 … 6", "Go to a column"],
  ["Alt+← →", "Previous or next column"],
  ["V, then 1 … 6", "Vote for a column"],
  ["V, then T or B", "Vote: tie, or all bad"],
  ["/", "Go to the prompt"],
  ["?", "This list"],
];

interface Actions {
  columns: number;
  onVote: (what: number | "tie" | "all_bad") => void;
  onSubmit?: () => void;
  onPrompt?: () => void;
  onHelp: () => void;
}

function inText(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.matches("input, textarea, select");
}

export function focusColumn(place: number): void {
  const column = document.getElementById(`column-${place}`);
  column?.scrollIntoView({ block: "nearest", inline: "start" });
  column?.focus({ preventScroll: true });
}

/** The keys of a page that compares; says whether the next key votes. */
export function useKeys(actions: Actions): boolean {
  const [armed, setArmed] = useState(false);
  const latest = useRef(actions);
  latest.current = actions;
  const until = useRef(0);

  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const disarm = () => {
      clearTimeout(timer);
      until.current = 0;
      setArmed(false);
    };
    function onKeyDown(event: KeyboardEvent) {
      if (event.defaultPrevented || document.querySelector("[role=dialog], [role=menu]")) return;
      const { columns, onVote, onSubmit, onPrompt, onHelp } = latest.current;
      const digit = /^(?:Digit|Numpad)([1-6])$/.exec(event.code)?.[1];
      if (event.altKey && !event.ctrlKey && !event.metaKey) {
        const focused = document.activeElement?.closest("[id^=column-]")?.id.slice(7);
        const at = focused ? Number(focused) : 0;
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        // On a Mac these keys go by words while somebody writes.
        const words = inText(event.target) && /Mac|iPhone|iPad/.test(navigator.userAgent);
        const to = digit ? Number(digit) : step && !words ? at + step : 0;
        if (digit || (step && !words)) event.preventDefault();
        if (to >= 1 && to <= columns) focusColumn(to);
        return;
      }
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        onSubmit?.();
        return;
      }
      if (event.ctrlKey || event.metaKey || inText(event.target)) return;
      const key = event.key.toLowerCase();
      if (until.current > 0) {
        const verdict = { t: "tie", b: "all_bad" }[key] as "tie" | "all_bad" | undefined;
        if (digit && Number(digit) <= columns) onVote(Number(digit));
        else if (verdict) onVote(verdict);
        if (event.key !== "Shift") disarm();
      } else if (key === "v") {
        until.current = 1;
        setArmed(true);
        timer = setTimeout(disarm, ARMED_MS);
      } else if (event.key === "?") onHelp();
      else if (event.key === "/" && onPrompt) {
        event.preventDefault();
        onPrompt();
      }
    }
    window.addEventListener("keydown", onKeyDown);
    return () => {
      window.removeEventListener("keydown", onKeyDown);
      clearTimeout(timer);
    };
  }, []);
  return armed;
}
