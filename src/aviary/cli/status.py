"""`aviary status`: how a running Aviary does."""

from __future__ import annotations

import typer

from aviary.cli.models import print_models
from aviary.cli.options import JsonOption, KeyOption, UrlOption, print_json, settings_for


def status(
    context: typer.Context,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Show a running Aviary and its models."""
    from aviary.cli.client import Client, Models, Status

    with Client(settings_for(context, url, api_key)) as client:
        data = client.get("/api/status")
        now = client.read(data, Status)
        listed = client.get("/api/models")
        found = client.read(listed, Models).models
    if as_json:
        print_json({**data, "list": listed["models"]})
        return
    counts = ", ".join(f"{count} {state}" for state, count in now.models.items() if count)
    requests = f"{now.requests.total}, {now.requests.errors} of them errors"
    if now.requests.dropped_log_records:
        requests += f", {now.requests.dropped_log_records} not logged"
    print(f"Aviary {now.version} at {now.url or client.url}, up {_span(now.uptime_s)}")
    print(f"Backend   {now.backend}, gateway workers: {now.workers}")
    print(f"Models    {counts or 'none'}")
    print(f"Requests  {requests}")
    print()
    print_models(found)


def _span(seconds: float) -> str:
    """A duration in its two largest units."""
    rest = int(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
