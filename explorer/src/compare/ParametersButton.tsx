import { SlidersHorizontal } from "lucide-react";
import { Popover } from "radix-ui";
import { useId } from "react";
import { Button } from "../ui/Button";
import { inputClass } from "../ui/Field";
import styles from "./Parameters.module.css";
import {
  type Contender,
  LIMITS,
  NO_PARAMETERS,
  NUMBERS,
  numberOf,
  type Parameters,
  setParameter,
  summaryOf,
} from "./settings";

/** The parameters of a column, in a popover. */
export function ParametersButton(props: { place: number; column: Contender; sync: boolean }) {
  const { place, column, sync } = props;
  const { id, parameters } = column;
  const hint = useId();
  const summary = summaryOf(parameters);
  const wrong = NUMBERS.find((name) => numberOf(name, parameters[name]) === undefined);
  return (
    <Popover.Root>
      <Popover.Trigger asChild>
        <Button
          kind="plain"
          className={styles.trigger}
          label={`Parameters of column ${place}${summary ? `: ${summary}` : ""}`}
          icon={<SlidersHorizontal size={15} aria-hidden="true" />}
        >
          {summary && <span className={styles.summary}>{summary}</span>}
        </Button>
      </Popover.Trigger>
      <Popover.Portal>
        <Popover.Content
          className={styles.content}
          align="end"
          sideOffset={4}
          collisionPadding={8}
          aria-label={`Parameters of column ${place}`}
        >
          <div className={styles.grid}>
            {NUMBERS.map((name) => (
              <label key={name} className={styles.field}>
                <span>{LIMITS[name].label}</span>
                <input
                  className={inputClass}
                  inputMode="decimal"
                  autoComplete="off"
                  placeholder="default"
                  value={parameters[name]}
                  aria-invalid={numberOf(name, parameters[name]) === undefined}
                  aria-describedby={hint}
                  onChange={(event) => setParameter(id, name, event.target.value)}
                />
              </label>
            ))}
            <label className={`${styles.field} ${styles.wide}`}>
              <span>Stop, one to a line</span>
              <textarea
                className={inputClass}
                rows={2}
                value={parameters.stop}
                onChange={(event) => setParameter(id, "stop", event.target.value)}
              />
            </label>
          </div>
          <div className={styles.foot}>
            <p id={hint} className={wrong ? styles.wrong : "quiet"}>
              {wrong
                ? `${LIMITS[wrong].label} is left out: it goes from ${LIMITS[wrong].min} to ${LIMITS[wrong].max}.`
                : `${sync ? "For all columns." : "For this column."} Empty: the model's own.`}
            </p>
            <Button
              disabled={Object.values(parameters).every((value) => value === "")}
              onClick={() => {
                for (const name of Object.keys(NO_PARAMETERS) as (keyof Parameters)[])
                  setParameter(id, name, "");
              }}
            >
              Reset
            </Button>
          </div>
        </Popover.Content>
      </Popover.Portal>
    </Popover.Root>
  );
}
