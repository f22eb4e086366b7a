"""Who asks: what the gateway says of a forwarded request's key."""

from __future__ import annotations

from fastapi import Depends, Request

from aviary.core.errors import Forbidden
from aviary.wire.asgi import KEY_HEADER, ROLE_HEADER

ROLE = ROLE_HEADER.decode()
KEY = KEY_HEADER.decode()
NO_KEY = "no key"


def is_admin(request: Request) -> bool:
    """Whether an administrator asks."""
    return request.headers.get(ROLE) == "admin"


def admin(request: Request) -> None:
    """Let administrators pass.

    Raises:
        Forbidden: somebody else asks.
    """
    if not is_admin(request):
        raise Forbidden(
            "This needs an admin key.",
            hint="Make one with `aviary keys create NAME --role admin`.",
        )


ADMIN = [Depends(admin)]
"""`dependencies` of a route for administrators."""


def user(request: Request) -> None:
    """Let those pass who have a key, or need none.

    Raises:
        Forbidden: somebody else asks.
    """
    if request.headers.get(ROLE) not in ("user", "admin"):
        raise Forbidden("This needs an API key.")


USER = [Depends(user)]
"""`dependencies` of a route for users and administrators."""


def caller(request: Request) -> str:
    """Who asks, for the log of events: the key's id, or that no key was needed."""
    return request.headers.get(KEY) or NO_KEY
