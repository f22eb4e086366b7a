import {
  createColumnHelper,
  createSortedRowModel,
  rowSortingFeature,
  tableFeatures,
} from "@tanstack/react-table";
import type { Row } from "./board";

export interface ColumnMeta {
  name: string;
  unit?: string;
  hint?: string;
  number?: boolean;
}

const text = new Intl.Collator("en", { numeric: true });

export const features = tableFeatures({
  rowSortingFeature,
  sortedRowModel: createSortedRowModel(),
  columnMeta: {} as ColumnMeta,
});

const helper = createColumnHelper<typeof features, Row>();

function figure(id: keyof Row, meta: Omit<ColumnMeta, "number">, greatestFirst = true) {
  return helper.accessor((row) => (row[id] as number | null | undefined) ?? undefined, {
    id,
    sortUndefined: "last",
    sortDescFirst: greatestFirst,
    meta: { ...meta, number: true },
  });
}

/** The order of a row's cells is this one, too. */
export const columns = helper.columns([
  figure(
    "rank",
    { name: "Rank", hint: "Shared by models that the votes do not tell apart" },
    false,
  ),
  helper.accessor("model", {
    id: "model",
    sortFn: (a, b) => text.compare(a.original.model, b.original.model),
    sortDescFirst: false,
    meta: { name: "Model" },
  }),
  figure("rating", {
    name: "Rating",
    unit: "95 % interval",
    hint: "Bradley-Terry over votes; mean 1000, 400 points are 10 to 1",
  }),
  figure("votes", { name: "Votes", hint: "Votes on comparisons in which it answered" }),
  figure("win_rate", {
    name: "Win rate",
    unit: "%",
    hint: "Share of pairs won; a tie counts half",
  }),
  figure("judge", { name: "Judge", hint: "Rating by a judge model, once there are evaluations" }),
  figure(
    "ttft_p50_ms",
    { name: "TTFT p50", unit: "ms", hint: "Median time to the first token" },
    false,
  ),
  figure("tokens_per_s", { name: "Speed", unit: "tokens/s", hint: "After the first token" }),
  figure("mean_answer_tokens", { name: "Answer", unit: "tokens", hint: "Mean length of answers" }),
  figure("cost_per_answer_usd", { name: "Cost", unit: "$ per answer" }, false),
  figure("cost_per_million_tokens_usd", { name: "Cost", unit: "$ per 1M" }, false),
  figure("last_seen", { name: "Last seen", hint: "Last answer" }),
]);
