import { useQuery, useQueryClient } from "@tanstack/react-query";
import { KeyRound } from "lucide-react";
import { useState } from "react";
import { apiKey, setApiKey } from "../api/key";
import { me } from "../api/queries";
import { Button } from "../ui/Button";
import { Dialog, DialogButtons } from "../ui/Dialog";
import { Field, inputClass } from "../ui/Field";
import { keyLabel } from "./keyLabel";

/** Says who this browser is to Aviary, and takes another key. Nothing when no keys are in use. */
export function KeyDialog() {
  const who = useQuery(me);
  const queries = useQueryClient();
  const [open, setOpen] = useState(false);
  const [typed, setTyped] = useState("");
  const label = keyLabel(who, apiKey());
  if (label === null) return null;

  async function use(key: string) {
    setApiKey(key);
    setTyped("");
    await queries.resetQueries();
    setOpen(false);
  }

  return (
    <>
      <Button onClick={() => setOpen(true)} icon={<KeyRound size={15} aria-hidden="true" />}>
        {label}
      </Button>
      <Dialog
        open={open}
        onOpenChange={setOpen}
        title="API key"
        description="Kept in this browser. Visitors may compare and vote; changes need an admin key."
      >
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void use(typed);
          }}
          style={{ display: "grid", gap: 12 }}
        >
          <Field label="Key">
            <input
              className={inputClass}
              type="password"
              autoComplete="off"
              placeholder="sk-aviary-…"
              value={typed}
              onChange={(event) => setTyped(event.target.value)}
            />
          </Field>
          <DialogButtons>
            {apiKey() !== "" && <Button onClick={() => void use("")}>Forget the key</Button>}
            <Button kind="primary" type="submit" disabled={typed.trim() === ""}>
              Use it
            </Button>
          </DialogButtons>
        </form>
      </Dialog>
    </>
  );
}
