"""One request through the gateway: the hot path.

Only what routing needs is decoded from the request body; the rest passes on unread. Answers pass as
bytes; looked at are the events up to the first token, and those that carry usage.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Any

import msgspec
import structlog

from aviary.auth.hosts import HostGuard
from aviary.auth.keys import KeyRing
from aviary.core.cost import answer_cost_usd
from aviary.core.errors import (
    AviaryError,
    BodyTooLarge,
    Crashed,
    EngineError,
    InvalidRequest,
    NotAuthorized,
    TimedOut,
)
from aviary.core.ports import RequestRecord
from aviary.core.states import KeyView, ModelView
from aviary.gateway.metrics import Metrics
from aviary.routing.balancer import Endpoint, eject, restore, take_report
from aviary.routing.table import Route, Table
from aviary.wire.asgi import (
    BODY_PIPE,
    LOAD_HEADER,
    TOKEN_HEADER,
    ClientLeft,
    Leaving,
    Receive,
    Scope,
    Send,
    error_body,
    find_header,
    read_body,
    send_bytes,
    send_error,
)
from aviary.wire.client import (
    Client,
    ConnectFailed,
    Response,
    Target,
    UpstreamLost,
    UpstreamSilent,
    WireError,
)
from aviary.wire.server import BodyPipe
from aviary.wire.sse import (
    DONE,
    EventSplitter,
    any_content,
    split_events,
    usage_of_answer,
    usage_of_event,
)

log = structlog.get_logger()

ANSWER_LIMIT_BYTES = 256 * 1024 * 1024
MOST_LOST_REPLICAS = 2
SILENCE_MARGIN_S = 30.0
CLIENT_LEFT_STATUS = 499
BILLED = frozenset({200, CLIENT_LEFT_STATUS})
USAGE = b'"usage"'
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
NOBODY = "(unknown)"

# Unique without asking the kernel for randomness each time: a prefix a process, and a count.
_ID_PREFIX = b"req-" + secrets.token_hex(10).encode()
_ids = itertools.count(1)


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Peek(msgspec.Struct):
    """What the gateway reads of a request body."""

    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


_peek = msgspec.json.Decoder(Peek)


def peek(body: bytes) -> Peek:
    """Decode what routing needs.

    Raises:
        InvalidRequest: the body is empty, not a JSON object, or `model` is missing.
    """
    if not body.strip():
        raise InvalidRequest("The request body is empty; a JSON object is expected.")
    try:
        fields = _peek.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The request body is wrong: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from None
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None
    if not fields.model:
        raise InvalidRequest("model is missing: which model shall answer?", param="model")
    return fields


@dataclass(slots=True)
class GatewayState:
    """What all requests of one worker share; made in the app's lifespan.

    Attributes:
        table: Models and their endpoints.
        ring: Keys; replaced when the snapshot changes.
        client: Connections to replicas.
        token: The cluster's internal token.
        record: Takes a request record for the log; never blocks.
        max_body_bytes: Largest request body.
        guard: Checks who is meant by a request while there are no keys; `None`: nobody checks.
        metrics: Metrics by model.
    """

    table: Table
    ring: KeyRing
    client: Client
    token: bytes
    record: Callable[[RequestRecord], None]
    max_body_bytes: int
    guard: HostGuard | None = None
    metrics: dict[str, Metrics] = field(default_factory=dict)

    def check_hosts(self, scope: Scope) -> None:
        """While there are no keys, refuse what strangers' web pages send through a browser here.

        Raises:
            Forbidden: the request names another machine.
        """
        if self.guard is not None and self.ring.is_open:
            headers = scope["headers"]
            self.guard.check(find_header(headers, b"host"), find_header(headers, b"origin"))

    def identify(self, scope: Scope) -> KeyView | None:
        """Whose request it is; `None` while no key is needed.

        Raises:
            NotAuthorized: no good key was sent.
        """
        headers = scope["headers"]
        return self.ring.identify(
            find_header(headers, b"authorization"), find_header(headers, b"x-api-key")
        )

    def metrics_of(self, model: str) -> Metrics:
        """The model's metrics in this worker."""
        metrics = self.metrics.get(model)
        if metrics is None:
            metrics = self.metrics[model] = Metrics(model)
        return metrics

    def flush_metrics(self) -> None:
        """Bring what Prometheus shows up to date."""
        for route in self.table.routes:
            if route.view.id in self.metrics or route.held:
                self.metrics_of(route.view.id).held = route.held
        for metrics in self.metrics.values():
            metrics.flush()


