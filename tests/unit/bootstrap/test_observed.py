"""Figures looked up on demand: who waits for whom."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from aviary.bootstrap.observed import Observed


async def test_totals_do_not_wait_for_a_leaderboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(database: object, models: object, since: float) -> dict[str, Any]:
        begun.set()
        assert go_on.wait(60)
        return {}

    async def nothing() -> None:
        pass

    monkeypatch.setattr("aviary.store.figures.figures", slow)
    fleet: Any = None  # not asked
    url = f"sqlite:///{tmp_path / 'requests.sqlite'}"
    observed = Observed(fleet, url, "secret", tmp_path, nothing, lambda: 0)
    try:
        figures = asyncio.create_task(observed.figures(["m"], 0.0))
        assert await asyncio.to_thread(begun.wait, 60)
        async with asyncio.timeout(60):
            assert await observed.totals() == {}
        assert not figures.done()
        go_on.set()
        assert await figures == {}
    finally:
        go_on.set()
        await observed.close()
