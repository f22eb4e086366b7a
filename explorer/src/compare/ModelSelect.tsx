import { useQuery } from "@tanstack/react-query";
import { ChevronsUpDown } from "lucide-react";
import { Popover } from "radix-ui";
import { type KeyboardEvent, useId, useRef, useState } from "react";
import { client, data, type Schemas } from "../api/client";
import { models as modelsQuery } from "../api/queries";
import { percent } from "../ui/format";
import styles from "./ModelSelect.module.css";

type Model = Schemas["Model"];
type How = Schemas["NewChoice"]["how"];

const SEARCH_FROM = 8;
const CHOICES: readonly { how: How; label: string }[] = [
  { how: "fastest", label: "Fastest" },
  { how: "cheapest", label: "Cheapest" },
  { how: "best", label: "Best rated" },
  { how: "random", label: "Random" },
];

type Entry = { key: string; label: string; model?: Model; how?: How };

/** Picks a model by name, or has one picked by live figures. */
export function ModelSelect(props: {
  label: string;
  value: string;
  /** Models of other columns, which a choice leaves out where it can. */
  taken: readonly string[];
  onChange: (model: string, why: string) => void;
}) {
  const { label, value, taken, onChange } = props;
  const { data: models = [] } = useQuery(modelsQuery);
  const [open, setOpen] = useState(false);
  const [typed, setTyped] = useState("");
  const [active, setActive] = useState(0);
  const [problem, setProblem] = useState("");
  const field = useRef<HTMLInputElement>(null);
  const list = useRef<HTMLDivElement>(null);
  const id = useId();
  const searched = models.length >= SEARCH_FROM;
  const chosen = models.find((model) => model.id === value);

  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  const found = models.filter((model) => {
    const text = `${model.id} ${model.description} ${model.tags.join(" ")}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const entries: Entry[] = [
    ...found.map((model) => ({ key: model.id, label: model.id, model })),
    ...CHOICES.filter(({ label: name }) =>
      words.every((word) => name.toLowerCase().includes(word)),
    ).map(({ how, label: name }) => ({ key: `choose ${how}`, label: name, how })),
  ];
  const firstChoice = entries.findIndex((entry) => entry.how);

  function show(next: boolean) {
    setOpen(next);
    setTyped("");
    setProblem("");
    setActive(Math.max(0, next ? models.findIndex((model) => model.id === value) : 0));
  }

  async function pick(entry: Entry | undefined) {
    if (!entry) return;
    if (entry.model) {
      onChange(entry.model.id, "");
      show(false);
      return;
    }
    const free = models
      .filter((model) => model.state === "ready" && !taken.includes(model.id))
      .map((model) => model.id);
    const body = { how: entry.how as How, ...(free.length > 0 ? { among: free } : {}) };
    try {
      const choice = await data(client.POST("/api/choose", { body }));
      onChange(choice.model, `${entry.label}: ${choice.why}`);
      show(false);
    } catch (error) {
      setProblem((error as Error).message);
    }
  }

  function onKeyDown(event: KeyboardEvent) {
    const last = entries.length - 1;
    const moves: Record<string, number> = {
      ArrowDown: active >= last ? 0 : active + 1,
      ArrowUp: active <= 0 ? last : active - 1,
      PageDown: Math.min(last, active + 8),
      PageUp: Math.max(0, active - 8),
      ...(searched ? {} : { Home: 0, End: last }),
    };
    const to = moves[event.key];
    if (to !== undefined) {
      event.preventDefault();
      setActive(to);
      document.getElementById(`${id}-${to}`)?.scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter") {
      event.preventDefault();
      void pick(entries[active]);
    } else if (!searched && event.key.length === 1 && !event.altKey && !event.ctrlKey) {
      const key = event.key.toLowerCase();
      const after = [...entries.keys()].map((step) => (active + 1 + step) % entries.length);
      const hit = after.find((at) => entries[at]?.label.toLowerCase().startsWith(key));
      if (hit !== undefined) setActive(hit);
    }
  }

  const described = { "aria-activedescendant": entries[active] ? `${id}-${active}` : undefined };
  return (
    <Popover.Root open={open} onOpenChange={show}>
      <Popover.Trigger asChild>
        <button
          type="button"
          role="combobox"
          aria-label={label}
          aria-expanded={open}
          aria-haspopup="listbox"
          aria-controls={`${id}-list`}
          className={styles.trigger}
          title={chosen ? value : "This model is not served"}
        >
          <Dot state={chosen?.state ?? "stopped"} />
          <span className={styles.name}>{value || "Choose a model"}</span>
          <ChevronsUpDown size={14} aria-hidden="true" />
        </button>
      </Popover.Trigger>
      <Popover.Portal>
        <Popover.Content
          className={styles.content}
          align="start"
          sideOffset={4}
          collisionPadding={8}
          aria-label={label}
          onOpenAutoFocus={(event) => {
            event.preventDefault();
            (field.current ?? list.current)?.focus();
            document.getElementById(`${id}-${active}`)?.scrollIntoView({ block: "nearest" });
          }}
        >
          {searched && (
            <input
              ref={field}
              className={styles.search}
              role="combobox"
              aria-label="Search models"
              aria-expanded="true"
              aria-controls={`${id}-list`}
              placeholder="Search models"
              value={typed}
              onChange={(event) => {
                setTyped(event.target.value);
                setActive(0);
              }}
              onKeyDown={onKeyDown}
              {...described}
            />
          )}
          <div
            ref={list}
            id={`${id}-list`}
            role="listbox"
            aria-label="Models"
            tabIndex={searched ? -1 : 0}
            className={styles.list}
            onKeyDown={searched ? undefined : onKeyDown}
            {...(searched ? {} : described)}
          >
            {entries.map((entry, index) => (
              // biome-ignore lint/a11y/useKeyWithClickEvents: the list or its search field has the keys.
              // biome-ignore lint/a11y/useFocusableInteractive: the active one is told by aria-activedescendant.
              <div
                key={entry.key}
                id={`${id}-${index}`}
                role="option"
                aria-selected={entry.key === value}
                aria-label={entry.how ? `Choose for me: ${entry.label}` : entry.label}
                data-active={index === active || undefined}
                data-first={index === firstChoice || undefined}
                className={styles.option}
                onPointerMove={() => setActive(index)}
                onClick={() => void pick(entry)}
              >
                {entry.model && <Dot state={entry.model.state} />}
                <span className={styles.name}>{entry.label}</span>
                {entry.model && entry.model.state !== "ready" && (
                  <span className={styles.state}>{stateOf(entry.model)}</span>
                )}
                {entry.how && index === firstChoice && (
                  <span className={styles.state}>choose for me</span>
                )}
              </div>
            ))}
            {entries.length === 0 && <p className={styles.none}>No model of that name.</p>}
          </div>
          {problem !== "" && (
            <p className={styles.problem} role="alert">
              {problem}
            </p>
          )}
        </Popover.Content>
      </Popover.Portal>
    </Popover.Root>
  );
}

export function Dot({ state }: { state: string }) {
  return <span className={styles.dot} data-state={state} aria-hidden="true" />;
}

export function stateOf(model: Model): string {
  if (model.state !== "starting") return model.state;
  const known = model.replicas.flatMap(({ state, progress }) =>
    state === "starting" && progress !== null ? [progress] : [],
  );
  return known.length > 0 ? `starting ${percent(Math.max(...known))}` : "starting";
}
