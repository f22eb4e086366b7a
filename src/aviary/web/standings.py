"""The leaderboard's figures, kept a little so that many visitors cost little."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from aviary.arena.leaderboard import Row, board, since_of
from aviary.arena.ratings import Rating, rate
from aviary.core.errors import Overloaded
from aviary.store.figures import Figures
from aviary.store.records import clean_text
from aviary.web.ports import Control

FRESH_S: Final = 5.0
"""So old figures may be."""
MOST_KEPT: Final = 64
MOST_AT_ONCE: Final = 2
"""So many are worked out at a time: whoever asks for odd periods shall not stop all else."""
MOST_WAITING: Final = 8
"""So many more wait for that; others are refused."""
MOST_TASKS: Final = 50
MOST_KNOWN_TASKS: Final = 1_000
"""So many tasks, those voted on most, have a leaderboard of their own."""
MINUTE_S: Final = 60.0

_T = TypeVar("_T")
_NOBODY: Final[Sequence[Rating]] = ()


class Kept(Generic[_T]):
    """Answers by question, each worked out once for all who ask within a while."""

    def __init__(self) -> None:
        self._answers: OrderedDict[object, tuple[float, asyncio.Task[_T]]] = OrderedDict()
        self._work = asyncio.Semaphore(MOST_AT_ONCE)
        self._pending: set[asyncio.Task[_T]] = set()
        self._waiting: set[asyncio.Task[Any] | None] = set()

    async def get(self, question: object, work_out: Callable[[], Awaitable[_T]]) -> _T:
        """The answer to a question; that of a question asked less than `FRESH_S` ago.

        Raises:
            Overloaded: too many other answers are being waited for.
        """
        asked_s, task = self._answers.pop(question, (0.0, None))
        now_s = monotonic()
        if task is None or _is_old(task, now_s - asked_s):
            if len(self._pending) >= MOST_AT_ONCE + MOST_WAITING:
                raise Overloaded(
                    "Too many different leaderboards are asked for at once.",
                    hint="Try again later.",
                    retry_after_s=FRESH_S,
                )
            asked_s, task = now_s, asyncio.create_task(self._do(work_out))
            self._pending.add(task)
            self._waiting.add(task)
            task.add_done_callback(self._pending.discard)
            task.add_done_callback(self._waiting.discard)
        self._answers[question] = (asked_s, task)
        if len(self._answers) > MOST_KEPT:
            self._answers.popitem(last=False)
        # Who asked first may leave: the others still want it.
        return await asyncio.shield(task)

    def forget(self) -> None:
        """Something has changed: all answers are old, but those that are not begun."""
        for question, (_, task) in list(self._answers.items()):
            if task not in self._waiting:
                del self._answers[question]

    async def _do(self, work_out: Callable[[], Awaitable[_T]]) -> _T:
        async with self._work:
            self._waiting.discard(asyncio.current_task())
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

        Raises:
            InvalidRequest: a period is none.
            Overloaded: too many others ask.
        """
        control = self._control
        votes_period, votes_from = _period(votes_since, now)
        answers_period, answers_from = _period(answers_since, now)

        async def ratings() -> tuple[int, Sequence[Rating]]:
            ballots = await asyncio.to_thread(control.ballots.ballots, votes_from, task)
            return len(ballots), await asyncio.to_thread(rate, ballots)

        task = None if task is None else clean_text(task, 64)
        if task and task not in await self._voted_on(MOST_KNOWN_TASKS):
            votes, rated = 0, _NOBODY
        else:
            votes, rated = await self._ratings.get((votes_period, task), ratings)
        served = {view.id: view.tags for view in control.fleet.snapshot.models}
        models = sorted({*served, *(rating.model for rating in rated)})

        async def figures() -> Mapping[str, Figures]:
            return await control.observed.figures(models, answers_from)

        found = await self._figures.get((answers_period, *models), figures)
        return votes, board(rated, found, served, tag)

    async def tasks(self) -> Sequence[str]:
        """The tasks that were voted on most, by name."""
        return await self._voted_on(MOST_TASKS)

    async def _voted_on(self, most: int) -> Sequence[str]:
        async def tasks() -> Sequence[str]:
            return await asyncio.to_thread(self._control.ballots.tasks, most)

        return await self._tasks.get(most, tasks)

    def tags(self) -> list[str]:
        """The tags of all models that are served."""
        return sorted({tag for view in self._control.fleet.snapshot.models for tag in view.tags})


def _period(since: str, now: float) -> tuple[object, float]:
    """What a period is known by, however it is written, and when it begins.

    A unix time counts from the beginning of its minute.
    """
    if since[-1:].isalpha():
        return ("ago", since_of(since, 0.0)), since_of(since, now)
    start = since_of(since, now) // MINUTE_S * MINUTE_S
    return ("from", start), start
