"""`aviary apply PATH…`: make a running Aviary serve what spec files say."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aviary.cli.applying import explain_failure, follow, went_well
from aviary.cli.options import (
    JsonOption,
    KeyOption,
    UrlOption,
    print_json,
    printable,
    say,
    settings_for,
)

if TYPE_CHECKING:
    from aviary.cli.client import Application, Applied, Change, Client
    from aviary.config.spec import ModelSpec

VALUE_CHARACTERS = 60
_ACTIONS = ("added", "changed", "unchanged", "pruned")
_INTERRUPTED = 130


def apply(
    context: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(help="Spec files or folders of them.", metavar="PATH")
    ],
    prune: Annotated[
        bool, typer.Option("--prune", help="Stop models that are not in these files.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    rollback: Annotated[
        bool,
        typer.Option(
            "--rollback/--no-rollback", help="Take back a version of a model that cannot start."
        ),
    ] = True,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until all is ready, showing progress.")
    ] = True,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0, help="Longest wait, in seconds.")
    ] = 1800.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Prune without asking.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> int:
    """Make a running Aviary serve what spec files say.

    Everything is checked before anything is touched. Only what differs changes, without a gap for
    clients.
    """
    from aviary.cli.client import Client
    from aviary.config.loader import load_specs

    specs = load_specs(paths)
    with Client(settings_for(context, url, api_key)) as client:
        asks = prune and not dry_run and not yes and sys.stdin.isatty()
        if (dry_run or asks) and not _preview(
            client, specs, prune=prune, asks=asks, as_json=as_json
        ):
            return 1 if asks else 0
        applied = client.apply(specs, prune=prune, dry_run=False, rollback=rollback)
        if not as_json and not asks:
            _print_changes(applied)
        application = None
        if wait and applied.id is not None:
            try:
                application = follow(
                    client,
                    applied.id,
                    [change.model for change in _changed(applied)],
                    timeout_s=timeout_s,
                    quiet=as_json,
                )
            except KeyboardInterrupt:
                say("Stopped waiting; the change goes on. See: aviary status --watch")
                return _INTERRUPTED
    if as_json:
        print_json(_as_dict(applied, application))
    return _report(applied, application, as_json=as_json)


def _preview(
    client: Client, specs: Sequence[ModelSpec], *, prune: bool, asks: bool, as_json: bool
) -> bool:
    """Show what would change; whether it is to be done now."""
    planned = client.apply(specs, prune=prune, dry_run=True, rollback=True)
    if not asks:
        if as_json:
            print_json(_as_dict(planned, None))
        else:
            _print_changes(planned)
            say("Nothing was changed (--dry-run).")
        return False
    if not as_json:
        _print_changes(planned)
        sys.stdout.flush()
    gone = [change.model for change in planned.changes if change.action == "pruned"]
    if not gone:
        return True
    names = printable(", ".join(gone))
    if typer.confirm(f"Stop {names}, which the files do not name?", err=True):
        return True
    say("Nothing was changed.")
    return False


def _print_changes(applied: Applied) -> None:
    """The diff, one model a line and its fields below it."""
    for change in applied.changes:
        for line in _lines(change):
            print(printable(line))
    counts = Counter(change.action for change in applied.changes)
    print(", ".join(f"{counts[name]} {name}" for name in _ACTIONS if counts[name]) or "No models.")


def _lines(change: Change) -> Iterator[str]:
    model = change.model
    if change.action == "kept":
        yield f"  {model} is not in these files (kept; --prune removes it)"
        return
    signs = {"added": "+", "changed": "~", "unchanged": "=", "pruned": "-"}
    notes = {"pruned": " (pruned)", "changed": "" if change.restarts else " (restarts nothing)"}
    yield f"{signs.get(change.action, change.action)} {model}{notes.get(change.action, '')}"
    for field in change.fields:
        before, after = shown_values(field.before, field.after)
        yield f"    {field.field}: {before} → {after}"


def shown_values(before: Any, after: Any) -> tuple[str, str]:
    """Two different values, short enough for a line; of long ones the place where they differ."""
    texts = [_text(before), _text(after)]
    if max(map(len, texts)) > VALUE_CHARACTERS:
        same = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
        begin = max(0, same - VALUE_CHARACTERS // 4)
        texts = [f"…{text[begin:]}" if begin else text for text in texts]
    first, second = (
        text if len(text) <= VALUE_CHARACTERS else f"{text[: VALUE_CHARACTERS - 1]}…"
        for text in texts
    )
    return first, second


def _text(value: Any) -> str:
    return "(not set)" if value is None else json.dumps(value, ensure_ascii=False)


def _report(applied: Applied, application: Application | None, *, as_json: bool) -> int:
    """Say how each changed model ended; returns the exit status."""
    changed = _changed(applied)
    if not changed:
        if not as_json:
            say("Nothing to change.")
        return 0
    if application is None:
        if not as_json:
            say("It goes on in the background. See: aviary status --watch")
        return 0
    names = {change.model for change in changed}
    outcomes = [outcome for outcome in application.models if outcome.model in names]
    bad = [outcome for outcome in outcomes if not went_well(outcome, changed)]
    if not as_json:
        for outcome in outcomes:
            if outcome not in bad:
                print(printable(f"{outcome.model}: {outcome.state}"))
        sys.stdout.flush()
    for outcome in bad:
        explain_failure(outcome, changed)
    return 1 if bad or not application.done else 0


def _changed(applied: Applied) -> list[Change]:
    return [c for c in applied.changes if c.action in ("added", "changed", "pruned")]


def _as_dict(applied: Applied, application: Application | None) -> dict[str, Any]:
    import msgspec

    outcomes = [] if application is None else application.models
    return {
        "id": applied.id,
        "changes": msgspec.to_builtins(applied.changes),
        "done": applied.id is None if application is None else application.done,
        "models": msgspec.to_builtins(outcomes),
    }
