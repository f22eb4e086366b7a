import { useQuery } from "@tanstack/react-query";
import { CircleHelp, ListPlus, Plus, Settings2 } from "lucide-react";
import { DropdownMenu } from "radix-ui";
import { type KeyboardEvent, type RefObject, useState } from "react";
import { models as modelsQuery } from "../api/queries";
import { Button } from "../ui/Button";
import { Switch } from "../ui/Switch";
import { useStore } from "../ui/store";
import styles from "./Composer.module.css";
import { EXAMPLES, tasksWith } from "./examples";
import { clear, current, run, stopAll, submit } from "./run";
import { addColumn, change, isReady, MOST_COLUMNS, setSync, settings } from "./settings";

/** The one place to ask from. */
export function Composer(props: {
  field: RefObject<HTMLTextAreaElement | null>;
  onHelp: () => void;
}) {
  const now = useStore(settings);
  const { turns } = useStore(run);
  const { data: models = [] } = useQuery(modelsQuery);
  const [system, setSystem] = useState(false);
  const [options, setOptions] = useState(false);
  const running = turns.at(-1)?.battle.running ?? false;
  const shuffled = turns.at(-1)?.battle.blind ?? false;

  function onKeyDown(event: KeyboardEvent) {
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    submit();
  }

  function add() {
    const used = settings.get().columns.map(({ model }) => model);
    const free = models.filter(({ id }) => !used.includes(id));
    const next = free.find(({ state }) => state === "ready") ?? free[0] ?? models[0];
    addColumn(next?.id ?? "");
  }

  return (
    <form
      className={styles.composer}
      aria-label="Composer"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      {system && (
        <textarea
          className={styles.system}
          aria-label="System prompt"
          placeholder="System prompt: what every model is told first"
          rows={2}
          value={now.system}
          onChange={(event) => change({ system: event.target.value })}
        />
      )}
      <div className={styles.ask}>
        <textarea
          ref={props.field}
          className={styles.prompt}
          aria-label="Prompt"
          placeholder={
            turns.length > 0 && now.multi ? "Ask all columns further" : "Ask all columns something"
          }
          rows={1}
          enterKeyHint="send"
          value={now.prompt}
          onChange={(event) => change({ prompt: event.target.value })}
          onKeyDown={onKeyDown}
        />
        {running ? (
          <Button className={styles.send} onClick={() => void stopAll()}>
            Stop all
          </Button>
        ) : (
          <Button kind="primary" className={styles.send} type="submit" disabled={!isReady(now)}>
            Compare
          </Button>
        )}
      </div>
      <div className={styles.options} data-open={options || undefined}>
        <Button
          kind="plain"
          className={styles.more}
          aria-expanded={options}
          icon={<Settings2 size={15} aria-hidden="true" />}
          onClick={() => setOptions(!options)}
        >
          Options
        </Button>
        <Examples />
        <label className={styles.task}>
          <span>Task</span>
          <select value={now.task} onChange={(event) => change({ task: event.target.value })}>
            <option value="">any</option>
            {tasksWith(now.task).map((task) => (
              <option key={task}>{task}</option>
            ))}
          </select>
        </label>
        <span className={styles.group}>
          <Switch
            label="Blind"
            checked={now.blind}
            onChange={(blind) => change({ blind })}
            hint="Names and order stay hidden until you vote"
          />
          <Switch
            label="Multi-turn"
            checked={now.multi}
            onChange={(multi) => change({ multi })}
            hint="Each column goes on with its own answers; not while blind"
          />
          <Switch
            label="Sync parameters"
            checked={now.sync}
            onChange={setSync}
            hint="A parameter set in one column is set in all"
          />
        </span>
        <Button
          kind="plain"
          className={styles.optional}
          aria-expanded={system}
          onClick={() => setSystem(!system)}
        >
          System prompt
          {now.system.trim() !== "" && <span className={styles.set} title="It is set" />}
        </Button>
        <span className={styles.space} />
        {turns.length > 0 && (
          <Button
            kind="plain"
            label="New comparison"
            disabled={running}
            onClick={() => {
              clear();
              if (current() === null) change({ prompt: "" });
              props.field.current?.focus();
            }}
          >
            New
          </Button>
        )}
        <Button
          kind="plain"
          label="Add column"
          disabled={now.columns.length >= MOST_COLUMNS || shuffled}
          icon={<Plus size={15} aria-hidden="true" />}
          onClick={add}
        >
          <span className={styles.wideOnly}>Add column</span>
        </Button>
        <Button
          kind="plain"
          className={styles.help}
          label="Keyboard help"
          icon={<CircleHelp size={16} aria-hidden="true" />}
          onClick={props.onHelp}
        />
      </div>
    </form>
  );
}

function Examples() {
  return (
    <DropdownMenu.Root modal={false}>
      <DropdownMenu.Trigger asChild>
        <Button kind="plain" icon={<ListPlus size={16} aria-hidden="true" />}>
          Examples
        </Button>
      </DropdownMenu.Trigger>
      <DropdownMenu.Portal>
        <DropdownMenu.Content
          className={styles.menu}
          align="start"
          side="top"
          sideOffset={6}
          collisionPadding={8}
        >
          {EXAMPLES.map(({ task, prompts }) => (
            <DropdownMenu.Group key={task}>
              <DropdownMenu.Label className={styles.menuLabel}>{task}</DropdownMenu.Label>
              {prompts.map((prompt) => (
                <DropdownMenu.Item
                  key={prompt}
                  className={styles.menuItem}
                  onSelect={() => change({ prompt, task })}
                >
                  {prompt}
                </DropdownMenu.Item>
              ))}
            </DropdownMenu.Group>
          ))}
        </DropdownMenu.Content>
      </DropdownMenu.Portal>
    </DropdownMenu.Root>
  );
}
