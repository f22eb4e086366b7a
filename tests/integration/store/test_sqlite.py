"""What is particular to SQLite: files, pragmas, migrations from the first schema on."""

import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import aviary
from aviary.core.errors import SpecError, StoreError
from aviary.core.ports import RequestRecord
from aviary.store import SqlKeys, SqlRequestLog, database, migrate, open_database
from aviary.store.migrate import alembic_config
from aviary.store.schema import HEADS, METADATA, DatabaseName, version_table

FIRST_SCHEMA = Path(__file__).parent / "first_schema"
NAMES: list[DatabaseName] = ["state", "requests"]


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.mark.parametrize("name", NAMES)
class TestMigrations:
    def test_head_is_what_the_constant_says(self, name: DatabaseName) -> None:
        assert ScriptDirectory.from_config(alembic_config(name)).get_heads() == [HEADS[name]]

    def test_files_are_named_like_their_revision(self, name: DatabaseName) -> None:
        for step in ScriptDirectory.from_config(alembic_config(name)).walk_revisions():
            assert Path(step.path).stem == step.revision
            assert len(step.revision) <= 32  # alembic's column

    def test_migrated_schema_is_the_declared_one(self, name: DatabaseName, tmp_path: Path) -> None:
        with open_database(url_of(tmp_path / "a.db"), name) as opened, opened.read() as connection:
            context = MigrationContext.configure(
                connection, opts={"version_table": version_table(name), "compare_type": True}
            )
            assert compare_metadata(context, METADATA[name]) == []

    def test_a_database_of_the_first_version_opens(
        self, name: DatabaseName, tmp_path: Path
    ) -> None:
        path = tmp_path / "old.db"
        old = sqlite3.connect(path)
        old.executescript((FIRST_SCHEMA / f"{name}.sql").read_text(encoding="utf-8"))
        old.close()
        with open_database(url_of(path), name) as opened:
            if name == "state":
                keys = SqlKeys(opened)
                assert [key.id for key in keys.active()] == ["ak_000000000001"]
                assert [row.name for row in keys.list()] == ["first", "zweiter 🐦"]
            else:
                log = SqlRequestLog(opened)
                assert [record.id for record in log.recent(5)] == ["req-2", "req-1"]
                assert log.totals()["smollm2"]["requests"] == 2
                log.append([RequestRecord(id="req-3", time=3.0, route="/", model="smollm2")])
                assert log.totals()["smollm2"]["requests"] == 3


def test_a_migration_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"

    def upgrade_then_fail(connection: object, name: DatabaseName, found: str | None) -> None:
        upgrade(connection, name, found)  # type: ignore[arg-type]
        raise StoreError("no luck.")

    upgrade = migrate._upgrade
    monkeypatch.setattr(migrate, "_upgrade", upgrade_then_fail)
    with pytest.raises(StoreError, match="no luck"):
        open_database(url_of(path), "state")
    monkeypatch.undo()
    left = sqlite3.connect(path)
    assert left.execute("SELECT name FROM sqlite_master").fetchall() == []
    left.close()
    open_database(url_of(path), "state").close()


