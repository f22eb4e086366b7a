import { useMutation } from "@tanstack/react-query";
import { AlarmClock, ChevronsUpDown, Minus, Moon, Plus, Square } from "lucide-react";
import { useState } from "react";
import { sendJson } from "../api/send";
import { Button } from "../ui/Button";
import { Dialog, DialogButtons } from "../ui/Dialog";
import { Problem } from "../ui/Problem";
import styles from "./Models.module.css";
import type { Model } from "./shapes";

const MOST_REPLICAS = 1000;

type Order = { path: string; method: "POST" | "DELETE"; body?: unknown };

/** What an admin may do to a model: another number of replicas, sleep or wake, stop. */
export function Actions({ model }: { model: Model }) {
  const [asked, setAsked] = useState<"scale" | "stop" | null>(null);
  const at = `/api/models/${encodeURIComponent(model.id)}`;
  const order = useMutation({
    mutationFn: ({ path, method, body }: Order) => sendJson<unknown>(method, at + path, body),
    onSuccess: () => setAsked(null),
  });
  const rests = model.asleep || model.state === "sleeping";

  function ask(what: "scale" | "stop" | null) {
    order.reset();
    setAsked(what);
  }

  return (
    <div className={styles.actions}>
      <Button
        kind="plain"
        icon={<ChevronsUpDown size={16} aria-hidden="true" />}
        label={`Scale ${model.id}`}
        onClick={() => ask("scale")}
      />
      <Button
        kind="plain"
        icon={
          rests ? (
            <AlarmClock size={16} aria-hidden="true" />
          ) : (
            <Moon size={16} aria-hidden="true" />
          )
        }
        label={`${rests ? "Wake" : "Sleep"} ${model.id}`}
        disabled={order.isPending}
        onClick={() => order.mutate({ path: rests ? "/wake" : "/sleep", method: "POST" })}
      />
      <Button
        kind="plain"
        icon={<Square size={15} aria-hidden="true" />}
        label={`Stop ${model.id}`}
        onClick={() => ask("stop")}
      />
      <Dialog
        open={asked === "stop"}
        onOpenChange={(open) => ask(open ? "stop" : null)}
        title={`Stop ${model.id}?`}
        description="Answers that have begun are finished; new requests are refused. The model and its spec are removed from this Aviary; its votes and figures stay."
      >
        {order.isError && <Problem error={order.error} />}
        <DialogButtons>
          <Button onClick={() => ask(null)}>Cancel</Button>
          <Button
            kind="danger"
            disabled={order.isPending}
            onClick={() => order.mutate({ path: "", method: "DELETE" })}
          >
            Stop it
          </Button>
        </DialogButtons>
      </Dialog>
      <Dialog
        open={asked === "scale"}
        onOpenChange={(open) => ask(open ? "scale" : null)}
        title={`Scale ${model.id}`}
        description="So many replicas at least. None that stays is restarted; with 0 it sleeps until a request comes."
      >
        <Scale
          now={model.desired_replicas}
          error={order.error}
          pending={order.isPending}
          onCancel={() => ask(null)}
          onScale={(replicas) =>
            order.mutate({ path: "/scale", method: "POST", body: { replicas } })
          }
        />
      </Dialog>
      <Dialog
        open={asked === null && order.isError}
        onOpenChange={() => order.reset()}
        title={`${model.id} did not take the order`}
      >
        {order.isError && <Problem error={order.error} />}
        <DialogButtons>
          <Button onClick={() => order.reset()}>Close</Button>
        </DialogButtons>
      </Dialog>
    </div>
  );
}

function Scale(props: {
  now: number;
  error: Error | null;
  pending: boolean;
  onCancel: () => void;
  onScale: (replicas: number) => void;
}) {
  const { now, error, pending, onCancel, onScale } = props;
  const [wanted, setWanted] = useState(now);
  const fits = Number.isInteger(wanted) && wanted >= 0 && wanted <= MOST_REPLICAS;
  return (
    <form
      className={styles.scale}
      onSubmit={(event) => {
        event.preventDefault();
        if (fits) onScale(wanted);
      }}
    >
      <div className={styles.stepper}>
        <Button
          icon={<Minus size={16} aria-hidden="true" />}
          label="One less"
          disabled={wanted <= 0}
          onClick={() => setWanted(wanted - 1)}
        />
        <input
          aria-label="Replicas"
          type="number"
          inputMode="numeric"
          min={0}
          max={MOST_REPLICAS}
          value={Number.isNaN(wanted) ? "" : wanted}
          onChange={(event) => setWanted(event.target.valueAsNumber)}
        />
        <Button
          icon={<Plus size={16} aria-hidden="true" />}
          label="One more"
          disabled={wanted >= MOST_REPLICAS}
          onClick={() => setWanted((Number.isNaN(wanted) ? 0 : wanted) + 1)}
        />
        <span className="quiet">
          {now} {now === 1 ? "replica" : "replicas"} wanted now
        </span>
      </div>
      {error && <Problem error={error} />}
      <DialogButtons>
        <Button onClick={onCancel}>Cancel</Button>
        <Button kind="primary" type="submit" disabled={!fits || pending || wanted === now}>
          Scale
        </Button>
      </DialogButtons>
    </form>
  );
}
