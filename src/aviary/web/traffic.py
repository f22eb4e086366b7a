"""`/api/traffic`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from aviary.core.traffic import Range
from aviary.web.ports import Control
from aviary.web.traffic_shapes import TrafficAnswer


def add_traffic(router: APIRouter, control: Control) -> None:
    """Add the routes about traffic."""

    @router.get("/traffic")
    async def traffic(
        range: Range = "1h",  # noqa: A002
        model: Annotated[str | None, Query(max_length=256)] = None,
    ) -> TrafficAnswer:
        """Requests, errors, users, tokens, latency and replicas over time, of one model or all."""
        return TrafficAnswer.of(range, await control.observed.traffic(range, model))
