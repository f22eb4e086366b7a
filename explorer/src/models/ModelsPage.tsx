import { useQuery } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { useState } from "react";
import { me } from "../api/queries";
import { Page } from "../shell/Page";
import { inputClass } from "../ui/Field";
import { dollarsOf } from "../ui/figures";
import { Problem } from "../ui/Problem";
import { SkeletonRows, TableBox, tableStyles } from "../ui/Table";
import { AddModel } from "./AddModel";
import { type Fleet, useFleet } from "./live";
import { ModelRow } from "./ModelRow";
import styles from "./Models.module.css";
import type { ModelsSearch } from "./search";
import { summary } from "./state";

const route = getRouteApi("/models");
const FILTER_FROM = 8;

const HEADS: [name: string, hint: string, widthPx: number][] = [
  ["Replicas", "Ready, of those wanted", 100],
  ["Running", "Answers being generated", 90],
  ["Queue", "Requests that wait for a slot", 80],
  ["Tokens/s", "Generated, over the last 10 s", 100],
  ["Memory", "What its replicas take together", 100],
  ["Cost so far $", "By the request log", 130],
];

/** Every model as it is now, and what an admin may do to it. */
export function ModelsPage() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const who = useQuery(me);
  const admin = who.data?.role === "admin";
  // Until it is known who asks, there is room for what an admin sees.
  const roomy = admin || who.isPending;
  const fleet = useFleet();
  const [wanted, setWanted] = useState("");
  const { models } = fleet;
  const columns = HEADS.length + (roomy ? 3 : 2);
  const word = wanted.trim().toLowerCase();
  const shown = models?.filter(
    (model) =>
      word === "" ||
      model.id.toLowerCase().includes(word) ||
      model.tags.some((tag) => tag.toLowerCase() === word) ||
      model.state === word,
  );
  const cost = dollarsOf(models?.map((model) => model.totals.cost_usd) ?? [], 4);

  function show(part: ModelsSearch) {
    void navigate({
      search: (before) => ({ ...before, ...part }),
      replace: true,
      resetScroll: false,
    });
  }

  return (
    <Page
      title="Models"
      beside={
        <div className={styles.beside}>
          <Feed fleet={fleet} />
          {admin && <AddModel />}
        </div>
      }
    >
      {fleet.error && <Problem error={fleet.error} retry={fleet.retry} />}
      <div className={styles.over}>
        <p className="quiet">{models ? summary(models) : " "}</p>
        {models && models.length >= FILTER_FROM && (
          <input
            type="search"
            className={`${inputClass} ${styles.filter}`}
            aria-label="Filter models"
            placeholder="Filter by name, tag or state"
            value={wanted}
            onChange={(event) => setWanted(event.target.value)}
          />
        )}
      </div>
      <TableBox label="Models">
        <table
          className={`${tableStyles.table} ${styles.table}`}
          aria-label="Models"
          aria-busy={models === undefined}
        >
          <colgroup>
            <col />
            <col style={{ width: 230 }} />
            {HEADS.map(([name, , width]) => (
              <col key={name} style={{ width }} />
            ))}
            {roomy && <col className={styles.actionsColumn} />}
          </colgroup>
          <thead>
            <tr>
              <th scope="col" className={`${tableStyles.first} ${tableStyles.sticky}`}>
                Model
              </th>
              <th scope="col">State</th>
              {HEADS.map(([name, hint], index) => (
                <th
                  key={name}
                  scope="col"
                  className={`${tableStyles.number} ${!roomy && index === HEADS.length - 1 ? tableStyles.last : ""}`}
                  title={hint}
                >
                  {name}
                </th>
              ))}
              {roomy && (
                <th scope="col">
                  <span className="visually-hidden">Actions</span>
                </th>
              )}
            </tr>
          </thead>
          <tbody>
            {shown === undefined && <SkeletonRows rows={6} columns={columns} />}
            {shown?.map((model) => (
              <ModelRow
                key={model.id}
                model={model}
                cost={cost(model.totals.cost_usd)}
                admin={admin}
                open={search.model === model.id}
                tab={search.tab ?? "replicas"}
                columns={columns}
                onOpen={(open) => show({ model: open ? model.id : undefined, tab: undefined })}
                onTab={(tab) => show({ tab })}
              />
            ))}
            {shown?.length === 0 && (
              <tr>
                <td colSpan={columns} className={tableStyles.empty}>
                  {models?.length === 0 ? "No models yet." : "No model matches."}
                </td>
              </tr>
            )}
          </tbody>
        </table>
      </TableBox>
    </Page>
  );
}

const FEEDS = {
  connecting: "Connecting…",
  live: "Live",
  polling: "Every 5 s",
  broken: "Not live: connecting again…",
};

/** Whether what is shown is what is. */
function Feed({ fleet }: { fleet: Fleet }) {
  return (
    <p className={styles.feed} role="status" data-feed={fleet.feed}>
      <svg
        width="10"
        height="10"
        viewBox="0 0 10 10"
        className={fleet.feed === "live" ? styles.fresh : undefined}
        aria-hidden="true"
      >
        {fleet.feed === "live" ? (
          <circle cx="5" cy="5" r="4" fill="currentColor" />
        ) : (
          <circle cx="5" cy="5" r="3.5" fill="none" stroke="currentColor" strokeWidth="1.5" />
        )}
      </svg>
      {FEEDS[fleet.feed]}
    </p>
  );
}
