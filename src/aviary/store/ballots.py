"""Battles and votes in SQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Self

from sqlalchemy import Connection, delete, insert, select

from aviary.core.errors import InvalidRequest, StoreError
from aviary.core.preference import VERDICTS, Ballot, Battle, BattleAnswer, Vote
from aviary.store.database import Database, open_database
from aviary.store.records import clean_count, clean_real, clean_text
from aviary.store.schema import battle_answers, battles, votes

MAX_ANSWER_CHARACTERS: Final = 1_000_000
"""An answer's text, and a system message, are cut to this."""
MAX_MESSAGES_CHARACTERS: Final = 4_000_000
"""Longest JSON of a battle's messages."""
MAX_REASON_CHARACTERS: Final = 2_000
"""A vote's reason is cut to this."""
MAX_SESSION_CHARACTERS: Final = 64
"""A session's name is cut to this."""
PRUNE_BATTLES: Final = 500
"""Most battles one transaction deletes."""
LEAST_ANSWERS: Final = 2
"""So many answers must be good before there is anything to prefer."""

_BATTLE_COLUMNS: Final = tuple(battles.columns)
_ANSWER_COLUMNS: Final = tuple(
    column for column in battle_answers.columns if column.key != "battle"
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
        self._upsert_vote = _upsert_vote(is_sqlite=database.is_sqlite)

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
        messages = _to_json(battle.messages)
        if len(messages) > MAX_MESSAGES_CHARACTERS:
            raise InvalidRequest(
                f"The messages have {len(messages)} characters as JSON; a battle keeps "
                f"{MAX_MESSAGES_CHARACTERS}.",
                param="messages",
            )
        row = {
            "id": clean_text(battle.id, 64),
            "created": clean_real(battle.created) or 0.0,
            "messages": messages,
            "system": clean_text(battle.system, MAX_ANSWER_CHARACTERS),
            "blind": bool(battle.blind),
            "task": clean_text(battle.task, 64),
            "session": clean_text(battle.session, MAX_SESSION_CHARACTERS),
            "key": clean_text(battle.key, 64),
        }
        answers = [_to_row(answer) | {"battle": row["id"]} for answer in battle.answers]
        with self._database.write() as connection:
            connection.execute(insert(battles).values(row))
            if answers:
                connection.execute(insert(battle_answers), answers)

    def battle(self, id: str) -> Battle | None:  # noqa: A002
        """A battle with its answers; `None` when there is none of that id."""
        with self._database.read() as connection:
            return _read(connection, clean_text(id, 64))

    def vote(self, vote: Vote) -> None:
        """Cast a vote, or change the session's earlier one; durable when this returns.

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
        }
        with self._database.write() as connection:
            _check(vote, _good_columns(connection, battle))
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
        """All votes cast since a unix time, by time; with a task only those on its battles."""
        cast = select(votes.c.battle).where(votes.c.time >= since)
        query = select(*_VOTE_COLUMNS).where(votes.c.time >= since)
        if task is not None:
            of_task = select(battles.c.id).where(battles.c.task == clean_text(task, 64))
            cast = cast.where(votes.c.battle.in_(of_task))
            query = query.where(votes.c.battle.in_(of_task))
        good = (
            select(battle_answers.c.battle, battle_answers.c.column, battle_answers.c.model)
            .where(battle_answers.c.error == "", battle_answers.c.battle.in_(cast))
            .order_by(battle_answers.c.battle, battle_answers.c.column)
        )
        answers: dict[str, list[tuple[int, str]]] = {}
        # Votes first: what is committed between the two queries is then an answer too many.
        with self._database.read() as connection:
            found = connection.execute(
                query.order_by(votes.c.time, votes.c.battle, votes.c.session)
            ).all()
            for battle, column, model in connection.execute(good):
                answers.setdefault(battle, []).append((column, model))
        return [_to_ballot(row, answers[row.battle]) for row in found]


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
        values["parameters"] = _from_json(battle, values["parameters"], dict)
        answers.append(BattleAnswer(**values))
    fields = row._asdict()
    fields["messages"] = _from_json(battle, fields["messages"], list)
    return Battle(**fields, answers=tuple(answers))


def _good_columns(connection: Connection, battle: str) -> list[int]:
    """The columns that may be voted on; raises `InvalidRequest` when there is no such battle."""
    if connection.execute(select(battles.c.id).where(battles.c.id == battle)).first() is None:
        raise InvalidRequest(f"There is no battle {battle!r}.", param="battle")
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


def _to_row(answer: BattleAnswer) -> dict[str, Any]:
    return {
        "column": clean_count(answer.column) or 0,
        "model": clean_text(answer.model, 256),
        "spec_hash": clean_text(answer.spec_hash, 64),
        "parameters": _to_json(answer.parameters),
        "text": clean_text(answer.text, MAX_ANSWER_CHARACTERS),
        "finish_reason": clean_text(answer.finish_reason, 64),
        "ttft_ms": clean_real(answer.ttft_ms),
        "latency_ms": clean_real(answer.latency_ms) or 0.0,
        "prompt_tokens": clean_count(answer.prompt_tokens),
        "completion_tokens": clean_count(answer.completion_tokens),
        "cost_usd": clean_real(answer.cost_usd),
        "error": clean_text(answer.error, 64),
    }


def _to_ballot(row: Any, answers: list[tuple[int, str]]) -> Ballot:
    columns = [column for column, _ in answers]
    return Ballot(
        battle=row.battle,
        models=tuple(model for _, model in answers),
        verdict=row.verdict,
        best=columns.index(row.column) if row.verdict == "best" else None,
        time=row.time,
    )


def _to_json(data: Any) -> str:
    """ASCII, in which NUL and lone surrogates are escaped: every database keeps that."""
    try:
        return json.dumps(data, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"The battle cannot be stored: {error}.") from error


def _from_json(battle: str, stored: str, kind: type) -> Any:
    try:
        data = json.loads(stored)
    except ValueError:
        data = None
    if not isinstance(data, kind):
        raise StoreError(
            f"The stored battle {battle!r} cannot be read.",
            hint="The state database was changed by something else; restore a copy of it.",
        )
    return data


def _upsert_vote(*, is_sqlite: bool) -> Any:
    """Insert a vote or replace the session's earlier one; the two dialects spell it alike."""
    add: Any
    if is_sqlite:
        from sqlalchemy.dialects import sqlite

        add = sqlite.insert(votes)
    else:
        from sqlalchemy.dialects import postgresql  # 0.1 s to import

        add = postgresql.insert(votes)
    changed = ("verdict", "column", "reason", "time", "key")
    return add.on_conflict_do_update(
        index_elements=["battle", "session"], set_={name: add.excluded[name] for name in changed}
    )
