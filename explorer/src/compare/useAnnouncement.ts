import { useEffect, useRef, useState } from "react";
import { duration } from "../ui/format";
import { type Battle, isRunning, letter, type Phase } from "./state";

/** What a screen reader says as columns end: one sentence each, none for a token. */
export function useAnnouncement(battle: Battle | null): string {
  const [said, setSaid] = useState("");
  const before = useRef<{ id: string | null; phases: Phase[] }>({ id: null, phases: [] });
  useEffect(() => {
    if (!battle) return;
    const { id, phases } = before.current;
    const news = battle.columns.flatMap((column, index) => {
      const was = id === battle.id ? phases[index] : undefined;
      const ran = was === "waiting" || was === "streaming";
      if (!ran || isRunning(column)) return [];
      const who = `Column ${index + 1}, ${column.model ?? letter(column.number)}`;
      if (column.error) return [`${who}, failed: ${column.error.message}`];
      return [`${who}, is ${column.phase} after ${duration(column.figures?.latency_ms)}.`];
    });
    before.current = { id: battle.id, phases: battle.columns.map(({ phase }) => phase) };
    if (news.length > 0) setSaid(news.join(" "));
  }, [battle]);
  return said;
}
