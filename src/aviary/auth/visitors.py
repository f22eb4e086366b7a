"""What people without a key may do where keys are needed: compare, vote, and what that needs.

Everything that is not named here needs a key.
"""

from __future__ import annotations

import re
from typing import Final

_OPEN: Final = tuple(
    (method, re.compile(pattern))
    for method, pattern in (
        ("GET", "/api/me"),
        ("GET", "/api/models(/[^/]+(/events)?)?"),
        ("POST", "/api/battles(/[^/]+/(retry|columns/[^/]+/stop))?"),
        ("GET", "/api/battles/[^/]+"),
        ("POST", "/api/votes"),
        ("GET", "/api/leaderboard"),
        ("POST", "/api/choose"),
    )
)


def may_visit(method: str, path: str) -> bool:
    """Whether a request is one that visitors may make.

    Args:
        method: Its method.
        path: Its path, decoded, or a route with names in braces.
    """
    return any(method == known and pattern.fullmatch(path) for known, pattern in _OPEN)
