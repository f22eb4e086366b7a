"""The battles that a worker runs at this moment, so that their columns can be stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hmac import compare_digest
from typing import Protocol

from aviary.core.preference import Stop


class Stoppable(Protocol):
    """A column that runs."""

    def stop(self) -> None:
        """End it; what it has stays."""


@dataclass(frozen=True, slots=True)
class _Running:
    session: str
    columns: Mapping[int, Stoppable]


class RunningBattles:
    """The running battles of a worker; a battle and retries of its columns may run at once."""

    def __init__(self) -> None:
        self._running: dict[str, list[_Running]] = {}

    @contextmanager
    def hold(self, battle: str, session: str, columns: Mapping[int, Stoppable]) -> Iterator[None]:
        """Let the columns be stopped by their battle's session until the block ends."""
        running = _Running(session, columns)
        self._running.setdefault(battle, []).append(running)
        try:
            yield
        finally:
            left = self._running[battle]
            left.remove(running)
            if not left:
                del self._running[battle]

    def stop(self, wanted: Stop) -> bool:
        """Stop a column; whether it runs here and its session asks."""
        found = False
        for running in self._running.get(wanted.battle, ()):
            column = running.columns.get(wanted.column)
            same = compare_digest(running.session.encode(), wanted.session.encode())
            if column is not None and same and running.session:
                column.stop()
                found = True
        return found
