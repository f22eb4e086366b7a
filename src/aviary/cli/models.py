"""`aviary models`: what a running Aviary serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from aviary.cli.options import JsonOption, KeyOption, UrlOption, print_json, say, settings_for
from aviary.cli.tables import Column, print_table

if TYPE_CHECKING:
    from aviary.cli.client import Model

COLUMNS = (
    Column("MODEL"),
    Column("STATE"),
    Column("READY", right=True),
    Column("ENGINE"),
    Column("CONTEXT", right=True),
    Column("SLOTS", right=True),
    Column("RUN/WAIT", right=True),
    Column("REQUESTS", right=True),
    Column("TOKENS OUT", right=True),
)


def models(
    context: typer.Context,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Show models: state, replicas, load, totals."""
    from aviary.cli.client import Client, Models

    with Client(settings_for(context, url, api_key)) as client:
        data = client.get("/api/models")
        found = client.read(data, Models).models
    if as_json:
        print_json(data["models"])
        return
    print_models(found)


def print_models(found: list[Model]) -> None:
    """The table of models, what is to be known of some, and why those that failed did."""
    if not found:
        say("No models. Add one with: aviary run SPEC")
        return
    print_table(COLUMNS, [_row(model) for model in found])
    for model in found:
        if model.detail and model.state != "sleeping":
            say(f"{model.id}: {model.detail}")
        for replica in model.replicas:
            if replica.state == "failed" and replica.detail:
                say(f"{replica.id} failed: {replica.detail}")


def _row(model: Model) -> tuple[str, ...]:
    return (
        model.id,
        model.state,
        f"{model.ready_replicas}/{model.desired_replicas}",
        model.engine,
        str(model.context_length),
        str(model.slots),
        f"{model.running}/{model.waiting}",
        str(model.totals.requests),
        str(model.totals.completion_tokens),
    )
