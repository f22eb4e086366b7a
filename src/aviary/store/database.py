"""Opens a logical database: file and folder modes, engine, transactions, error translation."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from aviary.core.errors import AviaryError, SpecError, StoreError
from aviary.store import migrate
from aviary.store.schema import DatabaseName

BUSY_TIMEOUT_S: Final = 5.0
"""How long a SQLite transaction waits for another process's."""
_POSTGRES_DEFAULTS: Final = {
    "connect_timeout": "5",  # seconds
    # A server that vanishes from the network is noticed within about half a minute.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",  # milliseconds
}
_WAL_SIZE_LIMIT_BYTES: Final = 64 * 1024 * 1024
_SYNCHRONOUS: Final[dict[DatabaseName, str]] = {"state": "FULL", "requests": "NORMAL"}


class Database:
    """An open logical database; safe to share between threads, not across a fork.

    Args:
        engine: Its SQLAlchemy engine.
        name: Which of the two logical databases it is.
        path: The file, on SQLite.
    """

    def __init__(self, engine: Engine, name: DatabaseName, path: Path | None = None) -> None:
        self.engine = engine
        self.name = name
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_sqlite(self) -> bool:
        """Whether this is a SQLite file, else it is PostgreSQL."""
        return self.path is not None

    def close(self) -> None:
        """Close all connections; may be called twice."""
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, from one consistent view.

        Raises:
            StoreError: The database failed.
        """
        with self._translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Like `read`, and all its statements see the same, on PostgreSQL too.

        Raises:
            StoreError: The database failed.
        """
        with self._translated(), self.engine.connect() as connection:
            if not self.is_sqlite:  # there each statement would see what is new by then
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; committed at the end, rolled back on an error. Keep it short.

        Raises:
            StoreError: The database failed, nothing was written.
        """
        with (
            self._translated(),
            self.engine.connect().execution_options(aviary_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    def enable_wal(self) -> None:
        """Put the SQLite file in write-ahead mode, which stays; needs it for itself for a moment.

        Raises:
            StoreError: The file is in use, or on a file system without shared memory.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                with self._translated():
                    connection = self.engine.raw_connection()
                    try:
                        cursor = connection.cursor()
                        cursor.execute("PRAGMA journal_mode=WAL")
                        mode = cursor.fetchone()
                        cursor.close()
                    finally:
                        connection.close()
                break
            except StoreError as error:
                # SQLite does not always wait here by itself.
                if "locked" not in error.message or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        if mode is None or mode[0] != "wal":
            raise StoreError(
                f"The {self.name} database ({self.path}) cannot use write-ahead logging.",
                hint="Set AVIARY_HOME to a folder on a local disk, or AVIARY_DATABASE_URL.",
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns whatever driver and SQLAlchemy raise into `StoreError`."""
        try:
            yield
        except AviaryError:
            raise
        except (SQLAlchemyError, self.engine.dialect.loaded_dbapi.Error, OSError) as error:
            raise _store_error(error, self.name, self.engine.url) from error


def open_database(url: str, name: DatabaseName) -> Database:
    """Open a logical database, creating and migrating it when needed.

    Processes that open the same database at the same moment wait for the one that migrates.

    Args:
        url: As from `Settings.store_url`: `sqlite:///PATH` or `postgresql://…`.
        name: The logical database.

    Raises:
        SpecError: The URL is wrong.
        StoreError: The database cannot be reached, created or migrated.
    """
    parsed = _parse(url)
    path = None
    if parsed.get_backend_name() == "sqlite":
        path = Path(str(parsed.database)).absolute()
        try:
            _prepare_file(path)
        except OSError as error:
            raise _store_error(error, name, parsed) from error
        engine = _sqlite_engine(parsed.set(database=str(path)), name)
    else:
        engine = _postgres_engine(parsed)
    database = Database(engine, name, path)
    try:
        migrate.ensure_head(database)
    except BaseException:
        database.close()
        raise
    return database


def _parse(url: str) -> URL:
    """Read the URL and settle its driver."""
    hint = "Use `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/DATABASE`."
    scheme, separator, rest = url.partition("://")
    if separator and scheme in ("postgres", "postgresql"):
        url = f"postgresql+psycopg://{rest}"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        # The URL itself may hold a password: it is not repeated.
        raise SpecError("The database URL cannot be read.", hint=hint) from error
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        if not parsed.database or parsed.database == ":memory:":
            raise SpecError("The database must be a file, not in memory.", hint=hint)
    elif parsed.drivername != "postgresql+psycopg":
        raise SpecError(f"Databases of the kind {parsed.drivername!r} are not known.", hint=hint)
    return parsed


def _prepare_file(path: Path) -> None:
    """Create the file for its owner only, and likewise each folder that is missing."""
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    # SQLite gives its -wal and -shm files the mode of the database.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _sqlite_engine(url: URL, name: DatabaseName) -> Engine:
    """An engine whose transactions we begin ourselves."""
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver begins no transaction behind our back
        connection.execute(f"PRAGMA synchronous={_SYNCHRONOUS[name]}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA journal_size_limit={_WAL_SIZE_LIMIT_BYTES}")

    def begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock at once, where waiting for it works; a transaction that
        # first reads and then writes would fail with "locked" without waiting.
        writes = connection.get_execution_options().get("aviary_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begin)
    return engine


def _postgres_engine(url: URL) -> Engine:
    """An engine with a small pool (every process has one) that survives restarts of the server."""
    url = url.set(query=_POSTGRES_DEFAULTS | dict(url.query))
    try:
        return create_engine(url, pool_size=2, max_overflow=4, pool_pre_ping=True)
    except ImportError as error:
        raise StoreError(
            "PostgreSQL needs the driver psycopg, which is not installed.",
            hint="Install it: `pip install 'aviary-llm[postgres]'`.",
        ) from error


def _store_error(error: Exception, name: str, url: URL) -> StoreError:
    """Say what failed and where, without SQL, its parameters or a password."""
    cause = getattr(error, "orig", None) or error
    reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    where = url.database if url.get_backend_name() == "sqlite" else url.render_as_string()
    hint = ""
    if "full" in reason or "No space" in reason:
        hint = "Free some disk space."
    elif "locked" in reason:
        hint = "Another process holds it; try again."
    return StoreError(f"The {name} database ({where}) failed: {reason}.", hint=hint)
