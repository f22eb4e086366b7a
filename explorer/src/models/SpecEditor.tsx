import { useMutation } from "@tanstack/react-query";
import { useEffect, useId, useRef, useState } from "react";
import { sendJson } from "../api/send";
import { Button } from "../ui/Button";
import { Problem } from "../ui/Problem";
import { ApplyOutcome } from "./ApplyOutcome";
import styles from "./Spec.module.css";
import { SpecDiff, SpecProblems } from "./SpecResult";
import type { Applied, Preview } from "./shapes";
import { type Previewed, previewState } from "./spec";
import { TextEditor, type TextEditorHandle } from "./TextEditor";

/** A spec to be edited, looked at and applied; tells what became of it. */
export function SpecEditor(props: {
  /** The text to begin with; a newer one is offered when something was typed already. */
  text: string;
  /** Is `text` what is served, and so becomes the applied one? */
  served?: boolean;
}) {
  const { text: given, served } = props;
  const [edited, setEdited] = useState<string | null>(null);
  const [begun, setBegun] = useState(given);
  const [previewed, setPreviewed] = useState<Previewed | null>(null);
  const editor = useRef<TextEditorHandle>(null);
  const results = useId();
  const text = edited ?? given;
  const state = previewState(text, previewed);

  const preview = useMutation({
    mutationFn: (asked: string) => sendJson<Preview>("POST", "/api/specs/preview", { text: asked }),
    onSuccess: (found, asked) => setPreviewed({ text: asked, preview: found }),
  });
  const apply = useMutation({
    mutationFn: (asked: string) => sendJson<Applied>("POST", "/api/specs/apply", { text: asked }),
    onSuccess: () => setPreviewed(null),
  });
  const applied = apply.data;
  const following = applied?.apply != null && edited === apply.variables;

  useEffect(() => {
    if (edited === null) setBegun(given);
  }, [edited, given]);

  function edit(value: string) {
    setEdited(value);
    if (apply.status !== "idle") apply.reset();
  }

  const errors = state === "wrong" ? (previewed?.preview.errors ?? []) : [];
  const marked = new Set(errors.flatMap((error) => (error.line === null ? [] : [error.line])));
  return (
    <div className={styles.spec}>
      <div className={styles.side}>
        <TextEditor
          ref={editor}
          label="Spec"
          value={text}
          onChange={edit}
          marked={marked}
          describedBy={results}
        />
        <div className={styles.buttons}>
          <Button
            onClick={() => {
              setEdited(text);
              apply.reset();
              preview.mutate(text);
            }}
            disabled={preview.isPending || apply.isPending || text.trim() === ""}
          >
            Preview
          </Button>
          <Button
            kind="primary"
            disabled={state !== "clean" || preview.isPending || apply.isPending}
            onClick={() => apply.mutate(text)}
          >
            Apply
          </Button>
          {edited !== null && edited !== given && !following && (
            <Button
              kind="plain"
              onClick={() => {
                setEdited(null);
                setPreviewed(null);
                apply.reset();
              }}
            >
              Undo all edits
            </Button>
          )}
        </div>
        {edited !== null && begun !== given && !following && (
          <p className={styles.note}>
            The spec was changed elsewhere since you began; “Undo all edits” shows the new one.
          </p>
        )}
      </div>
      <div className={styles.side} id={results} role="status">
        {preview.isError && state !== "clean" && <Problem error={preview.error} />}
        {apply.isError && <Problem error={apply.error} />}
        {applied?.apply != null && (
          <ApplyOutcome
            id={applied.apply}
            onServed={() => {
              if (served) setEdited(null);
            }}
          />
        )}
        {applied && applied.apply === null && <p className="quiet">Nothing had to change.</p>}
        {state === "wrong" && (
          <SpecProblems errors={errors} onGoTo={(line) => editor.current?.goTo(line)} />
        )}
        {(state === "clean" || state === "unchanged") && previewed && (
          <SpecDiff changes={previewed.preview.changes} />
        )}
        {(state === "none" || state === "stale") && apply.status === "idle" && !preview.isError && (
          <p className="quiet">
            {state === "stale"
              ? "The text has changed since. Preview it again before applying it."
              : "Preview checks the text and shows, field by field, what it would change. Nothing changes before you apply it."}
          </p>
        )}
      </div>
    </div>
  );
}
