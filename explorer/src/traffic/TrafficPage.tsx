import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { useMemo } from "react";
import { getJson } from "../api/client";
import { models as allModels, me } from "../api/queries";
import { type Series, TimeChart } from "../charts/TimeChart";
import { Page } from "../shell/Page";
import { count, duration, short } from "../ui/format";
import { Problem } from "../ui/Problem";
import { Segments } from "../ui/Segments";
import { Select } from "../ui/Select";
import { Lengths } from "./Lengths";
import { ModelsTable } from "./ModelsTable";
import { ReplicaHistories } from "./ReplicaHistories";
import type { Range, TrafficSearch } from "./search";
import {
  errorsSaid,
  percentilesSaid,
  queriesSaid,
  type Step,
  stepName,
  steps,
  tokensSaid,
} from "./series";
import type { Traffic } from "./shapes";
import { Totals } from "./Totals";
import styles from "./Traffic.module.css";

const route = getRouteApi("/traffic");

const RANGES: readonly (readonly [Range, string])[] = [
  ["5m", "5 min"],
  ["1h", "1 h"],
  ["24h", "24 h"],
  ["7d", "7 d"],
  ["30d", "30 d"],
];

const REFRESH_MS: Record<Range, number> = {
  "5m": 5_000,
  "1h": 15_000,
  "24h": 60_000,
  "7d": 120_000,
  "30d": 120_000,
};

/** Who asked what, how fast the answers were, and how many replicas gave them. */
export function TrafficPage() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const visitor = useQuery(me).data?.role === "visitor";
  const models = useQuery(allModels).data ?? [];
  const range = search.range ?? "1h";
  const query = new URLSearchParams({ range, ...(search.model ? { model: search.model } : {}) });
  const path = `/api/traffic?${query}`;
  const found = useQuery({
    queryKey: ["traffic", path],
    queryFn: ({ signal }) => getJson<Traffic>(path, signal),
    refetchInterval: REFRESH_MS[range],
    placeholderData: keepPreviousData,
    enabled: !visitor,
  });

  function show(part: TrafficSearch) {
    void navigate({
      search: (before) => ({ ...before, ...part }),
      replace: true,
      resetScroll: false,
    });
  }

  const traffic = found.data;
  return (
    <Page
      title="Traffic"
      beside={
        <div className={styles.beside}>
          <Select
            label="Model"
            value={search.model ?? ""}
            onChange={(model) => show({ model: model || undefined })}
            options={[["", "All"], ...models.map(({ id }) => [id, id] as const)]}
          />
          <Segments
            label="Range"
            value={range}
            onChange={(wanted) => show({ range: wanted })}
            options={RANGES}
          />
        </div>
      }
    >
      {visitor ? (
        <p className="quiet">Traffic is shown to those who have a key; give yours at the top.</p>
      ) : (
        <>
          {found.isError && <Problem error={found.error} retry={() => void found.refetch()} />}
          {!(found.isError && !traffic) && <Totals totals={traffic?.totals} />}
          {traffic && <Charts traffic={traffic} />}
          {found.isPending && <div className={styles.chartsSpace} aria-busy="true" />}
        </>
      )}
    </Page>
  );
}

function queries(step_s: number): Series<Step>[] {
  return [
    {
      key: "mean_rps",
      name: `Mean over ${stepName(step_s)}`,
      color: "var(--series-1)",
      filled: true,
    },
    { key: "peak_rps", name: "Peak within one second", color: "var(--series-2)" },
  ];
}

const TOKENS: Series<Step>[] = [
  { key: "tokens_in_per_s", name: "In (prompts)", color: "var(--series-3)", dash: "5 3" },
  { key: "tokens_out_per_s", name: "Out (answers)", color: "var(--series-1)" },
];

const ERRORS: Series<Step>[] = [
  { key: "errors", name: "Errors", color: "var(--bad)", filled: true, stepped: true },
];

function percentiles(kind: "ttft" | "latency"): Series<Step>[] {
  return [
    { key: `${kind}_p50_ms`, name: "p50", color: "var(--series-1)", width: 2 },
    { key: `${kind}_p95_ms`, name: "p95", color: "var(--series-3)", dash: "6 3" },
    { key: `${kind}_p99_ms`, name: "p99", color: "var(--series-2)", dash: "2 3" },
  ];
}

const TTFT = percentiles("ttft");
const LATENCY = percentiles("latency");
const HEIGHT = 190;

/** A figure beside a chart: two places below ten. */
function perSecond(value: number | null | undefined): string {
  if (value == null) return "–";
  return value < 10 ? String(+value.toPrecision(2)) : count(value);
}

function Charts({ traffic }: { traffic: Traffic }) {
  const { from, to, step_s, totals } = traffic;
  const points = useMemo(() => steps(traffic.points, step_s), [traffic.points, step_s]);
  const asked = useMemo(() => queries(step_s), [step_s]);
  const common = { points, from, to, step_s, height: HEIGHT };
  return (
    <>
      {(traffic.pending ?? 0) > 0 && (
        <p className={styles.pending} role="status">
          {count(traffic.pending)} requests are logged but not counted here yet.
        </p>
      )}
      <TimeChart
        {...common}
        height={230}
        title="Queries per second"
        summary={queriesSaid(points, step_s)}
        series={asked}
        write={perSecond}
        writeTick={short}
      />
      <div className={styles.charts}>
        <TimeChart
          {...common}
          title="Time to first token"
          summary={percentilesSaid(points, step_s, "ttft", {
            p50: totals.ttft_p50_ms,
            p99: totals.ttft_p99_ms ?? null,
          })}
          series={TTFT}
          write={duration}
          writeTick={tickDuration}
          decades
        />
        <TimeChart
          {...common}
          title="Latency"
          summary={percentilesSaid(points, step_s, "latency", {
            p50: totals.latency_p50_ms,
            p99: totals.latency_p99_ms ?? null,
          })}
          series={LATENCY}
          write={duration}
          writeTick={tickDuration}
          decades
        />
        <TimeChart
          {...common}
          title="Tokens per second"
          summary={tokensSaid(points, step_s)}
          series={TOKENS}
          write={perSecond}
          writeTick={short}
        />
        <TimeChart
          {...common}
          title={`Errors per ${stepName(step_s)}`}
          summary={errorsSaid(points, step_s)}
          series={ERRORS}
          whole
          write={count}
          writeTick={short}
        />
        <Lengths
          title="Prompt length, tokens"
          bins={traffic.prompt_lengths}
          requests={totals.requests}
          color="var(--series-3)"
          height={HEIGHT}
        />
        <Lengths
          title="Answer length, tokens"
          bins={traffic.completion_lengths}
          requests={totals.requests}
          color="var(--series-1)"
          height={HEIGHT}
        />
      </div>
      <ReplicaHistories histories={traffic.replicas} from={from} to={to} />
      <ModelsTable models={traffic.models} />
    </>
  );
}

/** `200 ms`, `5 s`, `10 min`: ticks are round. */
function tickDuration(ms: number): string {
  if (ms < 1000) return `${+ms.toPrecision(2)} ms`;
  return ms < 120_000 ? `${+(ms / 1000).toPrecision(3)} s` : `${+(ms / 60_000).toPrecision(3)} min`;
}
