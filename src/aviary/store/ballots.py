"""Battles and votes in SQL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, Self

from sqlalchemy import Connection, Table, delete, func, insert, select

from aviary.core.errors import AviaryError, InvalidRequest
from aviary.core.preference import (
    COUNTED_A_BATTLE,
    COUNTED_A_DAY,
    VERDICTS,
    Ballot,
    Battle,
    BattleAnswer,
    Contestant,
    Progress,
    Vote,
    Voter,
)
from aviary.store.ballot_rows import (
    MAX_SESSION_CHARACTERS,
    answer_row,
    ballot_of,
    battle_row,
)
from aviary.store.database import Database, open_database
from aviary.store.documents import from_json
from aviary.store.records import clean_real, clean_text
from aviary.store.schema import battle_answers, battles, votes
from aviary.store.voters import find_secret, popular_tasks, voters

MAX_REASON_CHARACTERS: Final = 2_000
"""A vote's reason is cut to this."""
PRUNE_BATTLES: Final = 500
"""Most battles one transaction deletes."""
LEAST_ANSWERS: Final = 2
"""So many answers must be good before there is anything to prefer."""
DAY_S: Final = 86_400.0

_BATTLE_COLUMNS: Final = tuple(battles.columns)
_ANSWER_COLUMNS: Final = tuple(
    column for column in battle_answers.columns if column.key not in ("battle", "stored")
)
_VOTE_COLUMNS: Final = tuple(votes.columns)


