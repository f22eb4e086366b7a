"""`http:` and `https:` addresses: streamed, resumed, checked against the stated length."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from aviary.core.errors import WeightsError
from aviary.core.ports import Progress
from aviary.version import __version__
from aviary.weights.address import display_name, redact
from aviary.weights.disk import (
    CHUNK,
    DiskFull,
    disk_errors,
    read_json,
    require_space,
    size_of,
    write_json,
)
from aviary.weights.meter import Meter

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 30.0


class _Interrupted(Exception):
    """The transfer ended early in a way that may not happen again."""

    def __init__(self, cause: str, wait_s: float = 0.0) -> None:
        super().__init__(cause)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class _State:
    """What a partial file is part of; kept beside it so that only the same file is continued.

    Attributes:
        url: SHA-256 of the address.
        validator: A strong ETag or a Last-Modified date; empty when the server gave neither.
        total: The whole file's size, when known.
    """

    url: str
    validator: str = ""
    total: int | None = None

    @classmethod
    def load(cls, target: Path, url: str) -> _State | None:
        """The state beside the target, when it is of the same address."""
        data = read_json(_state_path(target))
        if data is None or data.get("url") != _url_key(url):
            return None
        validator, total = data.get("validator"), data.get("total")
        return cls(
            url=_url_key(url),
            validator=validator if isinstance(validator, str) else "",
            total=total if isinstance(total, int) else None,
        )

    def save(self, target: Path) -> None:
        write_json(
            _state_path(target),
            {"url": self.url, "validator": self.validator, "total": self.total},
        )


def _state_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _url_key(url: str) -> str:
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()


def discard(target: Path) -> None:
    """Remove a partial file and what is known about it."""
    with disk_errors(target, "removing"):
        target.unlink(missing_ok=True)
        _state_path(target).unlink(missing_ok=True)


def check_url(url: str) -> httpx2.URL:
    """Check that an address is one of the web.

    Raises:
        WeightsError: when it is not.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise WeightsError(f"{redact(url)}: not an address: {error}.") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise WeightsError(
            f"{redact(url)}: not an address: it names no host.",
            hint="Write https://host/path/file.",
        )
    return parsed


