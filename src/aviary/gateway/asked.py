"""What the gateway reads of a request: no more than routing needs."""

from __future__ import annotations

import itertools
import re
import secrets

import msgspec

from aviary.core.errors import BodyTooLarge, InvalidRequest
from aviary.wire.asgi import Scope, find_header

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")

# Unique without asking the kernel for randomness each time: a prefix a process, and a count.
_ID_PREFIX = b"req-" + secrets.token_hex(10).encode()
_ids = itertools.count(1)


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Peek(msgspec.Struct):
    """What the gateway reads of a request body."""

    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the usage event of a stream."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


_peek = msgspec.json.Decoder(Peek)


def peek(body: bytes) -> Peek:
    """Decode what routing needs.

    Raises:
        InvalidRequest: the body is empty, not a JSON object, or `model` is missing.
    """
    if not body.strip():
        raise InvalidRequest("The request body is empty; a JSON object is expected.")
    try:
        fields = _peek.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The request body is wrong: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from None
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None
    if not fields.model:
        raise InvalidRequest("model is missing: which model shall answer?", param="model")
    return fields


def request_id(scope: Scope) -> bytes:
    """The client's `x-request-id` when it is harmless, else a new one."""
    given = find_header(scope["headers"], b"x-request-id")
    if given is not None and REQUEST_ID.fullmatch(given):
        return given
    return b"%s%x" % (_ID_PREFIX, next(_ids))


def check_length(headers: list[tuple[bytes, bytes]], limit_bytes: int) -> None:
    """Refuse a body that says to be too large before any of it is read."""
    length = find_header(headers, b"content-length")
    if length is not None and length.isdigit() and int(length) > limit_bytes:
        raise BodyTooLarge(
            f"The request body has {int(length)} bytes; this server accepts {limit_bytes}.",
            hint="Send less. With an API key, AVIARY_MAX_BODY_MB is the most.",
        )
