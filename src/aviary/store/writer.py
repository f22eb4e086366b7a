"""Takes records from those who cannot wait and writes them in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from aviary.core.ports import RequestRecord

_logger = logging.getLogger(__name__)

QUEUE_RECORDS: Final = 50_000
BATCH_RECORDS: Final = 500
INTERVAL_S: Final = 0.25

Record = TypeVar("Record")
AnyRecord = TypeVar("AnyRecord", contravariant=True)


class Appendable(Protocol[AnyRecord]):
    """What the writer needs of a log."""

    def append(self, records: Sequence[AnyRecord]) -> None:
        """Store a batch; raises `StoreError`."""

    def close(self) -> None:
        """Let go of the database."""


class RecordWriter(Generic[Record]):
    """A bounded queue and a thread that empties it into a log, of requests or of other records.

    `put` never blocks and never raises. What cannot be stored (the queue is full, the disk is full,
    the database stays locked or cannot be opened) is dropped and counted; the writer goes on and
    recovers by itself.

    Args:
        open_log: Opens the log; called in the thread, again until it succeeds, so that neither a
            slow import nor a database that is away holds up a gateway. The writer closes the log.
        name: What the log is called in messages.
        queue_records: How many records may wait.
        batch_records: Most records a transaction holds.
        interval_s: Longest time in seconds a record waits while all is well.
        retry_s: Pause in seconds after a failure.
        warn_every_s: Least time in seconds between two warnings in the log.
    """

    def __init__(
        self,
        open_log: Callable[[], Appendable[Record]],
        *,
        name: str = "request log",
        queue_records: int = QUEUE_RECORDS,
        batch_records: int = BATCH_RECORDS,
        interval_s: float = INTERVAL_S,
        retry_s: float = 1.0,
        warn_every_s: float = 60.0,
    ) -> None:
        self._open_log = open_log
        self._name = name
        self._queue: deque[Record] = deque()
        self._queue_records = queue_records
        self._batch_records = batch_records
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._warn_every_s = warn_every_s
        self._refused = 0  # counted by put
        self._lost = 0  # counted by the thread
        self._discarded = 0  # counted by close
        self._written = 0
        self._failing = False
        self._warned_at = float("-inf")
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name=name.replace(" ", "-"), daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Queue a record, or drop it when the queue is full; about a microsecond.

        From any thread, though with several at once the bound and the count are not exact.
        """
        queue = self._queue
        if len(queue) < self._queue_records:
            queue.append(record)
        else:
            self._refused += 1

    @property
    def dropped(self) -> int:
        """How many records were not stored, so far."""
        return self._refused + self._lost + self._discarded

    @property
    def written(self) -> int:
        """How many records were stored, so far."""
        return self._written

    @property
    def queued(self) -> int:
        """How many records wait."""
        return len(self._queue)

    def close(self, deadline_s: float = 5.0) -> None:
        """Store what waits, at most for `deadline_s` seconds; may be called twice.

        What remains then is dropped and counted; so is what `put` gets afterwards.
        """
        self._deadline = time.monotonic() + deadline_s
        self._closing.set()
        self._thread.join(deadline_s)
        self._queue_records = 0  # from here on put refuses
        remaining = self._take(len(self._queue))
        self._discarded += len(remaining)
        if remaining or self._thread.is_alive():
            _logger.warning(
                "%s: closed with %d records unwritten, %d dropped in all",
                self._name,
                len(remaining),
                self.dropped,
            )

    def _run(self) -> None:
        log = self._opened()
        if log is None:
            return
        try:
            while not self._closing.wait(self._retry_s if self._failing else self._interval_s):
                self._drain(log)
            while self._queue and time.monotonic() < self._deadline:
                self._write_batch(log)
        finally:
            log.close()

    def _opened(self) -> Appendable[Record] | None:
        """Open the log, however often it takes; `None` when closing comes first."""
        while True:
            try:
                return self._open_log()
            except Exception as error:  # nothing may end the thread
                self._failed(error)
            if self._closing.wait(self._retry_s):
                return None

    def _drain(self, log: Appendable[Record]) -> None:
        """Write until the queue is empty or a write fails; then the rest waits for better times."""
        while self._queue and not self._closing.is_set():
            if not self._write_batch(log):
                return

    def _write_batch(self, log: Appendable[Record]) -> bool:
        batch = self._take(self._batch_records)
        try:
            log.append(batch)
        except Exception as error:  # nothing may end the thread
            # Not tried again: whether a failed commit was stored is not always known.
            self._lost += len(batch)
            self._failed(error)
            return False
        self._written += len(batch)
        if self._failing:
            self._failing = False
            _logger.warning(
                "%s: writing again, %d records dropped in all", self._name, self.dropped
            )
        return True

    def _take(self, records: int) -> list[Record]:
        """Remove up to so many records from the queue's front."""
        batch: list[Record] = []
        try:
            while len(batch) < records:
                batch.append(self._queue.popleft())
        except IndexError:
            pass  # close has taken the rest
        return batch

    def _failed(self, error: Exception) -> None:
        self._failing = True
        now = time.monotonic()
        if now - self._warned_at >= self._warn_every_s:
            self._warned_at = now
            _logger.warning(
                "%s: cannot write, %d records dropped so far, %d wait: %s",
                self._name,
                self.dropped,
                len(self._queue),
                error,
            )


ClosableLog = Appendable[RequestRecord]
"""What the writer needs of a request log."""
LogWriter = RecordWriter[RequestRecord]
"""Writes the request log."""
