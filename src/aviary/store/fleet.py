"""The fleet in SQL: which models there shall be, and what happened to them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, Self

from sqlalchemy import Connection, delete, insert, select, text, update

from aviary.core.ports import StoredDeployment, StoredEvent
from aviary.store.database import Database, open_database
from aviary.store.documents import from_json, to_json
from aviary.store.records import clean_count, clean_real, clean_text
from aviary.store.schema import deployments, fleet_events, fleet_saved

MAX_EVENTS: Final = 10_000
"""Most events that `events` returns."""
MAX_DETAIL_CHARACTERS: Final = 4_000
"""An event's detail is cut to this."""
PRUNE_EVENTS: Final = 2_000
"""Most events one transaction deletes."""
_MAX_BYTES: Final = 2**63 - 1
_ONLY_ROW: Final = 1

_DEPLOYMENT_COLUMNS: Final = tuple(deployments.columns)
_EVENT_COLUMNS: Final = (
    *(column for column in fleet_events.columns if column.name != "seq"),
    fleet_events.c.seq,  # last, as in StoredEvent
)


class SqlFleet:
    """The fleet in the `state` database (implements `FleetStore`).

    Every method may raise `StoreError`; those that write have then written nothing. Texts are cut
    and cleaned for any database, as in the request log.

    Args:
        database: The open `state` database, which other tables may share.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the fleet at a URL as from `Settings.store_url("state")`.

        Raises:
            SpecError: The URL is wrong.
            StoreError: The database cannot be opened.
        """
        return cls(open_database(url, "state"))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def deployments(self) -> list[StoredDeployment]:
        """What there shall be, in order of declaration."""
        query = select(*_DEPLOYMENT_COLUMNS).order_by(deployments.c.position, deployments.c.model)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [_to_deployment(row._asdict()) for row in rows]

    def save(
        self,
        put: Sequence[StoredDeployment],
        delete: Sequence[str],
        events: Sequence[StoredEvent],
    ) -> None:
        """Delete, then add or replace, and note events: all or nothing, durable when this returns.

        What is put replaces the whole stored row, what was measured included.
        """
        gone = [clean_text(model, 256) for model in delete]
        rows = [_to_row(deployment) for deployment in put]
        with self._database.write() as connection:
            self._wait_for_turn(connection)
            saved = {"id": _ONLY_ROW, "saved": time.time()}
            if connection.execute(update(fleet_saved).values(saved)).rowcount == 0:
                connection.execute(insert(fleet_saved).values(saved))
            if gone:
                connection.execute(_delete(deployments).where(deployments.c.model.in_(gone)))
            for row in rows:
                this = deployments.c.model == row["model"]
                if connection.execute(update(deployments).where(this).values(row)).rowcount == 0:
                    connection.execute(insert(deployments).values(row))
            _insert_events(connection, events)

    def measured(
        self, model: str, memory_bytes: int | None = None, wake_s: float | None = None
    ) -> None:
        """Note what was measured of a model that is stored; `None` changes nothing."""
        values = {"memory_bytes": _bytes(memory_bytes), "wake_s": clean_real(wake_s)}
        known = {name: value for name, value in values.items() if value is not None}
        if not known:
            return
        this = deployments.c.model == clean_text(model, 256)
        with self._database.write() as connection:
            connection.execute(update(deployments).where(this).values(known))

    def ever_saved(self) -> bool:
        """Whether `save` was ever called: a fleet that was emptied on purpose is not a new one."""
        with self._database.read() as connection:
            return connection.execute(select(fleet_saved.c.id)).first() is not None

    def append_events(self, events: Sequence[StoredEvent]) -> None:
        """Note events, all of them or none; their `seq` is given here."""
        if not events:
            return
        with self._database.write() as connection:
            self._wait_for_turn(connection)
            _insert_events(connection, events)

    def events(self, limit: int, model: str | None = None, after_seq: int = 0) -> list[StoredEvent]:
        """The newest `limit` of the events after a number, the oldest of them first.

        Args:
            limit: At most so many, and at most `MAX_EVENTS`.
            model: Only this model's; `None` for all.
            after_seq: Only events with a higher number.
        """
        query = (
            select(*_EVENT_COLUMNS)
            .where(fleet_events.c.seq > after_seq)
            .order_by(fleet_events.c.seq.desc())
            .limit(min(max(limit, 0), MAX_EVENTS))
        )
        if model is not None:
            query = query.where(fleet_events.c.model == clean_text(model, 256))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [StoredEvent(*row) for row in reversed(rows)]

    def prune_events(self, keep: int) -> int:
        """Delete all but the newest `keep` events; returns how many went.

        In small transactions, so that writers wait for none of them long.
        """
        seq = fleet_events.c.seq
        newest_old = select(seq).order_by(seq.desc()).offset(max(keep, 0)).limit(1)
        with self._database.read() as connection:
            last = connection.execute(newest_old).scalar()
        if last is None:
            return 0
        deleted = 0
        old = select(seq).where(seq <= last).order_by(seq).limit(PRUNE_EVENTS)
        while True:
            with self._database.write() as connection:
                gone = connection.execute(_delete(fleet_events).where(seq.in_(old)))
            deleted += gone.rowcount
            if gone.rowcount < PRUNE_EVENTS:
                return deleted

    def _wait_for_turn(self, connection: Connection) -> None:
        """Let one transaction at a time save, as SQLite does anyway.

        Two that save never deadlock then, and events become visible in the order of their numbers,
        on which those who ask for what is new since a number rely.
        """
        if not self._database.is_sqlite:
            connection.execute(text("LOCK TABLE fleet_events IN SHARE ROW EXCLUSIVE MODE"))


