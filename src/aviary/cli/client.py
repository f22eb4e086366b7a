"""A small client of a running Aviary's HTTP API."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
import msgspec

from aviary.arena.leaderboard import Row
from aviary.auth.bind import is_loopback
from aviary.config.settings import Settings
from aviary.core.errors import (
    AviaryError,
    Forbidden,
    ModelNotFound,
    NotAuthorized,
    SpecError,
    Unavailable,
)
from aviary.wire.sse import EventSplitter, payload, split_events

if TYPE_CHECKING:
    from aviary.config.spec import ModelSpec

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0

T = TypeVar("T")


class Replica(msgspec.Struct):
    """One replica as the API shows it."""

    id: str = ""
    state: str = ""
    detail: str = ""
    progress: float | None = None
    host: str = ""
    port: int = 0
    pid: int = 0
    node: str = ""
    since: float = 0.0
    restarts: int = 0


class Totals(msgspec.Struct):
    """What a model has served so far."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None


class Model(msgspec.Struct):
    """One model as the API shows it."""

    id: str
    state: str = ""
    spec_hash: str = ""
    description: str = ""
    tags: list[str] = []
    engine: str = ""
    context_length: int = 0
    slots: int = 0
    desired_replicas: int = 0
    detail: str = ""
    replicas: list[Replica] = []
    running: int = 0
    waiting: int = 0
    totals: Totals = msgspec.field(default_factory=Totals)

    @property
    def ready_replicas(self) -> int:
        """How many replicas can serve."""
        return sum(replica.state in ("ready", "sleeping") for replica in self.replicas)

    @property
    def restarts(self) -> int:
        """How often its present replicas' places had to be filled again."""
        return sum(replica.restarts for replica in self.replicas)

    @property
    def doing(self) -> str:
        """What it does or lacks, in words: how a replica failed, else how far one has come."""
        for state in ("failed", "starting"):
            for replica in self.replicas:
                if replica.state == state and replica.detail:
                    done = "" if replica.progress is None else f" {replica.progress:.0%}"
                    return replica.detail + done
        return self.detail


class Models(msgspec.Struct):
    """The answer of `/api/models`."""

    models: list[Model] = []


class Requests(msgspec.Struct):
    """Counts of requests."""

    total: int = 0
    errors: int = 0
    dropped_log_records: int = 0


class Status(msgspec.Struct):
    """The answer of `/api/status`."""

    version: str = ""
    backend: str = ""
    url: str = ""
    uptime_s: float = 0.0
    workers: int = 0
    generation: int = 0
    models: dict[str, int] = {}
    requests: Requests = msgspec.field(default_factory=Requests)
    dropped_events: int = 0


class FieldChange(msgspec.Struct):
    """One field of a spec that an apply changes."""

    field: str
    before: Any = None
    after: Any = None


class Change(msgspec.Struct):
    """What an apply makes of one model: `added`, `changed`, `unchanged`, `pruned` or `kept`."""

    model: str
    action: str
    restarts: bool = False
    fields: list[FieldChange] = []


class Applied(msgspec.Struct):
    """The answer of `/api/apply`; without an id when nothing was to be done."""

    id: str | None = None
    changes: list[Change] = []


class Outcome(msgspec.Struct):
    """What became of one model of an apply."""

    model: str
    state: str
    detail: str = ""
    log: list[str] = []


class Application(msgspec.Struct):
    """The answer of `/api/apply/{id}`: how an apply stands."""

    id: str = ""
    done: bool = False
    models: list[Outcome] = []


class Event(msgspec.Struct):
    """Something that happened to the fleet, as `/api/events` shows it."""

    seq: int = 0
    time: float = 0.0
    model: str = ""
    kind: str = ""
    replica: str = ""
    detail: str = ""
    changed_by: str = ""


class Events(msgspec.Struct):
    """The answer of `/api/events`."""

    events: list[Event] = []


class Leaderboard(msgspec.Struct):
    """The answer of `/api/leaderboard`."""

    votes: int = 0
    rows: list[Row] = []


class Unreachable(AviaryError):
    """No answer came; the request itself may be good."""

    code = "unreachable"
    retryable = True


