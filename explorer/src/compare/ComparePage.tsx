import { useQuery } from "@tanstack/react-query";
import { X } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { models as modelsQuery } from "../api/queries";
import { Button } from "../ui/Button";
import { count, duration } from "../ui/format";
import { Problem } from "../ui/Problem";
import { useStore } from "../ui/store";
import columnStyles from "./Column.module.css";
import { Columns } from "./Columns";
import { ColumnView, pastOf } from "./ColumnView";
import styles from "./Compare.module.css";
import { Composer } from "./Composer";
import { Help } from "./Help";
import { ModelSelect, stateOf } from "./ModelSelect";
import { ParametersButton } from "./ParametersButton";
import { ResultBar } from "./ResultBar";
import { dismiss, retry, run, stop, submit, type Turn, voted } from "./run";
import {
  addColumn,
  type Contender,
  firstModels,
  removeColumn,
  type Settings,
  setModel,
  settings,
} from "./settings";
import { letter, mayVote } from "./state";
import { useAnnouncement } from "./useAnnouncement";
import { useKeys } from "./useKeys";
import { useVote } from "./useVote";
import { Waterfall } from "./Waterfall";

export function ComparePage() {
  const now = useStore(settings);
  const { turns, problem } = useStore(run);
  const field = useRef<HTMLTextAreaElement>(null);
  const [help, setHelp] = useState(false);
  const [waterfall, setWaterfall] = useState(false);
  const turn = turns.at(-1) ?? null;
  const battle = turn?.battle ?? null;
  const order = orderOf(turn, now);
  const voting = useVote(battle?.id ?? null, turn?.vote ?? null, voted);
  const said = useAnnouncement(battle);
  useFirstColumns(now);

  useEffect(() => {
    document.title = "Compare · Aviary";
    // A field that takes the focus by itself opens the keyboard of a phone.
    if (matchMedia("(pointer: fine)").matches) field.current?.focus();
  }, []);

  const open = battle !== null && mayVote(battle);
  const armed = useKeys({
    columns: order.length,
    onVote: (what) => {
      if (!open) return;
      if (typeof what === "string") voting.cast(what);
      else if (order[what - 1] !== undefined) voting.cast("best", order[what - 1]);
    },
    onSubmit: submit,
    onPrompt: () => field.current?.focus(),
    onHelp: () => setHelp(true),
  });

  const best = voting.vote?.verdict === "best" ? voting.vote.column : null;
  const shared = {
    onBest: open ? (number: number) => voting.cast("best", number) : undefined,
    onStop: stop,
    onRetry: turn?.vote ? undefined : retry,
    mayRetry: battle?.id != null,
  };
  const names = battle?.blind
    ? battle.columns.map((column) => column.model ?? letter(column.number))
    : now.columns.map(({ model }) => model);

  return (
    <div className={styles.page}>
      <h1 className="visually-hidden">Compare</h1>
      <div className={styles.top}>
        {problem && (
          <div className={styles.problem}>
            <Problem error={problem} retry={dismiss} action="Dismiss" />
          </div>
        )}
      </div>
      <Columns
        panes={order.map((number, index) => ({
          name: names[index] ?? "",
          column: battle?.columns[number] ?? null,
        }))}
      >
        {battle?.blind
          ? battle.columns.map((column, index) => (
              <ColumnView
                key={column.number}
                place={index + 1}
                name={names[index] ?? ""}
                head={<BlindHead name={letter(column.number)} model={column.model} />}
                column={column}
                best={best === column.number}
                {...shared}
              />
            ))
          : now.columns.map((column, index) => (
              <OwnColumn
                key={column.id}
                place={index + 1}
                contender={column}
                all={now}
                turns={turns}
                best={best}
                shared={shared}
              />
            ))}
      </Columns>
      <div className={styles.bottom}>
        {waterfall && battle && <Waterfall battle={battle} order={order} />}
        <ResultBar
          battle={battle}
          order={order}
          voting={voting}
          armed={armed}
          waterfall={waterfall}
          onWaterfall={setWaterfall}
        />
        <Composer field={field} onHelp={() => setHelp(true)} />
      </div>
      <Help open={help} onOpenChange={setHelp} />
      <div className="visually-hidden" aria-live="polite">
        {said}
      </div>
    </div>
  );
}