class FleetEventLog:
    """The fleet's events as a `RecordWriter` writes them.

    Args:
        fleet: Where they are kept; `close` closes it.
    """

    def __init__(self, fleet: SqlFleet) -> None:
        self._fleet = fleet

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the events at a URL as from `Settings.store_url("state")`.

        Raises:
            SpecError: The URL is wrong.
            StoreError: The database cannot be opened.
        """
        return cls(SqlFleet.open(url))

    def append(self, records: Sequence[StoredEvent]) -> None:
        """Store a batch; raises `StoreError`."""
        self._fleet.append_events(records)

    def close(self) -> None:
        """Close the database."""
        self._fleet.close()


_delete = delete  # the word is also the name of an argument of `save`


def _insert_events(connection: Connection, events: Sequence[StoredEvent]) -> None:
    if not events:
        return
    rows = [
        {
            "time": clean_real(event.time) or 0.0,
            "model": clean_text(event.model, 256),
            "kind": clean_text(event.kind, 32),
            "replica": clean_text(event.replica, 256),
            "detail": clean_text(event.detail, MAX_DETAIL_CHARACTERS),
            "changed_by": clean_text(event.changed_by, 64),
        }
        for event in events
    ]
    connection.execute(insert(fleet_events), rows)


def _to_row(deployment: StoredDeployment) -> dict[str, Any]:
    """The deployment's columns, cleaned."""
    previous = deployment.previous
    return {
        "model": clean_text(deployment.model, 256),
        "position": clean_count(deployment.position) or 0,
        "spec": to_json(f"spec of {deployment.model[:64]!r}", deployment.spec),
        "previous": None
        if previous is None
        else to_json(f"spec of {deployment.model[:64]!r}", previous),
        "created": clean_real(deployment.created) or 0.0,
        "changed": clean_real(deployment.changed) or 0.0,
        "changed_by": clean_text(deployment.changed_by, 64),
        "memory_bytes": _bytes(deployment.memory_bytes),
        "wake_s": clean_real(deployment.wake_s),
    }


def _to_deployment(row: dict[str, Any]) -> StoredDeployment:
    model, previous = str(row["model"]), row["previous"]
    row["spec"] = from_json(f"spec of {model!r}", row["spec"], dict)
    row["previous"] = None if previous is None else from_json(f"spec of {model!r}", previous, dict)
    return StoredDeployment(**row)


def _bytes(value: int | None) -> int | None:
    return None if value is None else min(max(value, 0), _MAX_BYTES)
