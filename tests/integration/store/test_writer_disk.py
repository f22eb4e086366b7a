"""The log writer on a real file: disk full, locked, killed."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event

from aviary.core.errors import StoreError
from aviary.core.ports import RequestRecord
from aviary.store import LogWriter, SqlRequestLog, database


def record(number: int) -> RequestRecord:
    return RequestRecord(id=str(number), time=float(number), route="/v1/x" * 40, model="m")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def check_integrity(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_full_disk_drops_then_recovers(tmp_path: Path) -> None:
    path = tmp_path / "requests.db"
    log = SqlRequestLog.open(f"sqlite:///{path}")
    disk = {"pages": 40}

    def limit(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count={disk['pages']}")

    event.listen(log.database.engine, "checkout", limit)
    writer = LogWriter(lambda: log, interval_s=0.01, retry_s=0.01, batch_records=50)
    for number in range(2000):
        writer.put(record(number))
    wait_for(lambda: writer.queued == 0 and writer.dropped + writer.written == 2000)
    assert writer.dropped > 0
    assert writer.written > 0
    with pytest.raises(StoreError, match="Free some disk space"):
        log.append([record(number) for number in range(200)])

    disk["pages"] = 100_000  # somebody has made room
    for number in range(2000, 2010):
        writer.put(record(number))
    wait_for(lambda: writer.queued == 0)
    writer.close()
    check_integrity(path)
    with_log = SqlRequestLog.open(f"sqlite:///{path}")
    assert [found.id for found in with_log.recent(10)] == [str(n) for n in range(2009, 1999, -1)]
    assert with_log.totals()["m"]["requests"] == writer.written == len(with_log.recent(9999))
    with_log.close()


_FULL_CHILD = """
import resource, sys, time
from aviary.core.ports import RequestRecord
from aviary.store import LogWriter, SqlRequestLog
log = SqlRequestLog.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
writer = LogWriter(lambda: log, interval_s=0.01, retry_s=0.01, batch_records=100)
for number in range(5000):
    writer.put(RequestRecord(id=str(number), time=number, route="/v1/x" * 40, model="m"))
while writer.queued:
    time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
time.sleep(0.1)
writer.put(RequestRecord(id="last", time=9999.0, route="/", model="m"))
writer.close()
print(writer.written, writer.dropped)
"""


def test_file_size_limit_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "requests.db"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _FULL_CHILD, f"sqlite:///{path}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    written, dropped = map(int, done.stdout.split())
    assert written + dropped == 5001
    assert dropped > 0
    check_integrity(path)
    log = SqlRequestLog.open(f"sqlite:///{path}")
    assert log.recent(1)[0].id == "last"
    assert len(log.recent(9999)) == written
    log.close()


def test_locked_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    path = tmp_path / "requests.db"
    log = SqlRequestLog.open(f"sqlite:///{path}")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    writer = LogWriter(lambda: log, interval_s=0.01, retry_s=0.01, batch_records=1)
    for number in range(5):
        writer.put(record(number))
    wait_for(lambda: writer.dropped >= 1)
    holder.execute("ROLLBACK")
    holder.close()
    writer.put(record(5))
    writer.close()
    assert writer.written >= 1
    assert writer.written + writer.dropped == 6
    check_integrity(path)


_KILLED_CHILD = """
import itertools, sys, time
from aviary.core.ports import RequestRecord
from aviary.store import LogWriter, SqlRequestLog
writer = LogWriter(lambda: SqlRequestLog.open(sys.argv[1]), interval_s=0.01, batch_records=50)
for number in itertools.count():
    writer.put(RequestRecord(id=str(number), time=number, route="/v1/x" * 40, model="m"))
    if number % 20 == 0:
        print(writer.written, flush=True)
        time.sleep(0.001)
"""


@pytest.mark.parametrize("after_s", [0.05, 0.17, 0.31])
def test_kill_9_loses_no_more_than_what_was_not_written(tmp_path: Path, after_s: float) -> None:
    path = tmp_path / "requests.db"
    url = f"sqlite:///{path}"
    SqlRequestLog.open(url).close()
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED_CHILD, url], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    acknowledged = 0
    kill_at = float("inf")
    for line in child.stdout:
        acknowledged = int(line)
        if acknowledged and kill_at == float("inf"):
            kill_at = time.monotonic() + after_s
        if time.monotonic() > kill_at:
            break
    os.kill(child.pid, signal.SIGKILL)
    for line in child.stdout.read().split("\n")[:-1]:
        acknowledged = int(line)
    child.stdout.close()
    child.wait()
    check_integrity(path)
    connection = sqlite3.connect(path)
    ids = sorted(int(id_) for (id_,) in connection.execute("SELECT id FROM request_log"))
    connection.close()
    log = SqlRequestLog.open(url)
    assert len(ids) >= acknowledged > 0
    assert ids == list(range(len(ids)))  # all up to the last batch, no holes, none twice
    assert log.totals()["m"]["requests"] == len(ids)
    log.append([record(10**6)])
    log.close()
