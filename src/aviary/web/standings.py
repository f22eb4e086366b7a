"""The leaderboard's figures, kept a little so that many visitors cost little."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from aviary.arena.leaderboard import Row, board, since_of
from aviary.arena.ratings import Rating, rate
from aviary.store.figures import Figures
from aviary.web.ports import Control

FRESH_S: Final = 5.0
"""So old figures may be."""
MOST_KEPT: Final = 64
MOST_AT_ONCE: Final = 2
"""So many are worked out at a time: whoever asks for odd periods shall not stop all else."""
MOST_TASKS: Final = 50

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """Answers by question, each worked out once for all who ask within a while."""

    def __init__(self) -> None:
        self._answers: OrderedDict[object, tuple[float, asyncio.Task[_T]]] = OrderedDict()
        self._work = asyncio.Semaphore(MOST_AT_ONCE)

    async def get(self, question: object, work_out: Callable[[], Awaitable[_T]]) -> _T:
        """The answer to a question; that of a question asked less than `FRESH_S` ago."""
        asked_s, task = self._answers.pop(question, (0.0, None))
        now_s = monotonic()
        if task is None or _is_old(task, now_s - asked_s):
            asked_s, task = now_s, asyncio.create_task(self._do(work_out))
        self._answers[question] = (asked_s, task)
        if len(self._answers) > MOST_KEPT:
            self._answers.popitem(last=False)
        # Who asked first may leave: the others still want it.
        return await asyncio.shield(task)

    def forget(self) -> None:
        """Something has changed: all answers are old."""
        self._answers.clear()

    async def _do(self, work_out: Callable[[], Awaitable[_T]]) -> _T:
        async with self._work:
            return await work_out()


def _is_old(task: asyncio.Task[Any], age_s: float) -> bool:
    """Whether an answer is none any more; one that is being worked out is as new as can be."""
    if not task.done():
        return False
    return age_s > FRESH_S or task.cancelled() or task.exception() is not None


class Standings:
    """Rows of the leaderboard."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._ratings: Kept[tuple[int, Sequence[Rating]]] = Kept()
        self._figures: Kept[Mapping[str, Figures]] = Kept()
        self._tasks: Kept[Sequence[str]] = Kept()

    def voted(self) -> None:
        """Somebody has voted."""
        self._ratings.forget()
        self._tasks.forget()

    async def rows(
        self, votes_since: str, answers_since: str, now: float, task: str | None, tag: str | None
    ) -> tuple[int, list[Row]]:
        """How many votes there are, and the rows.

        Args:
            votes_since: The period of votes, as `since_of` takes it.
            answers_since: Of speed and cost.
            now: Unix time in seconds.
            task: Only votes on battles of that task.
            tag: Only models with that tag.
        """
        control = self._control
        votes_from, answers_from = since_of(votes_since, now), since_of(answers_since, now)

        async def ratings() -> tuple[int, Sequence[Rating]]:
            ballots = await asyncio.to_thread(control.ballots.ballots, votes_from, task)
            return len(ballots), await asyncio.to_thread(rate, ballots)

        votes, rated = await self._ratings.get((votes_since, task), ratings)
        served = {view.id: view.tags for view in control.fleet.snapshot.models}
        models = sorted({*served, *(rating.model for rating in rated)})

        async def figures() -> Mapping[str, Figures]:
            return await control.observed.figures(models, answers_from)

        found = await self._figures.get((answers_since, *models), figures)
        return votes, board(rated, found, served, tag)

    async def tasks(self) -> Sequence[str]:
        """The tasks that were voted on most, by name."""

        async def tasks() -> Sequence[str]:
            return await asyncio.to_thread(self._control.ballots.tasks, MOST_TASKS)

        return await self._tasks.get("", tasks)

    def tags(self) -> list[str]:
        """The tags of all models that are served."""
        return sorted({tag for view in self._control.fleet.snapshot.models for tag in view.tags})
