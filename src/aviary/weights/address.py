"""Addresses of weights: their scheme, a name for people, and a key for the cache."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit, urlunsplit

from aviary.core.errors import WeightsError

KNOWN_SCHEMES = ("pypi", "file", "http", "https", "hf")
LATER_SCHEMES = ("s3", "gs", "az")

HIDDEN = "…"
"""Stands in a shown address for what is not shown."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LONGEST_NAME = 60


def scheme_of(uri: str) -> str:
    """The scheme of an address, in lower case.

    Raises:
        WeightsError: when it has none, has control characters, or the scheme is not offered.
    """
    if _CONTROL.search(uri):
        raise WeightsError(f"{printable(uri)!r} is no address: it contains control characters.")
    match = _SCHEME.fullmatch(uri)
    known = ", ".join(f"{scheme}:" for scheme in KNOWN_SCHEMES)
    if match is None:
        raise WeightsError(
            f"{uri!r} is no address of weights: it begins with no scheme.",
            hint=f"Known schemes: {known}. For a file on this machine write file:{uri}.",
        )
    scheme = match.group(1).lower()
    if scheme in LATER_SCHEMES:
        raise WeightsError(
            f"{redact(uri)}: {scheme}: addresses are not available in this version.",
            hint=f"Known schemes: {known}.",
        )
    if scheme not in KNOWN_SCHEMES:
        raise WeightsError(
            f"{redact(uri)}: unknown scheme {scheme}:.", hint=f"Known schemes: {known}."
        )
    return scheme


def has_scheme(text: str) -> bool:
    """Whether a text looks like an address rather than a path."""
    match = _SCHEME.fullmatch(text)
    return match is not None and len(match.group(1)) > 1


def printable(text: str) -> str:
    """The text without anything that could move a terminal's cursor."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def redact(uri: str) -> str:
    """The address without what may be secret: user, password and query of a web address."""
    if not uri.lower().startswith(("http:", "https:")):
        return printable(uri)
    try:
        parts = urlsplit(uri)
    except ValueError:
        scheme, _, rest = uri.split("?", 1)[0].partition("//")
        return printable(f"{scheme}//{rest.rpartition('@')[2]}")
    host = parts.netloc.rpartition("@")[2]
    query = HIDDEN if parts.query else ""
    return printable(urlunsplit((parts.scheme, host, parts.path, query, "")))


def hide(uri: str) -> str:
    """The address with `…` for what may be secret, so that one sees that there is something."""
    shown = redact(uri)
    if not uri.lower().startswith(("http:", "https:")):
        return shown
    try:
        parts = urlsplit(uri)
    except ValueError:
        return shown
    if "@" not in parts.netloc:
        return shown
    scheme, _, rest = shown.partition("//")
    return f"{scheme}//{HIDDEN}@{rest}"


def hides(uri: str) -> bool:
    """Whether something is hidden in a shown address."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    return parts.netloc.startswith(f"{HIDDEN}@") or parts.query == HIDDEN


def display_name(uri: str) -> str:
    """A short file name for messages: the last segment of the address."""
    path = redact(uri)
    if path.lower().startswith(("http:", "https:")):
        try:
            split = urlsplit(path)
            path = unquote(split.path).rstrip("/") or split.netloc
        except ValueError:
            pass
    name = printable(path.rstrip("/").rpartition("/")[2] or path)
    return name if len(name) <= _LONGEST_NAME else f"…{name[-_LONGEST_NAME:]}"


def key_of(pieces: Sequence[str]) -> str:
    """The cache's key for a file that is made of these addresses, in this order."""
    return hashlib.sha256("\n".join(pieces).encode("utf-8", "surrogatepass")).hexdigest()[:32]
