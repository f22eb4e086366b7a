"""`aviary run SPEC`: add a model to a running Aviary, or change it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aviary.cli.applying import LONGEST_PAUSE_S, explain_failure, follow, went_well
from aviary.cli.options import (
    JsonOption,
    KeyOption,
    UrlOption,
    print_json,
    say,
    settings_for,
)
from aviary.cli.progress import Step, progress

if TYPE_CHECKING:
    from aviary.cli.client import Client, Outcome

_INTERRUPTED = 130


def run(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="The model's spec file.", metavar="SPEC")],
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until it is ready, showing progress.")
    ] = True,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> int:
    """Add or change a model of a running Aviary.

    A model of the same id is replaced without a gap. One that cannot start is taken back.
    """
    from aviary.cli.client import Client
    from aviary.config.loader import load_spec

    spec = load_spec(path)
    with Client(settings_for(context, url, api_key)) as client:
        applied = client.apply([spec], prune=False, dry_run=False, rollback=True)
        changes = [change for change in applied.changes if change.model == spec.id]
        action = changes[0].action if changes else "unchanged"
        outcome = None
        if wait:
            try:
                outcome = _outcome(client, spec.id, applied.id, action, quiet=as_json)
            except KeyboardInterrupt:
                say("Stopped waiting; the change goes on. See: aviary status --watch")
                return _INTERRUPTED
            if not went_well(outcome, changes):
                explain_failure(outcome, changes)
                return 1
    if as_json:
        state = outcome.state if outcome else "starting"
        print_json({"model": spec.id, "action": action, "state": state})
        return 0
    print(f"{spec.id}: {action}{f', {outcome.state}' if outcome else ''}.")
    if outcome is None and action != "unchanged":
        say(f"It starts in the background. See: aviary logs {spec.id} -f")
    print(f'Try it: aviary query -m {spec.id} "Why do birds sing?"')
    print(f"Or with any OpenAI client: base_url={client.url}/v1, model={spec.id}")
    return 0


def _outcome(client: Client, model: str, apply: str | None, action: str, *, quiet: bool) -> Outcome:
    """What becomes of the model, when that is known.

    Of one that was served so already the apply knows nothing: it may still be starting.
    """
    from aviary.cli.client import Outcome

    if apply is not None and action != "unchanged":
        application = follow(client, apply, [model], timeout_s=float("inf"), quiet=quiet)
        found = (outcome for outcome in application.models if outcome.model == model)
        return next(found, Outcome(model, "removed"))
    with progress(quiet=quiet) as shown:
        while True:
            now = client.model(model)
            if now.state != "starting":
                return Outcome(model, now.state, now.doing)
            shown.show([Step(model, now.state, now.doing)])
            time.sleep(LONGEST_PAUSE_S)
