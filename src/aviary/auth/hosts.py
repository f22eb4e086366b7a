"""Who may be meant by a request's `Host` and `Origin` while no key protects this Aviary.

Without keys an Aviary listens on loopback only. Web pages of strangers can still reach it through a
browser on this machine: by a name of theirs that suddenly resolves to 127.0.0.1 (DNS rebinding), or
by posting a form. Programs on this machine name a loopback address and send no `Origin`.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from aviary.auth.bind import is_loopback
from aviary.core.errors import Forbidden

MOST_KNOWN = 256


class HostGuard:
    """Lets only requests pass that mean this machine; remembers what it has looked at."""

    def __init__(self) -> None:
        self._good: set[bytes] = set()

    def check(self, host: bytes | None, origin: bytes | None) -> None:
        """Check the two headers.

        Raises:
            Forbidden: one of them names another machine.
        """
        for header, is_origin in ((host, False), (origin, True)):
            if header is None or header in self._good:
                continue
            if not is_loopback(_name(header, is_origin=is_origin)):
                raise Forbidden(
                    "This Aviary has no keys, so it answers only to programs and pages of its own "
                    "machine.",
                    hint="Make a key: `aviary keys create NAME --role admin`.",
                )
            if len(self._good) < MOST_KNOWN:
                self._good.add(header)


def _name(header: bytes, *, is_origin: bool) -> str:
    text = header.decode("latin-1")
    try:
        return urlsplit(text if is_origin else f"//{text}").hostname or ""
    except ValueError:
        return ""