class SqlBallots:
    """Battles and votes in the `state` database (implements `Ballots`).

    Every method may raise `StoreError`; those that write have then written nothing. Texts are cut
    and cleaned for any database, as in the request log; messages and parameters are kept as they
    are, since they are JSON.

    Args:
        database: The open `state` database, which other tables may share.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._upsert_vote = _upsert_vote(_insert_into(votes, database))
        self._upsert_answer = _upsert_answer(_insert_into(battle_answers, database))
        self._insert_once = _insert_into(battles, database).on_conflict_do_nothing()

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the ballots at a URL as from `Settings.store_url("state")`.

        Raises:
            SpecError: The URL is wrong.
            StoreError: The database cannot be opened.
        """
        return cls(open_database(url, "state"))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def save(self, battle: Battle) -> None:
        """Store a battle with its answers, all or nothing; durable when this returns.

        Raises:
            InvalidRequest: its messages are too large.
            StoreError: there is a battle of that id already, or the database failed.
        """
        row = battle_row(battle)
        answers = [answer_row(answer) | {"battle": row["id"]} for answer in battle.answers]
        with self._database.write() as connection:
            connection.execute(insert(battles).values(row))
            if answers:
                connection.execute(insert(battle_answers), answers)

    def keep(self, progress: Sequence[Progress]) -> list[str]:
        """Store what battles have come to, in one transaction; durable when this returns.

        A battle that is there already stays as it is. An answer replaces the column's earlier one,
        unless somebody has voted on that.

        Returns:
            Why each was refused; empty for what is stored.
        """
        refused = [""] * len(progress)
        rows: list[tuple[_Row | None, _Row | None]] = []
        for index, news in enumerate(progress):
            try:
                rows.append(_rows(news))
            except AviaryError as error:  # its fault alone, not that of the database
                refused[index] = error.message
                rows.append((None, None))
        # Battles in the order of their ids, so that two who do this never wait for each other.
        order = sorted(range(len(progress)), key=lambda index: progress[index].battle)
        with self._database.write() as connection:
            for index in order:
                try:
                    self._keep(connection, *rows[index])
                except InvalidRequest as error:
                    refused[index] = error.message
        return refused

    def _keep(self, connection: Connection, begun: _Row | None, answer: _Row | None) -> None:
        if begun is not None:
            connection.execute(self._insert_once, begun)
        if answer is None:
            return
        battle = answer["battle"]
        _lock(connection, battle)
        there = select(battle_answers.c.column).where(
            battle_answers.c.battle == battle, battle_answers.c.column == answer["column"]
        )
        voted = select(votes.c.session).where(votes.c.battle == battle).limit(1)
        if connection.execute(there).first() and connection.execute(voted).first():
            raise InvalidRequest("The battle was voted on: its answers stay.", param="battle")
        connection.execute(self._upsert_answer, answer | {"stored": time.time()})

    def battle(self, id: str) -> Battle | None:  # noqa: A002
        """A battle with its answers; `None` when there is none of that id."""
        with self._database.read() as connection:
            return _read(connection, clean_text(id, 64))

    def vote(self, vote: Vote) -> None:
        """Cast a vote, or change the session's earlier one; durable when this returns.

        A changed vote keeps its address, and whether it counts.

        Raises:
            InvalidRequest: there is no such battle, fewer than two of its answers are good, or the
                verdict is none that fits it.
        """
        battle = clean_text(vote.battle, 64)
        row = {
            "battle": battle,
            "session": clean_text(vote.session, MAX_SESSION_CHARACTERS),
            "verdict": vote.verdict,
            "column": vote.column,
            "reason": clean_text(vote.reason, MAX_REASON_CHARACTERS),
            "time": clean_real(vote.time) or 0.0,
            "key": clean_text(vote.key, 64),
            "address": clean_text(vote.address, 64),
        }
        with self._database.write() as connection:
            _lock(connection, battle)
            _check(vote, _good_columns(connection, battle))
            row["counted"] = vote.counted and _counts(connection, row)
            connection.execute(self._upsert_vote, row)

    def votes(self, battle: str) -> list[Vote]:
        """The votes on a battle, by time."""
        query = (
            select(*_VOTE_COLUMNS)
            .where(votes.c.battle == clean_text(battle, 64))
            .order_by(votes.c.time, votes.c.session)
        )
        with self._database.read() as connection:
            return [Vote(**row._asdict()) for row in connection.execute(query)]

    def voters(self, since: float, most: int) -> list[Voter]:
        """The addresses that voted most since a unix time."""
        with self._database.read() as connection:
            return voters(connection, since, most)

    def tasks(self, most: int) -> list[str]:
        """The tasks of battles that were voted on most often, by name."""
        with self._database.read() as connection:
            return popular_tasks(connection, most)

    def secret(self) -> bytes:
        """What addresses are hashed with: made once, then always the same."""
        return find_secret(self._database, "addresses")

    def prune(self, before: float) -> int:
        """Delete battles from before a unix time on which nobody voted; returns how many went.

        In small transactions, so that writers wait for none of them long.
        """
        voted = select(votes.c.battle).where(votes.c.battle == battles.c.id).exists()
        old = select(battles.c.id).where(battles.c.created < before, ~voted).limit(PRUNE_BATTLES)
        deleted = 0
        while True:
            with self._database.write() as connection:
                gone = list(connection.execute(old).scalars())
                connection.execute(delete(battle_answers).where(battle_answers.c.battle.in_(gone)))
                connection.execute(delete(battles).where(battles.c.id.in_(gone)))
            deleted += len(gone)
            if len(gone) < PRUNE_BATTLES:
                return deleted

    def ballots(self, since: float = 0.0, task: str | None = None) -> list[Ballot]:
        """All votes that count, cast since a unix time, by time.

        With a task only those on its battles. An answer that came after a vote is no part of it.
        """
        counts = (votes.c.time >= since, votes.c.counted)
        cast = select(votes.c.battle).where(*counts)
        query = select(*_VOTE_COLUMNS).where(*counts)
        if task is not None:
            of_task = select(battles.c.id).where(battles.c.task == clean_text(task, 64))
            cast = cast.where(votes.c.battle.in_(of_task))
            query = query.where(votes.c.battle.in_(of_task))
        good = (
            select(
                battle_answers.c.battle,
                battle_answers.c.column,
                battle_answers.c.model,
                battle_answers.c.stored,
            )
            .where(battle_answers.c.error == "", battle_answers.c.battle.in_(cast))
            .order_by(battle_answers.c.battle, battle_answers.c.column)
        )
        answers: dict[str, list[tuple[int, str, float]]] = {}
        # Votes first: what is committed between the two queries is then an answer too many.
        with self._database.read() as connection:
            found = connection.execute(
                query.order_by(votes.c.time, votes.c.battle, votes.c.session)
            ).all()
            for battle, *answer in connection.execute(good):
                answers.setdefault(battle, []).append(tuple(answer))
        return [ballot_of(row, answers[row.battle]) for row in found]