class TestFiles:
    def test_only_the_owner_may_read(self, tmp_path: Path) -> None:
        path = tmp_path / "one" / "two" / "state.db"
        before = os.umask(0)
        try:
            keys = SqlKeys.open(url_of(path))
            keys.create(name="a", role="user", hash="a" * 64, id="ak_1")
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
            keys.close()
        finally:
            os.umask(before)
        assert modes == dict.fromkeys(
            ["state.db", "state.db-wal", "state.db-shm", "state.db.lock"], 0o600
        )
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700

    @pytest.mark.parametrize(("name", "level"), [("state", 2), ("requests", 1)])
    def test_pragmas(self, name: DatabaseName, level: int, tmp_path: Path) -> None:
        with open_database(url_of(tmp_path / "a.db"), name) as opened, opened.read() as connection:

            def pragma(of: str) -> object:
                return connection.exec_driver_sql(f"PRAGMA {of}").scalar()

            assert pragma("journal_mode") == "wal"
            assert pragma("synchronous") == level
            assert pragma("busy_timeout") == 5000

    def test_wal_is_set_again_on_a_restored_copy(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        open_database(url_of(path), "state").close()
        copy = sqlite3.connect(path)
        copy.execute("PRAGMA journal_mode=DELETE")
        copy.close()
        with open_database(url_of(path), "state") as opened, opened.read() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"

    def test_not_a_database(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        path.write_bytes(b"hello, I am a text file" * 100)
        with pytest.raises(StoreError, match=rf"{re.escape(str(path))}.*not a database"):
            open_database(url_of(path), "state")

    def test_folder_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="state database"):
            open_database(url_of(tmp_path / "file" / "a.db"), "state")

    def test_path_is_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="directory"):
            open_database(url_of(tmp_path), "state")

    def test_existing_database_opens_fast_and_without_alembic(self, tmp_path: Path) -> None:
        url = url_of(tmp_path / "a.db")
        open_database(url, "state").close()
        code = (
            "import sys, time, aviary.store\n"
            "assert 'sqlalchemy' not in sys.modules\n"
            "from aviary.store import open_database, LogWriter\n"
            "open_database(sys.argv[1], 'state').close()\n"
            "assert 'alembic' not in sys.modules and 'filelock' not in sys.modules\n"
            "times = []\n"
            "for _ in range(5):\n"
            "    start = time.perf_counter()\n"
            "    open_database(sys.argv[1], 'state').close()\n"
            "    times.append(time.perf_counter() - start)\n"
            "print(min(times))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, url], capture_output=True, text=True, check=True
        )
        assert float(done.stdout) < 0.1

    def test_package_elsewhere_and_another_working_folder(self, tmp_path: Path) -> None:
        """As from an installed wheel, in a folder whose name has what ConfigParser would read."""
        site = tmp_path / "a b%(x)s"
        package = Path(aviary.__file__).parent
        for room in ("store", "core", "config"):
            shutil.copytree(package / room, site / "aviary" / room)
        shutil.copy(package / "__init__.py", site / "aviary")
        code = (
            "import sys, aviary.store as s\n"
            "assert s.__file__.startswith(sys.argv[1])\n"
            "s.SqlKeys.open('sqlite:///here.db').close()"
        )
        subprocess.run(
            [sys.executable, "-c", code, str(site)],
            cwd=tmp_path,
            env={"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
            check=True,
        )
        assert (tmp_path / "here.db").stat().st_size > 0


class TestUrls:
    @pytest.mark.parametrize(
        "url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "mysql://h/d"]
    )
    def test_wrong(self, url: str) -> None:
        with pytest.raises(SpecError, match="postgresql://"):
            open_database(url, "state")

    def test_password_is_never_shown(self) -> None:
        with pytest.raises(StoreError) as caught:
            open_database("postgresql://me:hunter2@127.0.0.1:1/db?connect_timeout=2", "state")
        assert "hunter2" not in str(caught.value)
        assert "127.0.0.1" in str(caught.value)

    def test_missing_psycopg_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(StoreError, match=r"aviary-llm\[postgres\]"):
            open_database("postgresql://h/d", "state")


class TestLocking:
    def test_a_locked_database_is_waited_for(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        keys = SqlKeys.open(url_of(path))
        holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, holder.execute, ["ROLLBACK"])
        timer.start()
        start = time.monotonic()
        keys.create(name="a", role="user", hash="a" * 64, id="ak_1")
        assert time.monotonic() - start > 0.2
        timer.join()
        holder.close()
        keys.close()

    def test_locked_for_too_long(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
        path = tmp_path / "a.db"
        keys = SqlKeys.open(url_of(path))
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="Another process holds it"):
            keys.create(name="a", role="user", hash="a" * 64, id="ak_1")
        assert keys.active() == ()  # reading goes on
        holder.execute("ROLLBACK")
        holder.close()
        keys.create(name="a", role="user", hash="a" * 64, id="ak_1")
        keys.close()
