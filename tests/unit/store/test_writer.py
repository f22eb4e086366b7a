import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from aviary.core.errors import StoreError
from aviary.core.ports import RequestRecord
from aviary.store import LogWriter


class FakeLog:
    """A request log in memory that can be told to fail or hang."""

    def __init__(self) -> None:
        self.batches: list[list[RequestRecord]] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.closed = 0

    def append(self, records: Sequence[RequestRecord]) -> None:
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        self.batches.append(list(records))

    def close(self) -> None:
        self.closed += 1

    @property
    def ids(self) -> list[str]:
        return [record.id for batch in self.batches for record in batch]


def record(number: int) -> RequestRecord:
    return RequestRecord(id=str(number), time=0.0, route="/", model="m")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


@pytest.fixture
def make(log: FakeLog) -> Iterator[Callable[..., LogWriter]]:
    writers: list[LogWriter] = []

    def make(**options: object) -> LogWriter:
        defaults = {"open_log": lambda: log, "interval_s": 0.01, "retry_s": 0.01}
        writers.append(LogWriter(**(defaults | options)))  # type: ignore[arg-type]
        return writers[-1]

    yield make
    log.gate.set()
    for writer in writers:
        writer.close()


def test_writes_in_order_and_in_batches(log: FakeLog, make: Callable[..., LogWriter]) -> None:
    writer = make(batch_records=10, interval_s=0.05)
    for number in range(95):
        writer.put(record(number))
    wait_for(lambda: writer.written == 95)
    assert log.ids == [str(number) for number in range(95)]
    assert max(len(batch) for batch in log.batches) <= 10
    assert (writer.dropped, writer.queued) == (0, 0)


def test_full_queue_drops_the_new_and_counts(log: FakeLog, make: Callable[..., LogWriter]) -> None:
    writer = make(queue_records=10, batch_records=5)
    log.gate.clear()
    writer.put(record(0))
    wait_for(lambda: writer.queued == 0)  # now the thread hangs in append
    for number in range(1, 21):
        writer.put(record(number))
    assert writer.queued == 10
    assert writer.dropped == 10
    log.gate.set()
    wait_for(lambda: writer.written == 11)
    assert log.ids == [str(number) for number in range(11)]


@pytest.mark.parametrize("error", [StoreError("disk is full."), ValueError("a bug")])
def test_failures_are_counted_and_it_recovers(
    log: FakeLog,
    make: Callable[..., LogWriter],
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    writer = make(batch_records=5)
    log.error = error
    for number in range(20):
        writer.put(record(number))
    wait_for(lambda: writer.dropped == 20)
    log.error = None
    writer.put(record(20))
    wait_for(lambda: writer.written == 1)
    assert log.ids == ["20"]
    warnings = [entry.getMessage() for entry in caplog.records]
    assert len(warnings) == 2  # four failures within a minute make one line; and the recovery
    assert str(error) in warnings[0]
    assert warnings[1] == "request log: writing again, 20 records dropped in all"


def test_warns_again_after_a_while(
    log: FakeLog, make: Callable[..., LogWriter], caplog: pytest.LogCaptureFixture
) -> None:
    writer = make(batch_records=1, warn_every_s=0.0)
    log.error = StoreError("disk is full.")
    for number in range(3):
        writer.put(record(number))
    wait_for(lambda: writer.dropped == 3)
    assert len(caplog.records) == 3


def test_after_a_failure_the_rest_waits_for_better_times(
    log: FakeLog, make: Callable[..., LogWriter]
) -> None:
    writer = make(batch_records=5, retry_s=30.0)
    log.error = StoreError("disk is full.")
    for number in range(20):
        writer.put(record(number))
    wait_for(lambda: writer.dropped > 0)
    log.error = None
    writer.close()
    assert writer.dropped + writer.written == 20
    assert writer.dropped <= 10  # one batch, or two when the thread woke within the loop above


def test_opens_the_log_until_it_works(log: FakeLog, make: Callable[..., LogWriter]) -> None:
    tries = []

    def open_log() -> FakeLog:
        tries.append(1)
        if len(tries) < 4:
            raise StoreError("away.")
        return log

    writer = make(open_log=open_log)
    writer.put(record(1))
    wait_for(lambda: writer.written == 1)
    assert (len(tries), writer.dropped) == (4, 0)


def test_close_while_the_log_cannot_be_opened(make: Callable[..., LogWriter]) -> None:
    def open_log() -> FakeLog:
        raise StoreError("away.")

    writer = make(open_log=open_log, retry_s=30.0)
    writer.put(record(1))
    start = time.monotonic()
    writer.close()
    assert time.monotonic() - start < 2
    assert writer.dropped == 1


def test_close_writes_what_waits_and_closes_the_log(
    log: FakeLog, make: Callable[..., LogWriter]
) -> None:
    writer = make(interval_s=60.0, batch_records=7)
    for number in range(50):
        writer.put(record(number))
    writer.close()
    assert len(log.ids) == 50
    assert log.closed == 1
    writer.put(record(51))
    writer.close()
    assert (writer.written, writer.dropped, log.closed) == (50, 1, 1)


def test_close_keeps_its_deadline(log: FakeLog, make: Callable[..., LogWriter]) -> None:
    writer = make(batch_records=5)
    log.gate.clear()
    for number in range(20):
        writer.put(record(number))
    start = time.monotonic()
    writer.close(deadline_s=0.2)
    assert time.monotonic() - start < 2
    log.gate.set()
    wait_for(lambda: writer.written + writer.dropped == 20)
    wait_for(lambda: log.closed == 1)
    assert writer.written <= 5


def test_says_which_log_it_is(
    log: FakeLog, make: Callable[..., LogWriter], caplog: pytest.LogCaptureFixture
) -> None:
    writer = make(name="fleet events")
    log.error = StoreError("disk is full.")
    writer.put(record(1))
    wait_for(lambda: writer.dropped == 1)
    log.error = None
    writer.put(record(2))
    wait_for(lambda: writer.written == 1)
    assert [entry.getMessage() for entry in caplog.records] == [
        "fleet events: cannot write, 1 records dropped so far, 0 wait: disk is full.",
        "fleet events: writing again, 1 records dropped in all",
    ]
    assert "fleet-events" in [thread.name for thread in threading.enumerate()]


def test_put_is_quick(log: FakeLog, make: Callable[..., LogWriter]) -> None:
    writer = make(interval_s=60.0)
    one = record(1)
    start = time.perf_counter()
    for _ in range(20_000):
        writer.put(one)
    assert (time.perf_counter() - start) / 20_000 < 20e-6  # about 0.1 µs on a quiet machine
    writer.close()
    assert writer.written == 20_000