_Row = dict[str, Any]


def _rows(news: Progress) -> tuple[_Row | None, _Row | None]:
    begun = None if news.begun is None else battle_row(news.begun)
    if news.answer is None:
        return begun, None
    return begun, answer_row(news.answer) | {"battle": clean_text(news.battle, 64)}


def _read(connection: Connection, battle: str) -> Battle | None:
    row = connection.execute(select(*_BATTLE_COLUMNS).where(battles.c.id == battle)).one_or_none()
    if row is None:
        return None
    query = (
        select(*_ANSWER_COLUMNS)
        .where(battle_answers.c.battle == battle)
        .order_by(battle_answers.c.column)
    )
    answers = []
    for answer in connection.execute(query):
        values = answer._asdict()
        values["parameters"] = from_json(f"battle {battle!r}", values["parameters"], dict)
        answers.append(BattleAnswer(**values))
    fields = row._asdict()
    fields["messages"] = from_json(f"battle {battle!r}", fields["messages"], list)
    lineup = from_json(f"battle {battle!r}", fields["lineup"], list)
    fields["lineup"] = tuple(Contestant(**contestant) for contestant in lineup)
    return Battle(**fields, answers=tuple(answers))


def _lock(connection: Connection, battle: str) -> None:
    """Hold a battle for this transaction; SQLite does so anyway.

    Raises:
        InvalidRequest: there is none of that id.
    """
    query = select(battles.c.id).where(battles.c.id == battle).with_for_update()
    if connection.execute(query).first() is None:
        raise InvalidRequest(f"There is no battle {battle!r}.", param="battle")


def _counts(connection: Connection, row: dict[str, Any]) -> bool:
    """Whether a new vote is one of the first of its address."""
    if not row["address"]:
        return True
    others = select(func.count()).where(votes.c.address == row["address"], votes.c.counted)
    here = others.where(votes.c.battle == row["battle"], votes.c.session != row["session"])
    today = others.where(votes.c.time > row["time"] - DAY_S)
    return bool(
        connection.execute(today).scalar_one() < COUNTED_A_DAY
        and connection.execute(here).scalar_one() < COUNTED_A_BATTLE
    )


def _good_columns(connection: Connection, battle: str) -> list[int]:
    """The columns that may be voted on."""
    query = (
        select(battle_answers.c.column)
        .where(battle_answers.c.battle == battle, battle_answers.c.error == "")
        .order_by(battle_answers.c.column)
    )
    return [int(column) for column in connection.execute(query).scalars()]


def _check(vote: Vote, good: Sequence[int]) -> None:
    if vote.verdict not in VERDICTS:
        raise InvalidRequest(
            f"There is no verdict {str(vote.verdict)[:32]!r}; verdicts are: {', '.join(VERDICTS)}.",
            param="verdict",
        )
    if len(good) < LEAST_ANSWERS:
        raise InvalidRequest(
            f"Only {len(good)} of this battle's answers did not fail: there is nothing to compare.",
            param="battle",
        )
    if vote.verdict == "best" and vote.column not in good:
        listed = ", ".join(str(column) for column in good)
        raise InvalidRequest(
            f"The best answer must be one that did not fail: column {listed}.", param="column"
        )
    if vote.verdict != "best" and vote.column is not None:
        raise InvalidRequest(f"A vote {vote.verdict!r} names no column.", param="column")


def _insert_into(table: Table, database: Database) -> Any:
    """An insert that can say what to do on a conflict; the two dialects spell it alike."""
    if database.is_sqlite:
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # 0.1 s to import

    return postgresql.insert(table)


def _upsert_vote(add: Any) -> Any:
    """Insert a vote or replace the session's earlier one."""
    changed = ("verdict", "column", "reason", "time", "key")
    return add.on_conflict_do_update(
        index_elements=["battle", "session"], set_={name: add.excluded[name] for name in changed}
    )


def _upsert_answer(add: Any) -> Any:
    """Insert an answer or replace the column's earlier one."""
    changed = [column.key for column in battle_answers.columns if not column.primary_key]
    return add.on_conflict_do_update(
        index_elements=["battle", "column"], set_={name: add.excluded[name] for name in changed}
    )
