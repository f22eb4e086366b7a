"""JSON in text columns, which every database keeps as it is."""

from __future__ import annotations

import json
from typing import Any

from aviary.core.errors import StoreError


def to_json(what: str, data: Any) -> str:
    """ASCII, in which NUL and lone surrogates are escaped: every database keeps that.

    Args:
        what: Whose it is, for the message.
        data: What is to be stored.

    Raises:
        StoreError: it cannot be written as JSON.
    """
    try:
        return json.dumps(data, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"The {what} cannot be stored: {error}.") from error


def from_json(what: str, stored: str, kind: type) -> Any:
    """What `to_json` stored.

    Args:
        what: Whose it is, for the message.
        stored: The column's text.
        kind: `dict` or `list`: what must come of it.

    Raises:
        StoreError: it is not that.
    """
    try:
        data = json.loads(stored)
    except ValueError:
        data = None
    if not isinstance(data, kind):
        raise StoreError(
            f"The stored {what} cannot be read.",
            hint="The state database was changed by something else; restore a copy of it.",
        )
    return data