class Client:
    """Calls a running Aviary; every failure is an `AviaryError` that says what to do."""

    def __init__(self, settings: Settings) -> None:
        self.url = base_url(settings.url)
        self._http = httpx2.Client(
            base_url=self.url,
            headers=headers(settings),
            timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=not is_local(self.url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, **params: str | int) -> Any:
        """The JSON that a path answers."""
        return self._call("GET", path, params=params)

    def status(self) -> Status:
        """How this Aviary does."""
        return self.read(self.get("/api/status"), Status)

    def models(self) -> list[Model]:
        """All models."""
        return self.read(self.get("/api/models"), Models).models

    def model(self, model: str) -> Model:
        """One model; raises `ModelNotFound`."""
        return self.read(self.get(model_path(model)), Model)

    def apply(
        self, specs: Sequence[ModelSpec], *, prune: bool, dry_run: bool, rollback: bool
    ) -> Applied:
        """Serve models as their specs say, or only say what that would change."""
        body = {
            # Without the nulls: some parts of a spec count which of their fields are given.
            "specs": [spec.model_dump(mode="json", exclude_none=True) for spec in specs],
            "prune": prune,
            "dry_run": dry_run,
            "rollback": rollback,
        }
        return self.read(self._call("POST", "/api/apply", json=body), Applied)

    def application(self, apply: str) -> Application:
        """How an apply stands."""
        return self.read(self.get(f"/api/apply/{quote(apply, safe='')}"), Application)

    def stop(self, model: str) -> dict[str, Any]:
        """Stop a model; answers `{"model", "action"}`."""
        return self.read(self._call("DELETE", model_path(model)), dict[str, Any])

    def scale(self, model: str, replicas: int) -> dict[str, Any]:
        """Change a model's number of replicas; answers `{"model", "action", "apply"}`."""
        return self._order(model, "scale", {"replicas": replicas})

    def sleep(self, model: str) -> dict[str, Any]:
        """Have a model sleep; answers `{"model", "action"}`."""
        return self._order(model, "sleep")

    def wake(self, model: str) -> dict[str, Any]:
        """Have a model wake; answers `{"model", "action"}`."""
        return self._order(model, "wake")

    def _order(self, model: str, verb: str, body: Any = None) -> dict[str, Any]:
        answer = self._call("POST", f"{model_path(model)}/{verb}", json=body)
        return self.read(answer, dict[str, Any])

    def events(
        self, path: str, *, silence_s: float | None = None, **params: str | int
    ) -> Iterator[dict[str, Any]]:
        """The objects of a server-sent event stream, as they come.

        Args:
            path: Where the stream is.
            silence_s: After so long without a byte the stream ends; `None` waits for ever.
            **params: Query parameters.
        """
        timeout = httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, read=silence_s)
        splitter = EventSplitter()
        with (
            mapped(self.url),
            self._http.stream("GET", path, params=params, timeout=timeout) as response,
        ):
            if response.status_code >= 400:
                response.read()
                raise error_from(response, self.url)
            chunks = response.iter_bytes()
            while True:
                try:
                    chunk = next(chunks)
                except (StopIteration, httpx2.ReadTimeout):
                    return
                for event in split_events(splitter.feed(chunk)):
                    data = _object(payload(event))
                    if data is not None:
                        yield data

    def read(self, data: Any, kind: type[T]) -> T:
        """Data as one of this module's shapes."""
        return read(data, kind, self.url)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        with mapped(self.url):
            response = self._http.request(method, path, **options)
        if response.status_code >= 400:
            raise error_from(response, self.url)
        try:
            return json.loads(response.content)
        except ValueError:
            raise _no_aviary(self.url) from None


def base_url(url: str) -> str:
    """The address of a server, from what people write: a `/v1` or `/` at the end is cut off.

    Raises:
        SpecError: it is no HTTP address.
    """
    text = url.strip().rstrip("/").removesuffix("/v1").rstrip("/")
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
        good = good and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise SpecError(f"{url!r} is no HTTP address.", hint="Write for example http://host:8000.")
    return text


def is_local(url: str) -> bool:
    """Whether the address is on this machine, which no proxy should be asked for."""
    return is_loopback(urlsplit(url).hostname or "")


def headers(settings: Settings) -> dict[str, str]:
    """Headers of every request.

    Raises:
        SpecError: the API key has characters that cannot be sent.
    """
    key = (settings.api_key or "").strip()
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()):
        raise SpecError("The API key has characters that no key has.", hint="Copy it again.")
    return {"authorization": f"Bearer {key}"}


def model_path(model: str) -> str:
    """The API path of a model."""
    return f"/api/models/{quote(model, safe='')}"


@contextlib.contextmanager
def mapped(url: str) -> Iterator[None]:
    """Turns the HTTP client's errors into Aviary's."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout):
        raise Unreachable(
            f"No Aviary answers at {url}.", hint="Start one with: aviary up"
        ) from None
    except httpx2.TimeoutException:
        raise Unreachable(f"The Aviary at {url} did not answer in time.") from None
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise Unreachable(f"The connection to {url} broke: {reason}.") from None


def may_pass(error: AviaryError) -> bool:
    """Whether whoever waits should ask again: the server is away, perhaps for a moment only."""
    return isinstance(error, Unreachable | Unavailable)


def error_from(response: httpx2.Response, url: str) -> AviaryError:
    """The error that a (read) response reports, OpenAI-shaped or not."""
    retry_after: float | None = None
    with contextlib.suppress(ValueError):
        retry_after = float(response.headers.get("retry-after", ""))
    body = _object(response.content) or {}
    if "error" not in body:
        return _no_aviary(url, f"HTTP {response.status_code}")
    return error_of(body["error"], status=response.status_code, retry_after_s=retry_after)


def error_of(error: Any, *, status: int = 500, retry_after_s: float | None = None) -> AviaryError:
    """The error in an OpenAI-shaped `{"message", "type", "param", "code"}`."""
    if not isinstance(error, dict):
        error = {"message": str(error)}
    message = str(error.get("message") or f"The server answered HTTP {status}.")
    param = error.get("param")
    kind = _KINDS.get(str(error.get("code"))) or _BY_STATUS.get(status, AviaryError)
    hint = ""
    if kind is NotAuthorized and "AVIARY_API_KEY" not in message:
        hint = "Give the key with --api-key or AVIARY_API_KEY."
    if kind is ModelNotFound and "aviary models" not in message:
        hint = "See: aviary models"
    return kind(
        message,
        hint=hint,
        param=param if isinstance(param, str) else None,
        retry_after_s=retry_after_s,
    )


def read(data: Any, kind: type[T], url: str) -> T:
    """Data as a shape; raises when what answered at the URL is no Aviary."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise _no_aviary(url, str(error)) from None


def _no_aviary(url: str, reason: str = "") -> AviaryError:
    detail = f" ({reason})" if reason else ""
    return AviaryError(
        f"What answers at {url} is not an Aviary of this version{detail}.",
        hint="Check --url or AVIARY_URL.",
    )


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _kinds(kind: type[AviaryError]) -> dict[str, type[AviaryError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found.update(_kinds(child))
    return found


_KINDS = _kinds(AviaryError)
_BY_STATUS: dict[int, type[AviaryError]] = {401: NotAuthorized, 403: Forbidden}
