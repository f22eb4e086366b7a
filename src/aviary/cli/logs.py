"""`aviary logs MODEL`: what a model's replicas wrote."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from aviary.cli.options import JsonOption, KeyOption, UrlOption, print_json, printable, settings_for


def logs(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model's id.", metavar="MODEL")],
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=2000, help="How many of the last lines.")
    ] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Show the log of a model's replicas."""
    from aviary.cli.client import Client

    with Client(settings_for(context, url, api_key)) as client:
        if follow:
            stream = client.events("/api/logs", model=model, lines=lines, follow="true")
            for event in stream:
                line = str(event.get("line", ""))
                print(json.dumps({"line": line}) if as_json else printable(line), flush=True)
            return
        found = client.read(
            client.get("/api/logs", model=model, lines=lines), dict[str, list[str]]
        ).get("lines", [])
    if as_json:
        print_json(found)
        return
    for line in found:
        print(printable(line))
