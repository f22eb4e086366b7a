"""Who votes: figures by address, popular tasks, and the secret that addresses are hashed with."""

from __future__ import annotations

import secrets as random
from typing import Final

from sqlalchemy import Connection, and_, case, distinct, func, insert, select

from aviary.core.errors import StoreError
from aviary.core.preference import Voter
from aviary.store.database import Database
from aviary.store.schema import battle_answers, battles, secrets, votes

SECRET_BYTES: Final = 32


def voters(connection: Connection, since: float, most: int) -> list[Voter]:
    """The addresses that voted most since a unix time."""
    address, count = votes.c.address, func.count()
    period = (votes.c.time >= since, address != "")
    query = (
        select(
            address,
            count,
            func.sum(case((votes.c.counted, 0), else_=1)),
            func.count(distinct(votes.c.session)),
            func.count(distinct(votes.c.battle)),
            func.sum(case((votes.c.verdict == "best", 1), else_=0)),
            func.min(votes.c.time),
            func.max(votes.c.time),
        )
        .where(*period)
        .group_by(address)
        .order_by(count.desc(), address)
        .limit(most)
    )
    found = connection.execute(query).all()
    named = and_(
        battle_answers.c.battle == votes.c.battle, battle_answers.c.column == votes.c.column
    )
    best = (
        select(address, battle_answers.c.model, count)
        .select_from(votes.join(battle_answers, named))
        .where(*period, address.in_([row[0] for row in found]), votes.c.verdict == "best")
        .group_by(address, battle_answers.c.model)
        .order_by(count, battle_answers.c.model)
    )
    favourites = {row[0]: (row[1], row[2]) for row in connection.execute(best)}  # the last is most
    return [
        Voter(
            address=row[0],
            votes=row[1],
            not_counted=int(row[2]),
            sessions=row[3],
            battles=row[4],
            best=int(row[5]),
            favourite=favourites.get(row[0], ("", 0))[0],
            favourite_best=favourites.get(row[0], ("", 0))[1],
            first=row[6],
            last=row[7],
        )
        for row in found
    ]


def popular_tasks(connection: Connection, most: int) -> list[str]:
    """The tasks of battles that were voted on most often, by name."""
    query = (
        select(battles.c.task)
        .select_from(votes.join(battles, battles.c.id == votes.c.battle))
        .where(battles.c.task != "")
        .group_by(battles.c.task)
        .order_by(func.count().desc(), battles.c.task)
        .limit(most)
    )
    return sorted(connection.execute(query).scalars())


def find_secret(database: Database, name: str) -> bytes:
    """A secret of this Aviary; made when it is asked for first."""
    query = select(secrets.c.value).where(secrets.c.name == name)
    with database.read() as connection:
        value = connection.execute(query).scalar()
    if value is None:
        value = random.token_hex(SECRET_BYTES)
        try:
            with database.write() as connection:
                connection.execute(insert(secrets).values(name=name, value=value))
        except StoreError:
            with database.read() as connection:  # somebody else may have been faster
                value = connection.execute(query).scalar()
            if value is None:
                raise
    return bytes.fromhex(value)
