"""The fleet's desired state on a disk that is full: refused, and what was stored stays."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import event

from aviary.core.errors import StoreError
from aviary.core.ports import StoredDeployment, StoredEvent
from aviary.store import SqlFleet, SqlKeys, open_database


def many(version: int) -> list[StoredDeployment]:
    spec = {"version": version, "filler": "x" * 10_000}
    return [StoredDeployment(f"m{index}", index, spec) for index in range(20)]


def check_integrity(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_full_disk_refuses_and_keeps_what_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with open_database(f"sqlite:///{path}", "state") as database:
        fleet = SqlFleet(database)
        kept = StoredDeployment("kept", 0, {"id": "kept"})
        fleet.save([kept], [], [StoredEvent(1.0, "kept", "added")])
        disk = {"pages": 1}  # less than there are: no page may be added

        def limit(connection: sqlite3.Connection, *_: object) -> None:
            connection.execute(f"PRAGMA max_page_count={disk['pages']}")

        event.listen(database.engine, "checkout", limit)
        with pytest.raises(StoreError, match="Free some disk space"):
            fleet.save(many(1), ["kept"], [StoredEvent(2.0, "kept", "removed")])
        assert fleet.deployments() == [kept]
        assert [found.kind for found in fleet.events(9)] == ["added"]
        disk["pages"] = 100_000  # somebody has made room
        fleet.save(many(2), ["kept"], [])
        assert fleet.deployments() == many(2)
    check_integrity(path)


_FULL_CHILD = """
import resource, sys
from aviary.core.errors import StoreError
from aviary.core.ports import StoredDeployment, StoredEvent
from aviary.store import SqlFleet
fleet = SqlFleet.open(sys.argv[1])
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, most))
saved = refused = 0
for number in range(1, 31):
    spec = {"version": number, "filler": "x" * 10_000}
    models = [StoredDeployment(f"m{number}-{index}", index, spec) for index in range(20)]
    try:
        fleet.save(models, [], [StoredEvent(1.0, "m", "changed", detail=str(number))])
        saved += 1
    except StoreError:
        refused += 1
    assert len(fleet.deployments()) == saved * 20, (number, saved)
    assert len(fleet.events(99)) == saved, (number, saved)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
fleet.save([StoredDeployment("last", 99, {})], [], [])
print(saved, refused)
"""


def test_file_size_limit_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    url = f"sqlite:///{path}"
    with open_database(url, "state") as database:
        SqlKeys(database).create(name="one", role="user", hash="a" * 64, id="ak_1")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _FULL_CHILD, url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    saved, refused = map(int, done.stdout.split())
    assert saved > 0
    assert refused > 0
    check_integrity(path)
    with open_database(url, "state") as database:
        fleet = SqlFleet(database)
        assert len(fleet.deployments()) == saved * 20 + 1
        assert fleet.deployments()[-1].model == "last"
        assert [key.id for key in SqlKeys(database).active()] == ["ak_1"]
