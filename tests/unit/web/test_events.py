"""What is told of a model's events to those who do not administer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

from aviary.fleet.events import Event, Feed
from aviary.web.api import make_router

EVENTS = (
    Event(1.0, "m", "scaled", detail="min_replicas: 2", changed_by="ak_somebody"),
    Event(2.0, "m", "ready", "m/0", detail="after 3 s", changed_by="ak_somebody"),
)


async def told(role: str) -> list[dict[str, Any]]:
    """The events that somebody of a role gets of `/api/models/m/events`."""
    feed: Feed[Event] = Feed()
    for event in EVENTS:
        feed.add(event)
    fleet = SimpleNamespace(events=feed, spec=lambda model: None)
    control: Any = SimpleNamespace(
        fleet=fleet, observed=SimpleNamespace(loads=None), keys=None, keeper=None, ballots=None
    )
    app = FastAPI()
    app.include_router(make_router(control))
    sent = b""
    enough = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await enough.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal sent
        sent += message.get("body", b"")
        if sent.count(b"data: ") == len(EVENTS):
            enough.set()

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/models/m/events",
        "raw_path": b"/api/models/m/events",
        "query_string": b"",
        "headers": [(b"x-aviary-role", role.encode())],
    }
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    return [json.loads(part[6:]) for part in sent.decode().split("\n\n") if part]


@pytest.mark.parametrize("role", ["visitor", "user"])
async def test_whose_key_it_was_is_for_administrators(role: str) -> None:
    to_admin, to_others = await told("admin"), await told(role)
    assert [event["changed_by"] for event in to_admin] == ["ak_somebody"] * 2
    assert [event["detail"] for event in to_admin] == ["min_replicas: 2", "after 3 s"]
    assert [event["changed_by"] for event in to_others] == ["", ""]
    assert [event["detail"] for event in to_others] == ["", "after 3 s"]
