import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useEffect, useMemo, useState } from "react";
import { client, data } from "../api/client";
import { sessionName } from "../api/key";
import { Page } from "../shell/Page";
import { Button } from "../ui/Button";
import { whole } from "../ui/markdownText";
import { Problem } from "../ui/Problem";
import columnStyles from "./Column.module.css";
import { Columns } from "./Columns";
import { ColumnView, type Past } from "./ColumnView";
import styles from "./Compare.module.css";
import type { StoredBattle } from "./events";
import { Help } from "./Help";
import { ResultBar } from "./ResultBar";
import { change } from "./settings";
import { type Column, letter, mayVote, newColumn, ofStored } from "./state";
import { useKeys } from "./useKeys";
import { useVote } from "./useVote";
import { Waterfall } from "./Waterfall";

/** A comparison that was stored, as whoever has its link may see it. */
export function StoredPage() {
  const { battle: id } = useParams({ strict: false }) as { battle: string };
  const queries = useQueryClient();
  const key = ["battle", id];
  const found = useQuery({
    queryKey: key,
    queryFn: ({ signal }) =>
      data(
        client.GET("/api/battles/{battle}", {
          params: { path: { battle: id }, query: { session: sessionName() } },
          signal,
        }),
      ),
    staleTime: Number.POSITIVE_INFINITY,
  });
  if (found.isPending) return <Page title="Comparison">{null}</Page>;
  if (found.isError)
    return (
      <Page title="Comparison">
        <Problem error={found.error} retry={() => void found.refetch()} />
        <p>
          <Link to="/">Compare models</Link>
        </p>
      </Page>
    );
  return (
    <Stored
      key={id}
      stored={found.data}
      onStored={(stored) => queries.setQueryData<StoredBattle>(key, stored)}
    />
  );
}

function Stored(props: { stored: StoredBattle; onStored: (stored: StoredBattle) => void }) {
  const { stored, onStored } = props;
  const navigate = useNavigate();
  const [waterfall, setWaterfall] = useState(false);
  const [help, setHelp] = useState(false);
  const battle = useMemo(() => ofStored(stored), [stored]);
  const order = battle.columns.map((_, index) => index);
  const voting = useVote(stored.id, stored.vote, onStored);
  const open = mayVote(battle);
  const armed = useKeys({
    columns: order.length,
    onVote: (what) => {
      if (!open) return;
      if (typeof what === "string") voting.cast(what);
      else voting.cast("best", what - 1);
    },
    onHelp: () => setHelp(true),
  });
  useEffect(() => {
    document.title = "Comparison · Aviary";
  }, []);
  const best = voting.vote?.verdict === "best" ? voting.vote.column : null;
  const asked = stored.messages.map((message) => ({
    role: String(message.role ?? "user"),
    text: textOf(message.content),
  }));
  const pasts = useMemo(() => stored.columns.map(pastOfStored), [stored]);
  const votes = Object.values(stored.votes).reduce((sum, one) => sum + one, 0);
  return (
    <div className={styles.page}>
      <div className={styles.top}>
        <div className={styles.stored}>
          <h1>Comparison</h1>
          <time className="quiet" dateTime={new Date(stored.created * 1000).toISOString()}>
            {new Date(stored.created * 1000).toLocaleString()}
          </time>
          {stored.task && <span className="quiet">{stored.task}</span>}
          {stored.blind && <span className="quiet">blind</span>}
          <span className="quiet">{votes === 1 ? "1 vote" : `${votes} votes`}</span>
          <Button
            className={styles.again}
            onClick={() => {
              change({
                prompt: asked.findLast(({ role }) => role === "user")?.text ?? "",
                system: stored.system,
                task: stored.task,
              });
              void navigate({ to: "/" });
            }}
          >
            Ask again
          </Button>
        </div>
        {/* biome-ignore lint/a11y/useSemanticElements: it is no set of fields. */}
        <div
          className={styles.asked}
          // biome-ignore lint/a11y/noNoninteractiveTabindex: a long prompt is scrolled by keyboard.
          tabIndex={0}
          role="group"
          aria-label="Prompt"
        >
          {stored.system && (
            <p dir="auto">
              <span className={styles.who}>system</span>
              {stored.system}
            </p>
          )}
          {asked.map(({ role, text }, index) => (
            <p key={index} dir="auto">
              {asked.length > 1 && <span className={styles.who}>{role}</span>}
              {text}
            </p>
          ))}
        </div>
      </div>
      <Columns
        panes={battle.columns.map((column, index) => ({
          name: column.model ?? letter(index),
          column,
        }))}
      >
        {battle.columns.map((column, index) => (
          <ColumnView
            key={column.number}
            place={index + 1}
            name={column.model ?? letter(index)}
            head={
              <>
                <span className={columnStyles.number}>
                  {stored.blind ? letter(index) : index + 1}
                </span>
                <span className={columnStyles.title}>
                  {column.model ?? (
                    <span className={columnStyles.hidden}>hidden until you vote</span>
                  )}
                </span>
              </>
            }
            column={column}
            past={pasts[index]}
            prompt={pasts[index]?.length ? asked.at(-1)?.text : undefined}
            best={best === column.number}
            onBest={open ? (number) => voting.cast("best", number) : undefined}
          />
        ))}
      </Columns>
      <div className={styles.bottom}>
        {waterfall && <Waterfall battle={battle} order={order} />}
        <ResultBar
          battle={battle}
          order={order}
          voting={voting}
          armed={armed}
          waterfall={waterfall}
          onWaterfall={setWaterfall}
        />
      </div>
      <Help open={help} onOpenChange={setHelp} />
    </div>
  );
}

/** A column's own turns before the prompt. */
function pastOfStored(answer: StoredBattle["columns"][number]): Past[] {
  const { messages } = answer;
  const past: Past[] = [];
  for (const { role, content } of messages) {
    const last = past.at(-1);
    const text = textOf(content);
    if (role === "assistant" && last) past[past.length - 1] = { ...last, column: said(text) };
    else past.push({ prompt: text, column: null });
  }
  return past;
}

function said(text: string): Column {
  return { ...newColumn(0, null), phase: "done", source: text, text: whole(text) };
}

/** A message's text; parts that are none are named. */
function textOf(content: unknown): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return content == null ? "" : JSON.stringify(content);
  return content
    .map((part: { type?: string; text?: string }) =>
      typeof part?.text === "string" ? part.text : `[${part?.type ?? "part"}]`,
    )
    .join("\n");
}
