"""What a client asks for when it asks for a battle."""

from __future__ import annotations

from hmac import compare_digest
from typing import Any, Final, TypeVar

import msgspec

from aviary.core.errors import Forbidden, InvalidRequest
from aviary.core.preference import Battle, Contestant
from aviary.store.ballot_rows import MAX_MESSAGES_CHARACTERS, messages_and_lineup

MOST_COLUMNS: Final = 6
MOST_MESSAGES: Final = 1_000
MOST_SESSION_CHARACTERS: Final = 64
MOST_TASK_CHARACTERS: Final = 64
MOST_GROWTH: Final = 8
"""A body does not grow by more than this when it is written as it is stored."""
OURS: Final = frozenset({"model", "messages", "prompt", "stream", "stream_options", "n"})
"""Fields of a generation request that are no parameters of a column."""


class Contender(msgspec.Struct, forbid_unknown_fields=True):
    """One column: the model, its parameters as fields of `/v1/chat/completions`, its own turns."""

    model: str
    parameters: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []


class AskedBattle(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/battles`."""

    models: list[Contender]
    messages: list[dict[str, Any]] = []
    prompt: str = ""
    system: str = ""
    blind: bool = False
    session: str = ""
    task: str = ""

    @property
    def lineup(self) -> tuple[Contestant, ...]:
        """The columns, as they are kept."""
        return tuple(Contestant(c.model, c.parameters, c.messages) for c in self.models)


class AskedRetry(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/battles/ID/retry`."""

    columns: list[int]
    session: str


class AskedStop(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/battles/ID/columns/N/stop`."""

    session: str


_battle = msgspec.json.Decoder(AskedBattle)
_retry = msgspec.json.Decoder(AskedRetry)
_stop = msgspec.json.Decoder(AskedStop)
_T = TypeVar("_T")


def request_of(battle: Battle, contestant: Contestant) -> dict[str, Any]:
    """The generation request of a column."""
    system = [{"role": "system", "content": battle.system}] if battle.system else []
    return {
        **contestant.parameters,
        "model": contestant.model,
        "messages": system + contestant.messages + battle.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def read_retry(body: bytes, battle: Battle) -> AskedRetry:
    """Decode and check which columns of a battle are asked for again.

    Raises:
        InvalidRequest: it cannot be done as it is.
        Forbidden: it is another session's battle.
    """
    asked = _decode(_retry, body)
    check_session(battle, asked.session)
    known = range(len(battle.lineup))
    if not asked.columns or len(set(asked.columns)) != len(asked.columns):
        raise InvalidRequest("Name columns to retry, each once.", param="columns")
    for column in asked.columns:
        if column not in known:
            raise InvalidRequest(f"The battle has no column {column}.", param="columns")
    return asked


def read_stop(body: bytes) -> AskedStop:
    """Decode who wants a column to stop.

    Raises:
        InvalidRequest: it is no such thing.
    """
    return _decode(_stop, body)


def check_session(battle: Battle, session: str) -> None:
    """Let only the session pass whose battle it is.

    Raises:
        Forbidden: it is another one's, or nobody's.
    """
    if not battle.session or not compare_digest(battle.session.encode(), session.encode()):
        raise Forbidden("This is another session's battle.", param="session")


def read_asked(body: bytes) -> AskedBattle:
    """Decode and check what is asked for; a `prompt` becomes the only message.

    Raises:
        InvalidRequest: it cannot be done as it is.
    """
    asked = _decode(_battle, body)
    if not 1 <= len(asked.models) <= MOST_COLUMNS:
        raise InvalidRequest(f"A battle has 1 to {MOST_COLUMNS} models.", param="models")
    for contender in asked.models:
        _check(contender)
    if bool(asked.prompt) == bool(asked.messages):
        raise InvalidRequest("Give either a prompt or messages.", param="messages")
    if asked.messages and any(contender.messages for contender in asked.models):
        raise InvalidRequest("After a column's own messages comes a prompt.", param="messages")
    if len(asked.messages) > MOST_MESSAGES:
        raise InvalidRequest(f"More than {MOST_MESSAGES} messages.", param="messages")
    for name, most in (("session", MOST_SESSION_CHARACTERS), ("task", MOST_TASK_CHARACTERS)):
        if len(getattr(asked, name)) > most:
            raise InvalidRequest(f"{name} has more than {most} characters.", param=name)
    if asked.prompt:
        asked.messages, asked.prompt = [{"role": "user", "content": asked.prompt}], ""
    if len(body) * MOST_GROWTH > MAX_MESSAGES_CHARACTERS:  # else it fits, however it is written
        messages_and_lineup(asked.messages, asked.lineup)
    return asked


def _check(contender: Contender) -> None:
    wrong = sorted(OURS.intersection(contender.parameters))
    if not contender.model or wrong:
        what = f"{wrong[0]!r} is none of its parameters" if wrong else "it has no name"
        raise InvalidRequest(f"A model of the battle is wrong: {what}.", param="models")
    if len(contender.messages) > MOST_MESSAGES:
        raise InvalidRequest(f"More than {MOST_MESSAGES} messages.", param="models")


def _decode(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The request body is wrong: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from None
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None
