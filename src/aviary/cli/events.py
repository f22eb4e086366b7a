"""`aviary events`: what happened to the models, when, why and by whom."""

from __future__ import annotations

import json
import time
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
from aviary.cli.tables import Column, print_table

if TYPE_CHECKING:
    from aviary.cli.client import Event

COLUMNS = (
    Column("TIME"),
    Column("MODEL"),
    Column("WHAT"),
    Column("REPLICA"),
    Column("DETAIL", wide=True),
    Column("BY"),
)
_WIDTHS = (19, 24, 11)  # of the columns of events that are printed as they come


def events(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Only this model's.", metavar="MODEL")
    ] = None,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=2000, help="How many of the last events.")
    ] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new events until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Show what happened to the models: what changed, when, why, by whom."""
    from aviary.cli.client import Client, Event, Events

    only: dict[str, Any] = {"limit": lines} | ({} if model is None else {"model": model})
    with Client(settings_for(context, url, api_key)) as client:
        if follow:
            for data in client.events("/api/events", **only, follow="true"):
                line = json.dumps(data) if as_json else _line(client.read(data, Event))
                print(line, flush=True)
            return
        data = client.get("/api/events", **only)
        found = client.read(data, Events).events
    if as_json:
        print_json(data)
    elif found:
        print_table(COLUMNS, [_cells(event) for event in found])
    else:
        say("No events.")


def _cells(event: Event) -> tuple[str, ...]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    return (when, event.model, event.kind, event.replica, event.detail, event.changed_by)


def _line(event: Event) -> str:
    """One event as it comes, when nobody knows yet how wide a table would be."""
    cells = [" ".join(printable(cell).split()) for cell in _cells(event)]
    aligned = [cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=False)]
    by = f"(by {cells[5]})" if cells[5] else ""
    return "  ".join([*aligned, *(cell for cell in (cells[3], cells[4], by) if cell)]).rstrip()
