import { ChartGantt, Check, Link2 } from "lucide-react";
import { useState } from "react";
import { Button } from "../ui/Button";
import { copyText } from "../ui/CodeBlock";
import styles from "./ResultBar.module.css";
import { type Battle, isWhole, letter, mayVote, nameOf, standouts } from "./state";
import type { Voting } from "./useVote";

/** Who stood out, the vote, and what else can be done with the answers. Always there, so nothing moves. */
export function ResultBar(props: {
  battle: Battle | null;
  /** Numbers of the battle's columns in the order in which they are shown. */
  order: readonly number[];
  voting: Voting;
  /** The next key votes. */
  armed: boolean;
  waterfall: boolean;
  onWaterfall: (open: boolean) => void;
}) {
  const { battle, order, voting, armed, waterfall, onWaterfall } = props;
  const open = battle !== null && mayVote(battle);
  const { vote } = voting;
  return (
    <div className={styles.bar}>
      <p className={styles.standouts}>{battle && <Standouts battle={battle} />}</p>
      {/* biome-ignore lint/a11y/useSemanticElements: a fieldset cannot be laid out in this line. */}
      <div className={styles.vote} role="group" aria-label="Vote" data-armed={armed || undefined}>
        <span className={styles.label}>{armed ? "Vote: press a key" : "Best"}</span>
        <div className={styles.choices}>
          {order.map((number, index) => {
            const column = battle?.columns[number];
            const chosen = vote?.verdict === "best" && vote.column === number;
            return (
              <button
                key={number}
                type="button"
                data-column={index + 1}
                aria-label={`Vote for column ${index + 1}`}
                title={column && battle ? nameOf(column, battle.blind) : undefined}
                aria-pressed={chosen}
                disabled={!open || !column || !isWhole(column)}
                onClick={() => voting.cast("best", number)}
              >
                {battle?.blind ? letter(number) : index + 1}
              </button>
            );
          })}
          <button
            type="button"
            aria-pressed={vote?.verdict === "tie"}
            disabled={!open}
            onClick={() => voting.cast("tie")}
          >
            Tie
          </button>
          <button
            type="button"
            aria-pressed={vote?.verdict === "all_bad"}
            disabled={!open}
            onClick={() => voting.cast("all_bad")}
          >
            All bad
          </button>
        </div>
        <Reason key={battle?.id ?? ""} voting={voting} />
        <span className={styles.saved} role="status">
          {voting.saving && "Saving"}
          {voting.saved && (
            <>
              <Check size={14} aria-hidden="true" /> Saved
            </>
          )}
        </span>
        {voting.error && (
          <span className={styles.error} role="alert">
            Not saved: {voting.error}
          </span>
        )}
      </div>
      <div className={styles.tools}>
        <Button
          kind="plain"
          label="Waterfall"
          aria-pressed={waterfall}
          disabled={battle === null}
          icon={<ChartGantt size={16} aria-hidden="true" />}
          onClick={() => onWaterfall(!waterfall)}
        />
        <CopyLink id={battle?.stored ? battle.id : null} />
      </div>
    </div>
  );
}

function Standouts({ battle }: { battle: Battle }) {
  const found = standouts(battle.columns);
  if (!found) return null;
  const name = (number: number | null) => {
    const column = number === null ? undefined : battle.columns[number];
    return column ? nameOf(column, battle.blind) : null;
  };
  const parts = [
    ["fastest", name(found.fastest)],
    ["cheapest", name(found.cheapest)],
    ["longest", name(found.longest)],
  ].filter(([, who]) => who !== null);
  return parts.map(([what, who]) => (
    <span key={what}>
      {what} <strong>{who}</strong>
    </span>
  ));
}

function Reason({ voting }: { voting: Voting }) {
  const { vote } = voting;
  const [typed, setTyped] = useState<string | null>(null);
  if (!vote) return <span className={styles.reason} />;
  const reason = typed ?? vote.reason;
  const save = () => {
    if (reason !== vote.reason) voting.cast(vote.verdict, vote.column, reason);
  };
  return (
    <input
      className={styles.reason}
      aria-label="Reason"
      placeholder="Why? (optional)"
      maxLength={2000}
      value={reason}
      onChange={(event) => setTyped(event.target.value)}
      onBlur={save}
      onKeyDown={(event) => event.key === "Enter" && save()}
    />
  );
}

function CopyLink({ id }: { id: string | null }) {
  const [copied, setCopied] = useState<string | null>(null);
  const done = id !== null && copied === id;
  return (
    <Button
      kind="plain"
      label={done ? "Link copied" : "Copy link"}
      disabled={id === null}
      icon={done ? <Check size={16} aria-hidden="true" /> : <Link2 size={16} aria-hidden="true" />}
      onClick={async () => {
        const address = `${location.origin}/battles/${encodeURIComponent(id ?? "")}`;
        if (await copyText(address)) setCopied(id);
      }}
    />
  );
}
