"""API keys in SQL: never the secret, only its hash."""

from __future__ import annotations

import builtins
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from sqlalchemy import bindparam, func, insert, or_, select, update

from aviary.core.errors import InvalidRequest
from aviary.core.states import KeyView
from aviary.store.database import Database, open_database
from aviary.store.schema import api_keys


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key as people administer it. Times are unix seconds.

    Attributes:
        id: Public name of the key (`ak_…`), safe to log.
        name: What it is for, in a person's words.
        role: `admin` or `user`.
        created: When it was made.
        revoked: When it was revoked; `None` while it is good.
        last_used: When it was last seen; `None` if never or unknown.
    """

    id: str
    name: str
    role: str
    created: float
    revoked: float | None = None
    last_used: float | None = None


_ROW_COLUMNS = (
    api_keys.c.id,
    api_keys.c.name,
    api_keys.c.role,
    api_keys.c.created,
    api_keys.c.revoked,
    api_keys.c.last_used,
)


class SqlKeys:
    """The API keys in the `state` database. Every method may raise `StoreError`.

    Args:
        database: The open `state` database, which other tables may share.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the keys at a URL as from `Settings.store_url("state")`.

        Raises:
            SpecError: The URL is wrong.
            StoreError: The database cannot be opened.
        """
        return cls(open_database(url, "state"))

    @property
    def database(self) -> Database:
        """The database in which the keys are, and the fleet."""
        return self._database

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def create(self, name: str, role: str, hash: str, id: str) -> KeyRow:  # noqa: A002
        """Store a new key (see `aviary.auth.keys.issue`); durable when this returns."""
        row = KeyRow(id=id, name=name, role=role, created=time.time())
        values = {"id": id, "name": name, "role": role, "hash": hash, "created": row.created}
        with self._database.write() as connection:
            connection.execute(insert(api_keys).values(values))
        return row

    def list(self) -> builtins.list[KeyRow]:
        """All keys, revoked ones too, the oldest first."""
        query = select(*_ROW_COLUMNS).order_by(api_keys.c.created, api_keys.c.id)
        with self._database.read() as connection:
            return [KeyRow(*row) for row in connection.execute(query)]

    def revoke(self, id: str) -> KeyRow:  # noqa: A002
        """Make a key worthless for ever; revoking it again changes nothing.

        Raises:
            InvalidRequest: There is no such key.
        """
        this = api_keys.c.id == id
        with self._database.write() as connection:
            connection.execute(
                update(api_keys)
                .where(this, api_keys.c.revoked.is_(None))
                .values(revoked=time.time())
            )
            row = connection.execute(select(*_ROW_COLUMNS).where(this)).one_or_none()
        if row is None:
            raise InvalidRequest(
                f"There is no API key with the id {id[:64]!r}.",
                hint="`aviary keys list` shows the ids.",
                param="id",
            )
        return KeyRow(*row)

    def active(self) -> tuple[KeyView, ...]:
        """The keys that are good now, as a snapshot publishes them."""
        query = (
            select(api_keys.c.id, api_keys.c.hash, api_keys.c.role)
            .where(api_keys.c.revoked.is_(None))
            .order_by(api_keys.c.created, api_keys.c.id)
        )
        with self._database.read() as connection:
            return tuple(KeyView(*row) for row in connection.execute(query))

    def version(self) -> str:
        """A text that changes whenever `active` may; cheap enough to poll.

        Keys are never deleted, so the two counts alone would do; the times notice that the database
        was replaced by another.
        """
        query = select(
            func.count(),
            func.count(api_keys.c.revoked),
            func.max(api_keys.c.created),
            func.max(api_keys.c.revoked),
        ).select_from(api_keys)
        with self._database.read() as connection:
            return "-".join(str(value) for value in connection.execute(query).one())

    def touch(self, used: Mapping[str, float]) -> None:
        """Note when keys were last seen (unix seconds by id). In batches, not for each request."""
        if not used:
            return
        statement = (
            update(api_keys)
            .where(
                api_keys.c.id == bindparam("key_id"),
                or_(api_keys.c.last_used.is_(None), api_keys.c.last_used < bindparam("seen")),
            )
            .values(last_used=bindparam("seen"))
        )
        rows = [{"key_id": id_, "seen": used[id_]} for id_ in sorted(used)]
        with self._database.write() as connection:
            connection.execute(statement, rows)
