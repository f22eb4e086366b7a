"""Brings a database to the newest schema, by one process at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, column, inspect, select, table, text

from aviary.core.errors import StoreError
from aviary.store.schema import HEADS, DatabaseName, version_table

if TYPE_CHECKING:
    from alembic.config import Config

    from aviary.store.database import Database

LOCK_TIMEOUT_S: Final = 60.0
MIGRATIONS_DIR: Final = Path(__file__).parent / "migrations"
_ADVISORY_LOCKS: Final[dict[DatabaseName, int]] = {
    "state": 0x617669_617279_01,  # "aviary", number
    "requests": 0x617669_617279_02,
}
_alembic_lock = threading.Lock()  # alembic keeps the running migration in module globals


def ensure_head(database: Database) -> None:
    """Migrate the database unless it is at the newest revision already.

    Raises:
        StoreError: It cannot be migrated, or a newer Aviary has written it.
    """
    if _is_ready(database):
        return
    with _alone(database), _alembic_lock, database.write() as connection:
        if not database.is_sqlite:
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:key)"),
                {"key": _ADVISORY_LOCKS[database.name]},
            )
        found = revision(connection, database.name)
        if found != HEADS[database.name]:  # else another process was faster
            _upgrade(connection, database.name, found)


def revision(connection: Connection, name: DatabaseName) -> str | None:
    """The stored revision; `None` for a database that is still empty."""
    stored = version_table(name)
    if not inspect(connection).has_table(stored):
        return None
    found = connection.execute(select(column("version_num")).select_from(table(stored))).scalar()
    return None if found is None else str(found)


def alembic_config(name: DatabaseName) -> Config:
    """Alembic's configuration, made without any file so that an installed wheel works as well."""
    from alembic.config import Config

    config = Config()
    # ConfigParser would interpolate a % in the path.
    config.set_main_option("script_location", str(MIGRATIONS_DIR).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(MIGRATIONS_DIR / name).replace("%", "%%"))
    config.attributes["version_table"] = version_table(name)
    return config


def _is_ready(database: Database) -> bool:
    """Whether the database can be used as it is; cheap, and without locks."""
    if database.path is not None and database.path.stat().st_size == 0:
        return False
    with database.read() as connection:
        if database.is_sqlite:
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
            if mode != "wal":  # new, or restored from a copy
                return False
        return revision(connection, database.name) == HEADS[database.name]


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """On SQLite: hold the lock file and see to WAL mode, which needs the database for itself."""
    if database.path is None:
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(f"{database.path}.lock", timeout=LOCK_TIMEOUT_S, mode=0o600)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreError(
            f"Another process has been migrating {database.path} for {LOCK_TIMEOUT_S:.0f} s.",
            hint="Look for a hanging `aviary` process.",
        ) from error
    except OSError as error:
        raise StoreError(f"The lock file {database.path}.lock cannot be used: {error}.") from error
    try:
        database.enable_wal()
        yield
    finally:
        lock.release()


def _upgrade(connection: Connection, name: DatabaseName, found: str | None) -> None:
    """Apply the missing steps in the connection's transaction."""
    from alembic import command
    from alembic.script import ScriptDirectory

    config = alembic_config(name)
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise StoreError(
            f"A newer Aviary has written the {name} database (revision {found!r}).",
            hint="Upgrade this Aviary, or give it another AVIARY_HOME.",
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
