"""Progress in words: how far, how fast, and not too often."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from aviary.core.ports import Progress

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_EVERY_S = 0.2
_SPEED_WINDOW_S = 3.0


def format_bytes(count: float) -> str:
    """A size for people: `98 MB`, `1.2 GB`."""
    for factor, unit in _UNITS:
        if count >= factor:
            value = count / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{count:.0f} B"


def format_share(done: float, total: float) -> str:
    """Two sizes in one unit: `42 of 98 MB`."""
    for factor, unit in _UNITS:
        if total >= factor:
            digits = 1 if total / factor < 10 else 0
            return f"{done / factor:.{digits}f} of {total / factor:.{digits}f} {unit}"
    return f"{done:.0f} of {total:.0f} B"


class Meter:
    """Counts bytes and reports them about five times a second.

    Args:
        progress: Receives the texts.
        verb: What is going on, for example `downloading`.
        name: Of which file.
        total: Its size in bytes, when known.
        done: Bytes that were there before.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        progress: Progress,
        verb: str,
        name: str,
        total: int | None = None,
        done: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._verb = verb
        self._name = name
        self._total = total
        self._clock = clock
        self._next = clock()
        self._samples: deque[tuple[float, int]] = deque([(self._next, done)])
        self.done = done

    def add(self, count: int) -> None:
        """Count bytes; reports when it is time to."""
        self.done += count
        now = self._clock()
        if now >= self._next or (self._total is not None and self.done == self._total):
            self._next = now + _EVERY_S
            self._report(now)

    def at(self, done: int) -> None:
        """Set how many bytes are done; reports when it is time to."""
        self.add(done - self.done)

    def _report(self, now: float) -> None:
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and self._samples[1][0] < now - _SPEED_WINDOW_S:
            self._samples.popleft()
        since, before = self._samples[0]
        speed = ""
        if now > since and self.done > before:
            speed = f", {format_bytes((self.done - before) / (now - since))}/s"
        fraction = None
        if self._total is None:
            share = format_bytes(self.done)
        else:
            share = format_share(self.done, self._total)
            fraction = min(1.0, self.done / self._total) if self._total else 1.0
        self._progress(f"{self._verb} {self._name} {share}{speed}", fraction)


def within(progress: Progress, start: float, end: float) -> Progress:
    """A progress whose 0…1 is `start`…`end` of the given one."""

    def report(text: str, fraction: float | None) -> None:
        progress(text, None if fraction is None else start + (end - start) * fraction)

    return report


class Cancelled(Exception):
    """Raised out of a progress call to end a fetch that nobody needs any more."""


class SharedProgress:
    """One progress made of several that go on at the same time in threads."""

    def __init__(self, progress: Progress, count: int) -> None:
        self._progress = progress
        self._fractions = [0.0] * count
        self._lock = threading.Lock()
        self._cancelled = False

    def cancel(self) -> None:
        """End all that goes on: their next report raises `Cancelled`."""
        self._cancelled = True

    def part(self, number: int) -> Progress:
        """The progress of one of them, counted from 0."""

        def report(text: str, fraction: float | None) -> None:
            if self._cancelled:
                raise Cancelled
            with self._lock:
                if fraction is not None:
                    self._fractions[number] = fraction
                overall = sum(self._fractions) / len(self._fractions)
                self._progress(f"{text} (part {number + 1} of {len(self._fractions)})", overall)

        return report
