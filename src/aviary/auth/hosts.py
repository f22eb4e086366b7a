"""Who may be meant by a request's `Host` and `Origin` while no key protects this Aviary.

Without keys an Aviary listens on loopback only. Web pages of strangers can still reach it through a
browser on this machine: by a name of theirs that suddenly resolves to 127.0.0.1 (DNS rebinding), or
by posting a form. Programs on this machine name a loopback address and send no `Origin`.

Where there are keys, visitors send none, so that pages of strangers could use their browsers, too:
those have to be this Aviary's own.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from aviary.auth.bind import is_loopback
from aviary.core.errors import Forbidden

MOST_KNOWN = 256
_PORTS: Final = {"http": 80, "https": 443}


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


def check_site(host: bytes | None, origin: bytes | None, fetch_site: bytes | None) -> None:
    """Let a browser send something without a key only for a page of this very address.

    Args:
        host: The request's `Host`.
        origin: Its `Origin`; programs send none.
        fetch_site: Its `Sec-Fetch-Site`; programs and older browsers send none.

    Raises:
        Forbidden: a page of another site asks.
    """
    foreign = fetch_site is not None and fetch_site.strip().lower() == b"cross-site"
    if foreign or (origin is not None and not _is_same(origin, host)):
        raise Forbidden(
            "A page of another website asks, without a key.",
            hint="Open the Explorer at this Aviary's own address, or send an API key. A reverse "
            "proxy has to pass `Host` on as it is.",
        )


def _is_same(origin: bytes, host: bytes | None) -> bool:
    """Whether an origin's host and port are those of a `Host`."""
    try:
        page = urlsplit(origin.decode("latin-1"))
        here = urlsplit(f"//{'' if host is None else host.decode('latin-1')}")
        usual = _PORTS.get(page.scheme)
        asked, asking = (here.hostname, here.port or usual), (page.hostname, page.port or usual)
    except ValueError:
        return False
    return usual is not None and bool(page.hostname) and asked == asking
