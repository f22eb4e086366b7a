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
        shown: Annotated[Range, Query(alias="range")] = "1h",
        model: Annotated[str | None, Query(max_length=256)] = None,
    ) -> TrafficAnswer:
        """Requests, errors, users, tokens, latency and replicas over time, of one model or all."""
        return TrafficAnswer.of(shown, await control.observed.traffic(shown, model))
