"""What `apply` and `run` share: following an apply, and saying how it ended."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from aviary.cli.options import print_error, say
from aviary.cli.progress import Step, progress
from aviary.core.errors import AviaryError, StartFailed

if TYPE_CHECKING:
    from aviary.cli.client import Application, Change, Client, Outcome

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0
PATIENCE_S = 10.0
"""How long an Aviary may be away while an apply is followed."""
LOG_LINES = 20
"""Most of an engine's last lines that are shown."""


def follow(
    client: Client, apply: str, models: Collection[str], *, timeout_s: float, quiet: bool
) -> Application:
    """Show how an apply goes until it is done or the time is up.

    Args:
        client: Asks the Aviary.
        apply: The apply's id.
        models: Which models to show; the others stay as they are.
        timeout_s: Longest wait in seconds.
        quiet: Show no progress.

    Returns:
        How it stood last; not `done` when the time was up.

    Raises:
        AviaryError: the Aviary cannot be asked, or does not know the apply (any more).
    """
    from aviary.cli.client import Application, may_pass

    deadline_s = time.monotonic() + timeout_s
    patient_until_s = time.monotonic() + PATIENCE_S
    application = Application(id=apply)
    with progress(quiet=quiet) as shown:
        for pause_s in _pauses():
            try:
                application = client.application(apply)
                if not application.done:
                    shown.show([s for s in _steps(client, application) if s.model in models])
                patient_until_s = time.monotonic() + PATIENCE_S
            except AviaryError as error:
                if not may_pass(error) or time.monotonic() > patient_until_s:
                    raise
            left_s = deadline_s - time.monotonic()
            if application.done or left_s <= 0:
                break
            time.sleep(min(pause_s, left_s))
    return application


def went_well(outcome: Outcome, changes: Sequence[Change]) -> bool:
    """Whether a model became what was asked for, and will be told so."""
    if outcome.state == "removed":  # else somebody stopped it meanwhile
        return any(c.model == outcome.model and c.action == "pruned" for c in changes)
    return outcome.state in ("ready", "sleeping")


def explain_failure(outcome: Outcome, changes: Sequence[Change]) -> None:
    """Say on stderr what became of a model that did not become what was asked for, and why."""
    model = outcome.model
    new = any(change.model == model and change.action == "added" for change in changes)
    cause = outcome.detail.rstrip(".") or "no reason was given"
    if outcome.state == "rolled_back":
        end = "was removed again" if new else "was rolled back to the version before"
        print_error(StartFailed(f"{model} did not start and {end}: {cause}."))
    elif outcome.state == "failed":
        print_error(
            StartFailed(f"{model} did not start: {cause}.", hint=f"See: aviary logs {model}")
        )
    elif outcome.state == "superseded":
        print_error(AviaryError(f"{model} was changed again before it was ready."))
    elif outcome.state == "removed":
        print_error(AviaryError(f"{model} was stopped before it was ready."))
    else:
        print_error(
            AviaryError(
                f"{model} was not ready in time.",
                hint="It goes on. See: aviary status --watch",
            )
        )
    if outcome.log:
        say("The engine's last lines:")
        for line in outcome.log[-LOG_LINES:]:
            say(f"    {line}")


def _pauses() -> Iterator[float]:
    """Quick applies are seen quickly, long ones are asked after now and then. In seconds."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)


def _steps(client: Client, application: Application) -> list[Step]:
    doing = {model.id: model.doing for model in client.models()}
    return [
        Step(
            outcome.model,
            outcome.state,
            doing.get(outcome.model, "") if outcome.state == "rolling" else outcome.detail,
        )
        for outcome in application.models
    ]
