"""Battles, answers and votes as rows of tables, cleaned for any database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from aviary.core.errors import InvalidRequest
from aviary.core.preference import Ballot, Battle, BattleAnswer, Contestant
from aviary.store.documents import to_json
from aviary.store.records import clean_count, clean_real, clean_text

MAX_ANSWER_CHARACTERS: Final = 1_000_000
"""An answer's text, and a system message, are cut to this."""
MAX_MESSAGES_CHARACTERS: Final = 4_000_000
"""Longest JSON of a battle's messages, and of all its columns' own."""
MAX_SESSION_CHARACTERS: Final = 64
"""A session's name is cut to this."""


def battle_row(battle: Battle) -> dict[str, Any]:
    """The battle's columns, cleaned.

    Raises:
        InvalidRequest: its messages are too large.
    """
    messages, lineup = messages_and_lineup(battle.messages, battle.lineup)
    return {
        "id": clean_text(battle.id, 64),
        "created": clean_real(battle.created) or 0.0,
        "messages": messages,
        "system": clean_text(battle.system, MAX_ANSWER_CHARACTERS),
        "blind": bool(battle.blind),
        "task": clean_text(battle.task, 64),
        "session": clean_text(battle.session, MAX_SESSION_CHARACTERS),
        "key": clean_text(battle.key, 64),
        "lineup": lineup,
    }


def answer_row(answer: BattleAnswer) -> dict[str, Any]:
    """The answer's columns but its battle's, cleaned."""
    return {
        "column": clean_count(answer.column) or 0,
        "model": clean_text(answer.model, 256),
        "spec_hash": clean_text(answer.spec_hash, 64),
        "parameters": to_json("battle", answer.parameters),
        "text": clean_text(answer.text, MAX_ANSWER_CHARACTERS),
        "finish_reason": clean_text(answer.finish_reason, 64),
        "ttft_ms": clean_real(answer.ttft_ms),
        "latency_ms": clean_real(answer.latency_ms) or 0.0,
        "prompt_tokens": clean_count(answer.prompt_tokens),
        "completion_tokens": clean_count(answer.completion_tokens),
        "cost_usd": clean_real(answer.cost_usd),
        "error": clean_text(answer.error, 64),
    }


def ballot_of(row: Any, answers: list[tuple[int, str, float]]) -> Ballot:
    """A vote's row as ratings count it, with the column, model and time of each good answer."""
    seen = [
        (column, model)
        for column, model, stored in answers
        if stored <= row.time or column == row.column
    ]
    columns = [column for column, _ in seen]
    return Ballot(
        battle=row.battle,
        models=tuple(model for _, model in seen),
        verdict=row.verdict,
        best=columns.index(row.column) if row.verdict == "best" else None,
        time=row.time,
    )


def messages_and_lineup(
    messages: Sequence[dict[str, Any]], lineup: Sequence[Contestant]
) -> tuple[str, str]:
    """A battle's messages and its columns, as JSON.

    Raises:
        InvalidRequest: they are too large.
        StoreError: they are nested too deeply.
    """
    texts = to_json("battle", messages), to_json("battle", [asdict(one) for one in lineup])
    for text in texts:
        if len(text) > MAX_MESSAGES_CHARACTERS:
            raise InvalidRequest(
                f"The messages have {len(text)} characters as JSON; a battle keeps "
                f"{MAX_MESSAGES_CHARACTERS}.",
                param="messages",
            )
    return texts
