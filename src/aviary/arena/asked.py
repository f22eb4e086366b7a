"""What a client asks for when it asks for a battle."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from aviary.core.errors import InvalidRequest

MOST_COLUMNS: Final = 6
MOST_MESSAGES: Final = 1_000
MOST_SESSION_CHARACTERS: Final = 64
MOST_TASK_CHARACTERS: Final = 64
OURS: Final = frozenset({"model", "messages", "prompt", "stream", "stream_options", "n"})
"""Fields of a generation request that are no parameters of a column."""


class Contender(msgspec.Struct, forbid_unknown_fields=True):
    """One column: the model, and its parameters as fields of `/v1/chat/completions`."""

    model: str
    parameters: dict[str, Any] = {}


class AskedBattle(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/battles`."""

    models: list[Contender]
    messages: list[dict[str, Any]] = []
    prompt: str = ""
    system: str = ""
    blind: bool = False
    session: str = ""
    task: str = ""

    def body_of(self, contender: Contender) -> dict[str, Any]:
        """The generation request of a column."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {
            **contender.parameters,
            "model": contender.model,
            "messages": system + self.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


_decoder = msgspec.json.Decoder(AskedBattle)


def read_asked(body: bytes) -> AskedBattle:
    """Decode and check what is asked for; a `prompt` becomes the only message.

    Raises:
        InvalidRequest: it cannot be done as it is.
    """
    try:
        asked = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The request body is wrong: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from None
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None
    if not 1 <= len(asked.models) <= MOST_COLUMNS:
        raise InvalidRequest(f"A battle has 1 to {MOST_COLUMNS} models.", param="models")
    for contender in asked.models:
        wrong = sorted(OURS.intersection(contender.parameters))
        if not contender.model or wrong:
            what = f"{wrong[0]!r} is none of its parameters" if wrong else "it has no name"
            raise InvalidRequest(f"A model of the battle is wrong: {what}.", param="models")
    if bool(asked.prompt) == bool(asked.messages):
        raise InvalidRequest("Give either a prompt or messages.", param="messages")
    if len(asked.messages) > MOST_MESSAGES:
        raise InvalidRequest(f"More than {MOST_MESSAGES} messages.", param="messages")
    for name, most in (("session", MOST_SESSION_CHARACTERS), ("task", MOST_TASK_CHARACTERS)):
        if len(getattr(asked, name)) > most:
            raise InvalidRequest(f"{name} has more than {most} characters.", param=name)
    if asked.prompt:
        asked.messages, asked.prompt = [{"role": "user", "content": asked.prompt}], ""
    return asked
