"""`aviary status`: how a running Aviary does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from aviary.cli.models import print_models
from aviary.cli.options import JsonOption, KeyOption, UrlOption, print_json, printable, settings_for

if TYPE_CHECKING:
    from aviary.cli.client import Client, Model, Status


def status(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again each second until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Show a running Aviary and its models."""
    from aviary.cli.client import Client

    with Client(settings_for(context, url, api_key)) as client:
        if watch:
            from aviary.cli.watching import watch as keep_looking

            keep_looking(client, as_json=as_json)
            return
        data, now, found = look(client)
    if as_json:
        print_json(data)
        return
    for line in summary(now, client.url):
        print(line)
    print()
    print_models(found)


def look(client: Client) -> tuple[dict[str, Any], Status, list[Model]]:
    """What an Aviary says of itself: as it said it, and read."""
    from aviary.cli.client import Models, Status

    data = client.get("/api/status")
    now = client.read(data, Status)
    listed = client.get("/api/models")
    found = client.read(listed, Models).models
    return {**data, "list": listed["models"]}, now, found


def summary(now: Status, url: str) -> list[str]:
    """The lines above the models."""
    counts = ", ".join(f"{count} {state}" for state, count in now.models.items() if count)
    requests = f"{now.requests.total}, {now.requests.errors} of them errors"
    if now.requests.dropped_log_records:
        requests += f", {now.requests.dropped_log_records} not logged"
    lines = [
        f"Aviary {now.version} at {now.url or url}, up {_span(now.uptime_s)}",
        f"Backend   {now.backend}, gateway workers: {now.workers}",
        f"Models    {counts or 'none'}",
        f"Requests  {requests}",
    ]
    if now.dropped_events:
        lines.append(f"Events    {now.dropped_events} not kept")
    return [printable(line) for line in lines]


def _span(seconds: float) -> str:
    """A duration in its two largest units."""
    rest = int(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
