"""How often and how much at once somebody may do something, in bounded memory."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from aviary.auth.addresses import network_of
from aviary.core.errors import BudgetExceeded

MOST_NAMES: Final = 10_000
"""So many names are known at a time; of more, the one not seen for longest is forgotten."""


class Limit:
    """At most so many a minute, all of which may come at once.

    Args:
        per_minute: How many.
        what: What is counted, for the error's message.
    """

    def __init__(self, per_minute: int, what: str) -> None:
        self._per_minute = per_minute
        self._what = what
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, now_s: float) -> None:
        """Count one.

        Args:
            name: Whose it is.
            now_s: A clock that does not go back.

        Raises:
            BudgetExceeded: there were too many.
        """
        left, seen_s = self._left.pop(name, (float(self._per_minute), now_s))
        left = min(float(self._per_minute), left + (now_s - seen_s) * self._per_minute / 60.0)
        enough = left >= 1.0
        self._left[name] = (left - 1.0 if enough else left, now_s)
        if len(self._left) > MOST_NAMES:
            self._left.popitem(last=False)
        if not enough:
            raise BudgetExceeded(
                f"More than {self._per_minute} {self._what} a minute.",
                hint="Try again later.",
                retry_after_s=(1.0 - left) * 60.0 / self._per_minute,
            )


class Limits:
    """Two limits at once: a session's and an address'.

    A session is a name that a browser makes up, so that the address' limit is what bounds those who
    make up many. This machine's own address has none: behind a reverse proxy it is everybody's.

    Args:
        a_session: How many a minute and session.
        an_address: How many a minute and address.
        what: What is counted.
    """

    def __init__(self, a_session: int, an_address: int, what: str) -> None:
        self._sessions = Limit(a_session, f"{what} of a session")
        self._addresses = Limit(an_address, f"{what} of an address")

    def take(self, session: str, address: str, now_s: float) -> None:
        """Count one.

        Args:
            session: The session's name; empty when there is none.
            address: Where the request came from; empty when that is not known.
            now_s: A clock that does not go back.

        Raises:
            BudgetExceeded: there were too many.
        """
        if network := network_of(address):
            self._addresses.take(network, now_s)
        if session:
            self._sessions.take(session, now_s)


class AtOnce:
    """So many at a time of each name.

    Args:
        most: How many.
        what: What is counted, for the error's message.
    """

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, names: Sequence[str], count: int) -> Iterator[None]:
        """Count some until the block ends.

        Args:
            names: Whose they are; empty ones are nobody's.
            count: How many begin.

        Raises:
            BudgetExceeded: with these there were too many.
        """
        names = [name for name in names if name]
        if any(self._held[name] + count > self._most for name in names):
            raise BudgetExceeded(
                f"More than {self._most} {self._what} at once.",
                hint="Wait until some have ended.",
                retry_after_s=1.0,
            )
        self._held.update(dict.fromkeys(names, count))
        try:
            yield
        finally:
            self._held.subtract(dict.fromkeys(names, count))
            for name in names:
                if self._held[name] <= 0:
                    del self._held[name]
