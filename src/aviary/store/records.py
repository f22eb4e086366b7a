"""Makes request records fit for any database, on purpose rather than by its mercy.

Both databases then hold the same: text without NUL (PostgreSQL refuses it) or lone surrogates (they
are no UTF-8), cut to the column's size; finite numbers within bounds, so that neither a row nor a
sum of rows overflows.
"""

from __future__ import annotations

import math
from typing import Final

from aviary.core.ports import RequestRecord

MAX_REAL: Final = 1e12
"""Largest time (s), duration (ms) and cost (USD)."""

MAX_COUNT: Final = 2**31 - 1
"""Largest token count and status."""

Row = dict[str, str | int | float | bool | None]


def to_row(record: RequestRecord) -> Row:
    """The record's columns, cleaned."""
    return {
        "id": clean_text(record.id, 128),
        "time": clean_real(record.time) or 0.0,
        "route": clean_text(record.route, 256),
        "model": clean_text(record.model, 256),
        "replica": clean_text(record.replica, 256),
        "key": clean_text(record.key, 64),
        "status": clean_count(record.status) or 0,
        "error": clean_text(record.error, 64),
        "stream": bool(record.stream),
        "time_to_first_token_ms": clean_real(record.time_to_first_token_ms),
        "latency_ms": clean_real(record.latency_ms) or 0.0,
        "overhead_ms": clean_real(record.overhead_ms),
        "prompt_tokens": clean_count(record.prompt_tokens),
        "completion_tokens": clean_count(record.completion_tokens),
        "cost_usd": clean_real(record.cost_usd),
        "client": clean_text(record.client, 32),
    }


def clean(record: RequestRecord) -> RequestRecord:
    """The record as a request log gives it back; the same, unless something in it is extreme."""
    return RequestRecord(**to_row(record))  # type: ignore[arg-type]


def is_error(record_status: int, record_error: str) -> bool:
    """Whether a request counts as failed; a client that left first (499) is nobody's failure."""
    return record_status != 499 and (record_status >= 400 or bool(record_error))


def clean_text(text: str, size: int) -> str:
    """Text that every database can keep, at most `size` characters."""
    if len(text) > size:
        text = text[:size]
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text


def clean_real(value: float | None) -> float | None:
    """A finite number from 0 to `MAX_REAL`; what is no number at all counts as unknown."""
    if value is None:
        return None
    try:
        number = float(value)
    except OverflowError:  # an enormous int
        return MAX_REAL if value > 0 else 0.0
    except (TypeError, ValueError):  # one engine's odd report must not cost a whole batch
        return None
    if math.isnan(number):
        return None
    return min(max(number, 0.0), MAX_REAL)


def clean_count(value: int | None) -> int | None:
    """A whole number from 0 to `MAX_COUNT`."""
    if value is None:
        return None
    number = clean_real(value)  # floats hold whole numbers to 2**53, beyond the bound
    return None if number is None else min(int(number), MAX_COUNT)