class Exchange:
    """One generation request and its answer."""

    __slots__ = (
        "_error",
        "_extensions",
        "_key",
        "_model",
        "_path",
        "_peek",
        "_receive",
        "_received",
        "_replica",
        "_request_id",
        "_send",
        "_sent",
        "_sharing",
        "_started",
        "_state",
        "_status",
        "_time",
        "_ttft",
        "_usage",
        "_view",
    )

    def __init__(
        self, state: GatewayState, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._state = state
        self._path = path
        self._receive = receive
        self._send = send
        self._extensions: dict[str, Any] = scope.get("extensions") or {}
        self._request_id = request_id(scope)
        self._time = time.time()
        self._received = perf_counter()
        self._sent: float | None = None
        self._ttft: float | None = None
        self._usage: tuple[int, int] | None = None
        self._peek = Peek()
        self._key: KeyView | None = None
        self._model = NOBODY
        self._replica = ""
        self._sharing = 1
        self._status = 0
        self._error = ""
        self._started = False
        self._view: ModelView | None = None

    async def run(self, scope: Scope) -> None:
        """Serve the request; never raises for what client, replica or engine do wrong."""
        leaving: Leaving | None = None
        try:
            self._state.check_hosts(scope)
            self._key = self._state.identify(scope)
            check_length(scope["headers"], self._state.max_body_bytes)
            body = await read_body(self._receive, self._state.max_body_bytes)
            self._received = perf_counter()
            self._peek = peek(body)
            route = self._state.table.route(self._peek.model or "")
            self._view = route.view
            self._model = route.view.id
            metrics = self._state.metrics_of(self._model)
            leaving = Leaving(scope, self._receive)
            metrics.in_flight += 1
            try:
                await self._serve(route, body, metrics)
            finally:
                metrics.in_flight -= 1
        except ClientLeft:
            self._status = CLIENT_LEFT_STATUS
        except asyncio.CancelledError:
            if leaving is None or not leaving.left:
                raise
            leaving.swallow()
            self._status = CLIENT_LEFT_STATUS
        except AviaryError as error:
            await self._fail(error)
        except Exception as error:
            log.exception("request failed", request_id=self._request_id)
            await self._fail(EngineError(f"Aviary failed: {type(error).__name__}."))
        finally:
            if leaving is not None:
                leaving.stop()
            self._log()

    async def _fail(self, error: AviaryError) -> None:
        """Tell the client: by status when nothing was sent, else by an error event at the end."""
        self._error = error.code
        if self._started:
            if self._peek.stream:
                event = b"data: " + error_body(error) + b"\n\n"
                await self._send({"type": "http.response.body", "body": event, "more_body": False})
            self._status = error.status
            return
        self._status = error.status
        await send_error(self._send, error, self._own_headers())

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", self._request_id)]
        if self._model != NOBODY:
            headers.append((b"x-aviary-model", self._model.encode()))
        if self._replica:
            headers.append((b"x-aviary-replica", self._replica.encode()))
        if self._sent is not None:
            overhead_ms = (self._sent - self._received) * 1000.0
            headers.append((b"x-aviary-overhead-ms", b"%.3f" % overhead_ms))
        return headers

    async def _serve(self, route: Route, body: bytes, metrics: Metrics) -> None:
        endpoint, response = await self._open(route, body, metrics)
        try:
            content_type = response.header(b"content-type")
            if content_type.startswith(b"text/event-stream"):
                await self._stream(response, endpoint)
            else:
                await self._whole(response, endpoint)
            restore(endpoint)
        finally:
            endpoint.outstanding -= 1
            response.close()

    async def _open(self, route: Route, body: bytes, metrics: Metrics) -> tuple[Endpoint, Response]:
        """Send the request to a replica, and to another one when that one cannot be had.

        What failed before the first byte of an answer is tried elsewhere; a request that has lost
        two replicas while they computed is not tried a third time, lest it kills them all.
        """
        state = self._state
        deadline = monotonic() + route.view.wait_s
        silence_s = route.view.wait_s + route.view.timeout_s + SILENCE_MARGIN_S
        headers = [
            (b"content-type", b"application/json"),
            (TOKEN_HEADER, state.token),
            (b"x-request-id", self._request_id),
        ]
        failed: set[str] = set()
        lost = 0
        while True:
            endpoint = await route.acquire(deadline, failed)
            self._replica = endpoint.id
            if self._sent is None:
                self._sent = perf_counter()
            try:
                response = await state.client.request(
                    Target(endpoint.host, endpoint.port),
                    "POST",
                    endpoint.prefix + self._path,
                    headers,
                    body,
                    silence_s=silence_s,
                )
            except ConnectFailed:
                endpoint.outstanding -= 1
                eject(endpoint, monotonic())
            except UpstreamLost as error:
                endpoint.outstanding -= 1
                eject(endpoint, monotonic())
                lost += 1
                if lost >= MOST_LOST_REPLICAS:
                    raise Crashed(
                        f"Two replicas of {route.view.id} died while they computed this answer.",
                        hint="It is not tried again.",
                    ) from error
            except UpstreamSilent as error:
                endpoint.outstanding -= 1
                raise TimedOut(f"Replica {endpoint.id} did not answer: {error}.") from error
            except BaseException:
                endpoint.outstanding -= 1
                raise
            else:
                report = response.header(LOAD_HEADER)
                take_report(endpoint, report)
                self._sharing = max(1, min(endpoint.reported, endpoint.slots))
                if not self._try_elsewhere(route, endpoint, response, failed):
                    return endpoint, response
                endpoint.outstanding -= 1
                response.close()
            failed.add(endpoint.id)
            metrics.retries += 1

    @staticmethod
    def _try_elsewhere(
        route: Route, endpoint: Endpoint, response: Response, failed: set[str]
    ) -> bool:
        """Whether another replica may do better: this one is full, or not ready (any more)."""
        if response.status not in (429, 503):
            return False
        others = [e for e in route.endpoints if e.id != endpoint.id and e.id not in failed]
        if response.status == 503:
            eject(endpoint, monotonic())
            return True
        return bool(others)

    async def _stream(self, response: Response, endpoint: Endpoint) -> None:
        """Pass a streamed answer on."""
        options = self._peek.stream_options
        strip_usage = not (options is not None and options.include_usage)
        send = self._send
        splitter = EventSplitter()
        self._status = response.status
        self._started = True
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [
                    (b"content-type", response.header(b"content-type")),
                    (b"cache-control", b"no-cache"),
                    (b"x-accel-buffering", b"no"),
                    *self._own_headers(),
                ],
            }
        )
        pipe: BodyPipe | None = self._extensions.get(BODY_PIPE)
        tail = b""

        def look(data: bytes) -> bytes:
            """The whole events in what has come, less what the client shall not see."""
            nonlocal tail
            events = splitter.feed(data)
            if not events:
                return events
            tail = events[-len(DONE) :]
            if self._ttft is None and any_content(events):
                self._ttft = perf_counter() - self._received
            if USAGE in events:
                return self._take_usage(events, strip_usage)
            return events

        try:
            if pipe is not None:
                write = pipe.write
                last = await response.pump(lambda data: write(look(data)), pipe.drained)
            else:
                last = await self._copy(response, look)
        except UpstreamSilent as error:
            raise TimedOut(f"Replica {endpoint.id} fell silent: {error}.") from error
        except WireError as error:
            eject(endpoint, monotonic())
            raise Crashed(f"Replica {endpoint.id} died in the middle of its answer.") from error
        body = look(last) + splitter.rest()
        if tail != DONE:  # the replica's last event says what went wrong
            self._status, self._error = EngineError.status, EngineError.code
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _copy(self, response: Response, look: Callable[[bytes], bytes]) -> bytes:
        """Pass pieces on by plain ASGI, on a server without our body pipe."""
        while not response.at_end:
            events = look(await response.read())
            if events:
                await self._send({"type": "http.response.body", "body": events, "more_body": True})
        return b""

    def _take_usage(self, events: bytes, strip: bool) -> bytes:
        """Note reported usage; leave out the event made only for it when nobody asked."""
        kept = []
        for event in split_events(events):
            usage, only = usage_of_event(event)
            if usage is not None:
                self._usage = (usage.prompt_tokens, usage.completion_tokens)
            if not (only and strip):
                kept.append(event)
        return b"".join(kept)

    async def _whole(self, response: Response, endpoint: Endpoint) -> None:
        """Pass an answer on that is one JSON document."""
        try:
            body = await response.read_all(ANSWER_LIMIT_BYTES)
        except UpstreamSilent as error:
            raise TimedOut(f"Replica {endpoint.id} fell silent: {error}.") from error
        except WireError as error:
            eject(endpoint, monotonic())
            raise Crashed(f"Replica {endpoint.id} died before its answer.") from error
        self._status = response.status
        if response.status == 200:
            self._ttft = perf_counter() - self._received
            usage = usage_of_answer(body)
            if usage is not None:
                self._usage = (usage.prompt_tokens, usage.completion_tokens)
        else:
            self._error = error_code(body)
        headers = [(b"content-type", response.header(b"content-type")), *self._own_headers()]
        retry_after = response.header(b"retry-after")
        if retry_after:
            headers.append((b"retry-after", retry_after))
        self._started = True
        await send_bytes(self._send, response.status, body, headers)

    def _log(self) -> None:
        """Count the request and hand its record to the log."""
        now = perf_counter()
        latency_s = now - self._received
        overhead_s = None if self._sent is None else self._sent - self._received
        metrics = self._state.metrics_of(self._model)
        metrics.finished(
            self._path,
            self._status,
            latency_s=latency_s,
            time_to_first_token_s=self._ttft,
            overhead_s=overhead_s,
        )
        prompt_tokens = completion_tokens = None
        if self._usage is not None:
            prompt_tokens, completion_tokens = self._usage
            metrics.prompt_tokens += prompt_tokens
            metrics.completion_tokens += completion_tokens
        cost = None
        if self._view is not None and self._sent is not None and self._status in BILLED:
            cost = answer_cost_usd(
                self._view,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                busy_s=now - self._sent,
                sharing=self._sharing,
            )
            if cost is not None:
                metrics.cost_usd += cost
        if self._error == NotAuthorized.code:
            return  # counted above; strangers shall not fill the disk
        self._state.record(
            RequestRecord(
                id=self._request_id.decode("ascii"),
                time=self._time,
                route=self._path,
                model=self._model if self._model != NOBODY else (self._peek.model or "")[:256],
                replica=self._replica,
                key=self._key.id if self._key is not None else "",
                status=self._status,
                error=self._error,
                stream=bool(self._peek.stream),
                time_to_first_token_ms=None if self._ttft is None else self._ttft * 1000.0,
                latency_ms=latency_s * 1000.0,
                overhead_ms=None if overhead_s is None else overhead_s * 1000.0,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                cost_usd=cost,
            )
        )


def request_id(scope: Scope) -> bytes:
    """The client's `x-request-id` when it is harmless, else a new one."""
    given = find_header(scope["headers"], b"x-request-id")
    if given is not None and REQUEST_ID.fullmatch(given):
        return given
    return b"%s%x" % (_ID_PREFIX, next(_ids))


def check_length(headers: list[tuple[bytes, bytes]], limit_bytes: int) -> None:
    """Refuse a body that says to be too large before any of it is read."""
    length = find_header(headers, b"content-length")
    if length is not None and length.isdigit() and int(length) > limit_bytes:
        raise BodyTooLarge(
            f"The request body has {int(length)} bytes; this server accepts {limit_bytes}.",
            hint="Send less, or raise AVIARY_MAX_BODY_MB.",
        )


class _ErrorCode(msgspec.Struct):
    code: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorCode | None = None


def error_code(body: bytes) -> str:
    """The code in an OpenAI error body, for the log."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except msgspec.MsgspecError:
        return "unknown"
    return str(error.code) if error is not None and error.code is not None else "unknown"