class HttpSource:
    """Fetches over HTTP with ranges, so that a cut transfer goes on where it ended.

    Args:
        retries: How often in a row to try again without any new byte.
        backoff_s: Pause before the first retry; it doubles each time.
        max_redirects: Longest chain of redirects.
        connect_timeout_s: Longest wait for a connection.
        read_timeout_s: Longest silence of the server.
        sleep: Pauses; another one makes tests quick.
    """

    def __init__(
        self,
        *,
        retries: int = 4,
        backoff_s: float = 1.0,
        max_redirects: int = 5,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._retries = retries
        self._backoff_s = backoff_s
        self._max_redirects = max_redirects
        self._timeout = httpx2.Timeout(
            connect=connect_timeout_s, read=read_timeout_s, write=30.0, pool=10.0
        )
        self._sleep = sleep

    def fetch(self, uri: str, target: Path, progress: Progress) -> None:
        """Write the file's bytes to `target`, resuming what is there; raises `WeightsError`."""
        self.download(uri, target, progress, name=display_name(uri))

    def download(
        self,
        url: str,
        target: Path,
        progress: Progress,
        *,
        name: str,
        headers: Mapping[str, str] | None = None,
        size: int | None = None,
    ) -> None:
        """Like `fetch`, with more known.

        Args:
            url: The web address.
            target: The file to write, or to go on with.
            progress: Receives texts.
            name: The file's name for people.
            headers: More request headers; they may hold a token, and are not sent to other hosts.
            size: The file's size, when the caller knows it.

        Raises:
            WeightsError: when the file cannot be had; what came stays for the next time.
        """
        secure = check_url(url).scheme == "https"
        failures = 0
        with self._client(secure=secure, url=url) as client:
            while True:
                before = size_of(target)
                try:
                    self._attempt(client, url, target, progress, name, dict(headers or {}), size)
                except (httpx2.TransportError, _Interrupted) as error:
                    failures = 1 if size_of(target) > before else failures + 1
                    hopeless = isinstance(
                        error, httpx2.ConnectError | httpx2.UnsupportedProtocol
                    ) and not size_of(target)
                    if failures > self._retries or hopeless:
                        raise _unreachable(url, error, target) from error
                    wait = min(self._backoff_s * 2 ** (failures - 1), _LONGEST_WAIT_S)
                    if isinstance(error, _Interrupted):
                        wait = max(wait, min(error.wait_s, _LONGEST_WAIT_S))
                    progress(f"downloading {name}: interrupted, going on in {wait:.0f} s", None)
                    self._sleep(wait)
                except DiskFull:
                    discard(target)
                    raise
                except httpx2.TooManyRedirects as error:
                    raise WeightsError(
                        f"{redact(url)}: more than {self._max_redirects} redirects.",
                        hint="The server sends us in circles; check the address.",
                    ) from error
                except (httpx2.InvalidURL, httpx2.HTTPError) as error:
                    raise WeightsError(f"{redact(url)}: {_words(error)}.") from error
                else:
                    return

    def _client(self, *, secure: bool, url: str) -> httpx2.Client:
        def stay_secure(request: httpx2.Request) -> None:
            if secure and request.url.scheme != "https":
                raise WeightsError(
                    f"{redact(url)} redirects to {redact(str(request.url))}, which is not "
                    "encrypted; refused."
                )

        return httpx2.Client(
            follow_redirects=True,
            max_redirects=self._max_redirects,
            timeout=self._timeout,
            headers={"Accept-Encoding": "identity", "User-Agent": f"aviary/{__version__}"},
            event_hooks={"request": [stay_secure]},
        )

    def _attempt(
        self,
        client: httpx2.Client,
        url: str,
        target: Path,
        progress: Progress,
        name: str,
        headers: dict[str, str],
        size: int | None,
    ) -> None:
        state = _State.load(target, url)
        offset = size_of(target) if state is not None else 0
        if state is not None and offset and offset == state.total:
            return
        if state is not None and state.validator and offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": state.validator}
        else:
            offset = 0
        with client.stream("GET", url, headers=headers) as response:
            if response.status_code == 416 and offset:
                if _content_range(response)[1] == offset:
                    return
                discard(target)
                raise _Interrupted("the server no longer has the range that is missing")
            if response.status_code == 206 and offset:
                start, total = _content_range(response)
                if start != offset or _changed(response, state):
                    discard(target)
                    raise _Interrupted("the file changed on the server")
            elif response.status_code == 200:
                offset, total = 0, _length(response)
            else:
                raise _refused(url, response)
            self._receive(
                response,
                url,
                target,
                Meter(progress, "downloading", name, total or size, offset),
                total,
            )

    def _receive(
        self,
        response: httpx2.Response,
        url: str,
        target: Path,
        meter: Meter,
        total: int | None,
    ) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise WeightsError(
                f"{redact(url)}: the server sends the file encoded ({encoding}), though we asked "
                "for it as it is."
            )
        if total is not None:
            require_space(target, total - meter.done, display_name(url))
        mode = "ab" if meter.done else "wb"
        with disk_errors(target, "writing"), target.open(mode, buffering=CHUNK) as file:
            if not meter.done:
                _State(_url_key(url), _validator(response), total).save(target)
            # No chunk size: with one, a cut transfer would lose what is not a whole chunk.
            for chunk in response.iter_raw():
                file.write(chunk)
                meter.add(len(chunk))
        if total is not None and meter.done < total:
            raise _Interrupted(f"the body ended after {meter.done} of {total} bytes")
        if total is not None and meter.done > total:
            discard(target)
            raise _Interrupted(f"the body is longer than the stated {total} bytes")


def _validator(response: httpx2.Response) -> str:
    etag: str = response.headers.get("ETag", "")
    if etag.startswith('"'):
        return etag
    modified: str = response.headers.get("Last-Modified", "")
    return modified


def _changed(response: httpx2.Response, state: _State | None) -> bool:
    """Whether a server that ignores If-Range sent a piece of another file."""
    if state is None:
        return True
    total = _content_range(response)[1]
    if state.total is not None and total is not None and total != state.total:
        return True
    etag = response.headers.get("ETag", "")
    return bool(
        etag.startswith('"') and state.validator.startswith('"') and etag != state.validator
    )


def _content_range(response: httpx2.Response) -> tuple[int | None, int | None]:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None:
        return None, None
    start, total = match.groups()
    return (
        int(start) if start is not None else None,
        int(total) if total != "*" else None,
    )


def _length(response: httpx2.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdecimal() else None


def _refused(url: str, response: httpx2.Response) -> Exception:
    status = response.status_code
    words = f"HTTP {status} {response.reason_phrase}".rstrip()
    if status in _TRANSIENT:
        wait = response.headers.get("Retry-After", "")
        return _Interrupted(
            f"the server answered {words}", float(wait) if wait.isdecimal() else 0.0
        )
    if status in {404, 410}:
        hint = "There is no such file; check the address."
    elif status in {401, 403}:
        hint = "The server wants permission; check the address, or download the file yourself."
    else:
        hint = ""
    return WeightsError(f"{redact(url)}: the server answered {words}.", hint=hint)


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")


def _unreachable(url: str, error: Exception, target: Path) -> WeightsError:
    host = check_url(url).netloc.decode("ascii", "replace")
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return WeightsError(
            f"{redact(url)}: cannot reach {host}: {_words(error)}.",
            hint="Check the host's name, the network and any proxy, or add a mirror.",
        )
    kept = size_of(target)
    hint = f"{kept} bytes are kept; the next try goes on from there." if kept else ""
    return WeightsError(f"{redact(url)}: the download broke off: {_words(error)}.", hint=hint)
