"""`aviary run SPEC`: add a model to a running Aviary, or change it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aviary.cli.options import (
    JsonOption,
    KeyOption,
    UrlOption,
    print_json,
    printable,
    say,
    settings_for,
)
from aviary.core.errors import ModelNotFound, StartFailed

if TYPE_CHECKING:
    from aviary.cli.client import Client, Model
    from aviary.config.spec import ModelSpec

_LOOK_AGAIN_S = 2.0


def run(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="The model's spec file.", metavar="SPEC")],
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until it is ready, showing progress.")
    ] = True,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Add or change a model of a running Aviary.

    A model of the same id is replaced without a gap.
    """
    from aviary.cli.client import Client
    from aviary.config.loader import load_spec

    spec = load_spec(path)
    with Client(settings_for(context, url, api_key)) as client:
        failed_before = _failed(_model_or_none(client, spec.id))
        # Without the nulls: some parts of a spec count which of their fields are given.
        change = client.add(spec.model_dump(mode="json", exclude_none=True))
        model = _until_settled(client, spec, failed_before) if wait else None
    if as_json:
        print_json({**change, "state": model.state if model else "starting"})
        return
    action = change.get("action", "added")
    print(f"{spec.id}: {action}{', ready' if model else ''}.")
    if model is None and action != "unchanged":
        say(f"It starts in the background. See: aviary logs {spec.id} -f")
    print(f'Try it: aviary query -m {spec.id} "Why do birds sing?"')
    print(f"Or with any OpenAI client: base_url={client.url}/v1, model={spec.id}")


def _until_settled(client: Client, spec: ModelSpec, failed_before: set[str]) -> Model:
    """Follow the model's events until it is ready.

    Raises:
        StartFailed: it did not start.
    """
    from aviary.cli.client import Event, model_path

    with _progress() as show:
        while True:
            stream = client.events(f"{model_path(spec.id)}/events", silence_s=_LOOK_AGAIN_S)
            if model := _settled(client, spec, failed_before):
                return model
            for data in stream:
                event = client.read(data, Event)
                show(_describe(event))
                if event.state == "starting":
                    continue
                if model := _settled(client, spec, failed_before):
                    return model


def _settled(client: Client, spec: ModelSpec, failed_before: set[str]) -> Model | None:
    model = client.model(spec.id)
    new_failures = _failed(model) - failed_before
    if model.state == "failed" or new_failures:
        broken = [replica for replica in model.replicas if replica.state == "failed"]
        broken.sort(key=lambda replica: (replica.id in new_failures, replica.since))
        detail = broken[-1].detail if broken else ""
        raise StartFailed(
            f"{spec.id} did not start: {detail.rstrip('.') or 'no reason was given'}.",
            hint=f"See: aviary logs {spec.id}",
        )
    starting = any(replica.state == "starting" for replica in model.replicas)
    current = model.spec_hash in ("", spec.hash)
    return model if model.state == "ready" and current and not starting else None


def _model_or_none(client: Client, model: str) -> Model | None:
    try:
        return client.model(model)
    except ModelNotFound:
        return None


def _failed(model: Model | None) -> set[str]:
    if model is None:
        return set()
    return {replica.id for replica in model.replicas if replica.state == "failed"}


def _describe(event: Any) -> str:
    text = event.state
    if event.detail and event.detail != event.state:
        text += f": {event.detail}"
    if event.progress is not None:
        text += f" {event.progress:.0%}"
    return printable(text).replace("\n", " ")


@contextmanager
def _progress() -> Iterator[Any]:
    """A line on stderr that is overwritten on a terminal, and grows into a list elsewhere."""
    if not sys.stderr.isatty():
        last = ""

        def tell(text: str) -> None:
            nonlocal last
            if text.split("%", maxsplit=1)[0].rstrip("0123456789 ") != last:
                say(text)
            last = text.split("%", maxsplit=1)[0].rstrip("0123456789 ")

        yield tell
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting") as line:
        yield lambda text: line.update(Text(text))