const NEVER = -1;

/** Numbers of the battle's columns as they are shown; a column that was not asked has none. */
function orderOf(turn: Turn | null, now: Settings): number[] {
  if (turn?.battle.blind) return turn.battle.columns.map(({ number }) => number);
  // What has no number gets one that no column of a battle has.
  return now.columns.map(({ id }, index) => {
    const number = turn ? turn.ids.indexOf(id) : index;
    return number >= 0 ? number : NEVER - index;
  });
}

/** A first visit finds models in its columns. */
function useFirstColumns(now: Settings): void {
  const { data: models } = useQuery(modelsQuery);
  const empty = now.columns.length === 0;
  useEffect(() => {
    if (!empty || !models) return;
    const first = firstModels(models);
    for (const model of first.length > 0 ? first : [""]) addColumn(model);
  }, [empty, models]);
}

function OwnColumn(props: {
  place: number;
  contender: Contender;
  all: Settings;
  turns: readonly Turn[];
  best: number | null;
  shared: {
    onBest: ((number: number) => void) | undefined;
    onStop: (number: number) => void;
    onRetry: ((number: number) => void) | undefined;
    mayRetry: boolean;
  };
}) {
  const { place, contender, all, turns, best, shared } = props;
  const { id, model } = contender;
  const [why, setWhy] = useState({ model: "", text: "" });
  const turn = turns.at(-1);
  const column = turn?.battle.columns[turn.ids.indexOf(id)] ?? null;
  const other = column?.model && column.model !== model ? column.model : null;
  // An answer that may still be voted for stays in sight.
  const needed =
    turn != null &&
    column !== null &&
    (turn.battle.running || (mayVote(turn.battle) && !turn.vote));
  const past = pastOf(turns.slice(0, -1), id);
  const head = (
    <>
      <span className={columnStyles.number}>{place}</span>
      <ModelSelect
        label={`Model of column ${place}`}
        value={model}
        taken={all.columns.filter((one) => one.id !== id).map((one) => one.model)}
        onChange={(chosen, text) => {
          setModel(id, chosen);
          setWhy({ model: chosen, text });
        }}
      />
      <span className={columnStyles.space} />
      <ParametersButton place={place} column={contender} sync={all.sync} />
      {all.columns.length > 1 && (
        <Button
          kind="plain"
          label={`Remove column ${place}`}
          disabled={needed}
          icon={<X size={15} aria-hidden="true" />}
          onClick={() => removeColumn(id)}
        />
      )}
    </>
  );
  return (
    <ColumnView
      place={place}
      name={other ?? model}
      head={head}
      blank={<Facts model={model} why={why.model === model ? why.text : ""} />}
      note={other ? `Answered by ${other}` : undefined}
      column={column}
      past={past}
      prompt={turn && column && (all.multi || turns.length > 1) ? turn.prompt : undefined}
      best={column !== null && best === column.number}
      {...shared}
    />
  );
}

function BlindHead({ name, model }: { name: string; model: string | null }) {
  return (
    <>
      <span className={columnStyles.number}>{name}</span>
      <span className={columnStyles.title}>
        {model ?? <span className={columnStyles.hidden}>hidden until you vote</span>}
      </span>
    </>
  );
}

/** What is known of a model before it is asked. */
function Facts({ model, why }: { model: string; why: string }) {
  const { data: models } = useQuery(modelsQuery);
  const found = models?.find(({ id }) => id === model);
  if (!models || model === "") return null;
  if (!found) return <p className="quiet">No model of that name is served now.</p>;
  return (
    <dl className={columnStyles.facts}>
      {(why || found.description) && <p>{why || found.description}</p>}
      <dt>State</dt>
      <dd>{stateOf(found)}</dd>
      <dt>Context</dt>
      <dd>{count(found.context_length)} tokens</dd>
      {found.wake_s !== null && found.state !== "ready" && (
        <>
          <dt>Wakes in</dt>
          <dd>about {duration(found.wake_s * 1000)}</dd>
        </>
      )}
    </dl>
  );
}
