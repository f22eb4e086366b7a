import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { Tabs } from "radix-ui";
import { getJson } from "../api/client";
import { count, duration } from "../ui/format";
import { Problem } from "../ui/Problem";
import tabs from "../ui/Tabs.module.css";
import { EventView } from "./EventView";
import { LogView } from "./LogView";
import styles from "./Models.module.css";
import { Replicas } from "./Replicas";
import { SpecEditor } from "./SpecEditor";
import type { Tab } from "./search";
import type { Model } from "./shapes";

/** What there is to know of one model, below its row. */
export function ModelPanel(props: {
  model: Model;
  admin: boolean;
  tab: Tab;
  onTab: (tab: Tab) => void;
}) {
  const { model, admin, tab, onTab } = props;
  const names: [Tab, string][] = admin
    ? [
        ["replicas", "Replicas"],
        ["spec", "Spec"],
        ["logs", "Logs"],
        ["events", "Events"],
      ]
    : [
        ["replicas", "Replicas"],
        ["events", "Events"],
      ];
  const shown = names.some(([name]) => name === tab) ? tab : "replicas";
  const facts = [
    model.engine,
    model.context_length > 0 && `context of ${count(model.context_length)} tokens`,
    `${count(model.slots)} ${model.slots === 1 ? "slot" : "slots"}`,
    model.wake_s !== null && `wakes in ${duration(model.wake_s * 1000)}`,
    `${count(model.totals.requests)} requests, ${count(model.totals.errors)} with an error`,
    `${count(model.totals.prompt_tokens)} tokens in, ${count(model.totals.completion_tokens)} out`,
  ];
  return (
    <div className={styles.panel}>
      {model.description && <p>{model.description}</p>}
      <p className={styles.facts}>{facts.filter(Boolean).join(" · ")}</p>
      {model.detail && <p className={styles.cause}>{model.detail}</p>}
      <Tabs.Root value={shown} onValueChange={(value) => onTab(value as Tab)}>
        <Tabs.List className={tabs.list} aria-label={`About ${model.id}`}>
          {names.map(([name, title]) => (
            <Tabs.Trigger key={name} value={name} className={tabs.tab}>
              {title}
            </Tabs.Trigger>
          ))}
        </Tabs.List>
        <Tabs.Content value="replicas" className={tabs.panel}>
          <Replicas model={model} />
        </Tabs.Content>
        {admin && (
          <>
            <Tabs.Content value="spec" className={tabs.panel}>
              <Spec model={model} />
            </Tabs.Content>
            <Tabs.Content value="logs" className={tabs.panel}>
              <LogView model={model.id} />
            </Tabs.Content>
          </>
        )}
        <Tabs.Content value="events" className={tabs.panel}>
          <EventView model={model.id} admin={admin} />
        </Tabs.Content>
      </Tabs.Root>
    </div>
  );
}

function Spec({ model }: { model: Model }) {
  const found = useQuery({
    queryKey: ["model", model.id, model.spec_hash],
    queryFn: ({ signal }) =>
      getJson<{ text?: string | null }>(`/api/models/${encodeURIComponent(model.id)}`, signal),
    placeholderData: keepPreviousData,
  });
  if (found.isError) return <Problem error={found.error} retry={() => void found.refetch()} />;
  if (!found.data) return <div className={styles.specSpace} aria-busy="true" />;
  return <SpecEditor text={found.data.text ?? ""} served />;
}
