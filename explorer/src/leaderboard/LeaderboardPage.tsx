import { useQuery } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { Download, TriangleAlert } from "lucide-react";
import { lazy, Suspense, useState } from "react";
import { getJson } from "../api/client";
import { me } from "../api/queries";
import { Page } from "../shell/Page";
import { Button } from "../ui/Button";
import { count, percent } from "../ui/format";
import { Problem } from "../ui/Problem";
import { Select } from "../ui/Select";
import { BoardTable } from "./BoardTable";
import { type Abuse, abuseLine, board, boardPath } from "./board";
import { download } from "./download";
import styles from "./Leaderboard.module.css";
import type { LeaderboardSearch } from "./search";

const QualityPlot = lazy(() => import("./QualityPlot"));
const route = getRouteApi("/leaderboard");

const PERIODS = [
  ["", "All time"],
  ["24h", "Last 24 h"],
  ["7d", "Last 7 days"],
  ["30d", "Last 30 days"],
] as const;

/** Quality, speed and cost of all models in one table. */
export function LeaderboardPage() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const found = useQuery(board(search));
  const [failed, setFailed] = useState<Error | null>(null);

  function show(part: LeaderboardSearch) {
    void navigate({ search: (before) => ({ ...before, ...part }), replace: true });
  }

  function save(kind: "csv" | "json") {
    setFailed(null);
    const day = new Date().toISOString().slice(0, 10);
    const path = boardPath(search, kind === "csv" ? "csv" : undefined);
    download(path, `leaderboard-${day}.${kind}`).catch(setFailed);
  }

  const rows = found.data?.rows;
  return (
    <Page
      title="Leaderboard"
      beside={
        <div className={styles.beside}>
          <Button icon={<Download size={15} aria-hidden="true" />} onClick={() => save("csv")}>
            CSV
          </Button>
          <Button icon={<Download size={15} aria-hidden="true" />} onClick={() => save("json")}>
            JSON
          </Button>
        </div>
      }
    >
      <div className={styles.filters}>
        <Select
          label="Tag"
          value={search.tag ?? ""}
          onChange={(tag) => show({ tag: tag || undefined })}
          options={[["", "All"], ...(found.data?.tags ?? []).map((tag) => [tag, tag] as const)]}
        />
        <Select
          label="Task"
          value={search.task ?? ""}
          onChange={(task) => show({ task: task || undefined })}
          options={[["", "All"], ...(found.data?.tasks ?? []).map((task) => [task, task] as const)]}
        />
        <Select
          label="Period"
          value={search.since ?? ""}
          onChange={(since) => show({ since: since || undefined })}
          options={PERIODS}
        />
        <p className={styles.count} role="status">
          {found.data &&
            `${count(found.data.votes)} votes · ${count(found.data.rows.length)} models`}
        </p>
      </div>
      {failed && <Problem error={failed} />}
      {found.isError && <Problem error={found.error} retry={() => void found.refetch()} />}
      {!(found.isError && !rows) && (
        <>
          <BoardTable rows={rows} sort={search.sort} onSort={(sort) => show({ sort })} />
          <AbuseNote />
          {rows && (
            <section className={styles.plot} aria-labelledby="quality-against-cost">
              <h2 id="quality-against-cost">Quality against cost</h2>
              <div className={styles.plotSpace}>
                <Suspense fallback={null}>
                  <QualityPlot rows={rows} />
                </Suspense>
              </div>
            </section>
          )}
        </>
      )}
    </Page>
  );
}

/** Tells admins of addresses that vote too much; nothing for others, or when there is nothing. */
function AbuseNote() {
  const who = useQuery(me);
  const abuse = useQuery({
    queryKey: ["abuse"],
    queryFn: ({ signal }) => getJson<Abuse>("/api/votes/abuse", signal),
    enabled: who.data?.role === "admin",
    refetchInterval: 60_000,
  });
  const line = abuse.data && abuseLine(abuse.data);
  if (!line) return null;
  return (
    <div className={styles.abuse}>
      <TriangleAlert size={15} aria-hidden="true" />
      <details>
        <summary>{line}</summary>
        <table aria-label="Addresses that stand out">
          <thead>
            <tr>
              <th scope="col">Address</th>
              <th scope="col">Votes</th>
              <th scope="col">Not counted</th>
              <th scope="col">Calls best most often</th>
            </tr>
          </thead>
          <tbody>
            {abuse.data.addresses.map((entry) => (
              <tr key={entry.address}>
                <td>
                  <code>{entry.address}</code>
                </td>
                <td>{count(entry.votes)}</td>
                <td>{count(entry.not_counted)}</td>
                <td>
                  {entry.favourite ?? "–"}
                  {entry.favourite_share !== null && ` (${percent(entry.favourite_share)})`}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </details>
    </div>
  );
}
