"""The Explorer's files, as every worker serves them: from memory, compressed once.

One page answers at every address that its router knows. Files under `/assets/` carry a hash of
their content in their names, so that a browser asks for each only once.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from aviary.wire.asgi import Scope, Send, find_header, send_bytes

log = structlog.get_logger()

ROUTES: Final = frozenset({"/", "/leaderboard", "/models", "/traffic"})
"""Addresses of the app's pages."""
BATTLES: Final = "/battles/"
"""How addresses of stored comparisons begin."""
LEAST_COMPRESSED_BYTES: Final = 1_000
_TEXT: Final = frozenset({"text/html", "text/css", "text/javascript", "image/svg+xml"})
_HASHED: Final = re.compile(r"-[\w-]{8}\.\w+$")
_FOREVER: Final = b"public, max-age=31536000, immutable"
_ASK_AGAIN: Final = b"no-cache"
# Nothing from any other host, no script but the app's own files; styles are also set by scripts.
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'"
)
_SAFETY: Final = [
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_MISSING: Final = (
    b"<!doctype html><meta charset=utf-8><title>Aviary</title><h1>Aviary</h1>"
    b"<p>This Aviary was built without its Explorer. It serves an OpenAI-compatible API at "
    b'<code>/v1</code>; the reference is at <a href="/docs">/docs</a>.'
)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    compressed: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    etag: bytes


class Pages:
    """The built app in memory.

    Args:
        folder: Where it was built to; may be missing.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, _File] = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                name = f"/{path.relative_to(folder).as_posix()}"
                self._files[name] = _load(name, path.read_bytes())
        self._index = self._files.pop("/index.html", None)
        if self._index is None:
            log.warning("the Explorer was not built", folder=str(folder))
            self._index = _load("/index.html", _MISSING)

    def has(self, path: str) -> bool:
        """Whether this address belongs to the app."""
        return path in ROUTES or path in self._files or path.startswith(BATTLES)

    async def serve(self, path: str, scope: Scope, send: Send) -> None:
        """Answer a GET or HEAD of one of the app's addresses."""
        file = self._files.get(path, self._index)
        assert file is not None  # noqa: S101 - made above
        headers = [*file.headers, *_SAFETY]
        if find_header(scope["headers"], b"if-none-match") == file.etag:
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        body = file.content
        if file.compressed and b"gzip" in (
            find_header(scope["headers"], b"accept-encoding") or b""
        ):
            body = file.compressed
            headers.append((b"content-encoding", b"gzip"))
        await send_bytes(send, 200, body, headers, head=scope["method"] == "HEAD")


def _load(name: str, content: bytes) -> _File:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    text = kind in _TEXT
    compressed = b""
    if text and len(content) >= LEAST_COMPRESSED_BYTES:
        compressed = gzip.compress(content, 9, mtime=0)
    etag = b'"%s"' % hashlib.sha256(content).hexdigest()[:32].encode()
    keep = name.startswith("/assets/") and _HASHED.search(name) is not None
    headers = (
        (b"content-type", f"{kind}; charset=utf-8".encode() if text else kind.encode()),
        (b"cache-control", _FOREVER if keep else _ASK_AGAIN),
        (b"vary", b"accept-encoding"),
        (b"etag", etag),
    )
    return _File(content, compressed, headers, etag)
