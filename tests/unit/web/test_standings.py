"""The leaderboard's figures: one piece of work for many who ask, and not too many pieces."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from aviary.core.errors import InvalidRequest, Overloaded
from aviary.web.standings import MOST_AT_ONCE, MOST_WAITING, Kept, Standings

NOW = 1_800_000_000.0


class Stage:
    """A control process without votes, that tells what it was asked."""

    def __init__(self) -> None:
        self.rated: list[tuple[float, str | None]] = []
        self.figured: list[float] = []
        served = SimpleNamespace(id="m", tags=("small",))
        control: Any = SimpleNamespace(
            ballots=self,
            observed=self,
            fleet=SimpleNamespace(snapshot=SimpleNamespace(models=(served,))),
        )
        self.standings = Standings(control)

    def ballots(self, since: float, task: str | None) -> list[Any]:
        self.rated.append((since, task))
        return []

    def tasks(self, most: int) -> list[str]:
        return ["chat", "code"][:most]

    async def figures(self, models: list[str], since: float) -> dict[str, Any]:
        self.figured.append(since)
        return {}

    async def rows(self, since: str, task: str | None = None) -> list[str]:
        votes, rows = await self.standings.rows(since, since, NOW, task, None)
        assert votes == 0
        return [row.model for row in rows]


async def test_a_period_is_one_however_it_is_written() -> None:
    stage = Stage()
    for since in ("1700000000", "1700000010.5", "1700000039"):
        assert await stage.rows(since) == ["m"]
    assert stage.rated == [(1_699_999_980.0, None)]
    assert stage.figured == [1_699_999_980.0]
    for since in ("7d", "168h", "07.0d"):
        await stage.rows(since)
    assert stage.figured[1:] == [NOW - 7 * 86400]
    await stage.rows("")
    await stage.rows("0d")
    assert stage.figured[2:] == [0.0, NOW]
    with pytest.raises(InvalidRequest):
        await stage.rows("soon")


async def test_a_task_nobody_voted_on_is_no_work() -> None:
    stage = Stage()
    for number in range(100):
        assert await stage.rows("", f"odd {number}") == ["m"]
    assert (stage.rated, stage.figured) == ([], [0.0])
    await stage.rows("", "code")
    await stage.rows("", "")
    assert stage.rated == [(0.0, "code"), (0.0, "")]


async def test_not_too_many_wait() -> None:
    kept: Kept[int] = Kept()
    go_on = asyncio.Event()

    async def work_out() -> int:
        await go_on.wait()
        return 1

    most = MOST_AT_ONCE + MOST_WAITING
    asked = [asyncio.create_task(kept.get(number, work_out)) for number in range(most)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await kept.get("one more", work_out)
    assert caught.value.retry_after_s
    await asyncio.sleep(0)
    kept.forget()  # what is being worked out still takes its place
    with pytest.raises(Overloaded):
        await kept.get(0, work_out)
    same = asyncio.create_task(kept.get(most - 1, work_out))  # not begun, so it is not old
    await asyncio.sleep(0)
    go_on.set()
    assert sum(await asyncio.gather(*asked, same)) == most + 1
    assert await kept.get("one more", work_out) == 1
