"""A local web server that behaves well or badly on request, and speaks a hub's language.

Loaded by path (`conftest.py` here, `tests/contract/test_weight_sources.py`), since test folders are
not packages.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class File:
    """One served file and how it is served."""

    body: bytes
    etag: str | None = '"v1"'
    modified: str | None = None
    ranges: bool = True
    ignore_if_range: bool = False
    length: bool = True
    encoding: str | None = None
    cuts: list[int] = field(default_factory=list)  # the n-th answer ends after so many bytes
    statuses: list[int] = field(default_factory=list)  # answered before anything good
    redirect: str | None = None
    bytes_per_second: float | None = None


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]


class StandIn:
    """The server's content and what it was asked."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.repos: dict[str, dict[str, File]] = {}
        self.gated: set[str] = set()
        self.seen: list[Seen] = []
        self.port = 0
        self.at_once = 0
        self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, path: str, body: bytes, **how: object) -> str:
        self.files[path] = File(body, **how)  # type: ignore[arg-type]
        return self.url + path

    def put_hub(self, repo: str, path: str, body: bytes, **how: object) -> None:
        self.repos.setdefault(repo, {})[path] = File(body, **how)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield
        finally:
            self.at_once -= 1

    def gets(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == "GET"]


def _handler(standin: StandIn) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(self.path.split("?", 1)[0])
            headers = {key.lower(): value for key, value in self.headers.items()}
            standin.seen.append(Seen(self.command, self.path, headers))
            with contextlib.suppress(ConnectionError), standin.counted():
                if "/resolve/" in path:
                    self.hub(path)
                elif path in standin.files:
                    self.file(standin.files[path])
                else:
                    self.plain(404)

        def plain(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def hub(self, path: str) -> None:
            repo, _, rest = path[1:].partition("/resolve/")
            revision, _, name = rest.partition("/")
            if repo in standin.gated and "authorization" not in self.headers:
                self.plain(403, X_Error_Code="GatedRepo")
            elif repo not in standin.repos:
                self.plain(401, X_Error_Code="RepoNotFound")
            elif revision not in {"main", "v1.0", COMMIT}:
                self.plain(404, X_Error_Code="RevisionNotFound")
            elif name not in standin.repos[repo]:
                self.plain(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            else:
                file = standin.repos[repo][name]
                digest = hashlib.sha256(file.body).hexdigest()
                cdn = f"/cdn/{digest}"
                standin.files[cdn] = file
                self.plain(
                    302,
                    X_Repo_Commit=COMMIT,
                    X_Linked_Etag=f'"{file.etag or digest}"'.replace('""', '"'),
                    X_Linked_Size=str(len(file.body)),
                    # Another host name, as a hub's storage has.
                    Location=f"http://localhost:{standin.port}{cdn}",
                )

        def file(self, file: File) -> None:
            if file.statuses:
                self.plain(file.statuses.pop(0), Retry_After="0")
                return
            if file.redirect is not None:
                self.plain(302, Location=file.redirect)
                return
            start, body = 0, file.body
            asked = self.headers.get("Range")
            if asked and file.ranges and self.same(file):
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.plain(416, Content_Range=f"bytes */{len(body)}")
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if file.etag:
                self.send_header("ETag", file.etag)
            if file.modified:
                self.send_header("Last-Modified", file.modified)
            if file.encoding:
                self.send_header("Content-Encoding", file.encoding)
            if file.length:
                self.send_header("Content-Length", str(len(body) - start))
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            if self.command == "HEAD":
                return
            rest = body[start:]
            if file.cuts:
                rest = rest[: file.cuts.pop(0)]
                self.close_connection = True
            self.send(rest, file.bytes_per_second)

        def same(self, file: File) -> bool:
            condition = self.headers.get("If-Range")
            return (
                condition is None
                or file.ignore_if_range
                or condition
                in {
                    file.etag,
                    file.modified,
                }
            )

        def send(self, body: bytes, bytes_per_second: float | None) -> None:
            if bytes_per_second is None:
                self.wfile.write(body)
                return
            step = max(1, int(bytes_per_second / 50))
            for at in range(0, len(body), step):
                self.wfile.write(body[at : at + step])
                time.sleep(0.02)

    return Handler


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextlib.contextmanager
def serve() -> Iterator[StandIn]:
    """A running stand-in on a free port."""
    standin = StandIn()
    server = _Server(("127.0.0.1", 0), _handler(standin))
    server.daemon_threads = True
    standin.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield standin
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
