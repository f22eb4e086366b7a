import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { me, models as polled } from "../api/queries";
import { follow } from "./follow";
import type { Live, Model } from "./shapes";

const SILENCE_MS = 8_000;

export interface Fleet {
  models: Model[] | undefined;
  /** How what is shown comes in. */
  feed: "connecting" | "live" | "polling" | "broken";
  error: Error | null;
  retry: () => void;
}

/** All models as they are now: followed live by those who may, else looked at every 5 s. */
export function useFleet(): Fleet {
  const who = useQuery(me);
  const role = who.data?.role ?? (who.isError ? "visitor" : undefined);
  const [refused, setRefused] = useState<string | null>(null);
  const [live, setLive] = useState<Model[] | undefined>();
  const [connected, setConnected] = useState<boolean | null>(null);
  const polling = role !== undefined && (role === "visitor" || role === refused);
  const found = useQuery({ ...polled, enabled: polling });

  useEffect(() => {
    if (role === undefined || polling) return;
    const ending = new AbortController();
    void follow<Live>("/api/live", ending.signal, SILENCE_MS, {
      onItem: ({ models }) => {
        setLive(models);
        setConnected(true);
      },
      onBreak: (_, final) => {
        setConnected(false);
        if (final) setRefused(role);
      },
    });
    return () => ending.abort();
  }, [role, polling]);

  if (polling)
    return {
      models: found.data as Model[] | undefined,
      feed: found.isError ? "broken" : "polling",
      error: found.error,
      retry: () => void found.refetch(),
    };
  return {
    models: live,
    feed: connected === null ? "connecting" : connected ? "live" : "broken",
    error: null,
    retry: () => undefined,
  };
}
