"""One generation request through the gateway: its life, from key to answer.

Only what routing needs is decoded from the request body; the rest passes on unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic, perf_counter
from typing import Any

import msgspec
import structlog

from aviary.auth.hosts import HostGuard, check_site
from aviary.auth.keys import VISITOR, KeyRing
from aviary.core.errors import AviaryError, Crashed, EngineError, TimedOut
from aviary.core.ports import RequestRecord
from aviary.core.states import KeyView
from aviary.gateway.answering import Answer, ReplicaDied
from aviary.gateway.asked import check_length, peek, request_id
from aviary.gateway.metrics import Metrics
from aviary.gateway.record import CLIENT_LEFT_STATUS, Note
from aviary.gateway.running import RunningBattles
from aviary.routing.balancer import Endpoint, eject, restore, take_report
from aviary.routing.table import Route, Table
from aviary.wire.asgi import (
    CLIENT_HEADER,
    CONTINUE_HEADER,
    LOAD_HEADER,
    TOKEN_HEADER,
    ClientLeft,
    Leaving,
    Receive,
    Scope,
    Send,
    find_header,
    read_body,
)
from aviary.wire.client import (
    Client,
    ConnectFailed,
    Response,
    Target,
    UpstreamLost,
    UpstreamSilent,
)

log = structlog.get_logger()

MOST_LOST_REPLICAS = 2
SILENCE_MARGIN_S = 30.0


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
        battles: Those that run now.
    """

    table: Table
    ring: KeyRing
    client: Client
    token: bytes
    record: Callable[[RequestRecord], None]
    max_body_bytes: int
    guard: HostGuard | None = None
    metrics: dict[str, Metrics] = field(default_factory=dict)
    battles: RunningBattles = field(default_factory=RunningBattles)

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

    def identify_or_welcome(self, scope: Scope) -> KeyView | None:
        """Whose request it is, on routes that visitors may use: `VISITOR` when no key was sent.

        Raises:
            NotAuthorized: the key is not good, or there is none and visitors are not welcome.
            Forbidden: a stranger's web page sends it through a visitor's browser.
        """
        headers = scope["headers"]
        sent = any(find_header(headers, name) for name in (b"authorization", b"x-api-key"))
        if sent or self.ring.is_open or self.ring.is_locked or not self.table.snapshot.visitors:
            return self.identify(scope)
        check_site(
            find_header(headers, b"host"),
            find_header(headers, b"origin"),
            find_header(headers, b"sec-fetch-site"),
        )
        return VISITOR

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
    """One generation request and its answer.

    Args:
        state: The worker's state.
        path: OpenAI route.
        scope: The request.
        receive: Its body, then the client's leaving.
        send: Takes the answer.
        visitors: Whether it may come without a key where visitors are welcome.
    """

    __slots__ = (
        "_answer",
        "_client",
        "_extensions",
        "_failed",
        "_lost",
        "_note",
        "_path",
        "_receive",
        "_send",
        "_state",
        "_visitors",
    )

    def __init__(
        self,
        state: GatewayState,
        path: str,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        visitors: bool = False,
    ) -> None:
        self._state = state
        self._visitors = visitors
        self._path = path
        self._receive = receive
        self._send = send
        self._extensions: dict[str, Any] = scope.get("extensions") or {}
        self._note = Note(request_id(scope), path)
        self._answer = Answer(self._note, send, self._extensions, strip_usage=True, keep=False)
        self._client = b""
        self._failed: set[str] = set()
        self._lost = 0

    async def run(self, scope: Scope) -> None:
        """Serve the request; never raises for what client, replica or engine do wrong."""
        leaving: Leaving | None = None
        state, note = self._state, self._note
        try:
            state.check_hosts(scope)
            welcome = state.identify_or_welcome if self._visitors else state.identify
            note.key = welcome(scope)
            if note.key is None or not note.key.id:
                note.client = pseudonym(client_of(None, scope), state.token)
            self._client = client_of(note.key, scope)
            check_length(scope["headers"], state.max_body_bytes)
            body = await read_body(self._receive, state.max_body_bytes)
            note.received = perf_counter()
            fields = peek(body)
            note.asked, note.stream = fields.model or "", bool(fields.stream)
            route = state.table.route(note.asked)
            note.view = route.view
            self._answer = Answer(
                note,
                self._send,
                self._extensions,
                strip_usage=not fields.wants_usage,
                keep=route.view.continue_streams,
            )
            metrics = state.metrics_of(note.model)
            leaving = Leaving(scope, self._receive)
            metrics.in_flight += 1
            try:
                await self._serve(route, body, metrics)
            finally:
                metrics.in_flight -= 1
        except ClientLeft:
            note.status = CLIENT_LEFT_STATUS
        except asyncio.CancelledError:
            if leaving is None or not leaving.left:
                raise
            leaving.swallow()
            note.status = CLIENT_LEFT_STATUS
        except AviaryError as error:
            await self._answer.fail(error)
        except Exception as error:
            log.exception("request failed", request_id=note.request_id)
            await self._answer.fail(EngineError(f"Aviary failed: {type(error).__name__}."))
        finally:
            if leaving is not None:
                leaving.stop()
            note.close(state.metrics_of(note.model), state.record)

    async def _serve(self, route: Route, body: bytes, metrics: Metrics) -> None:
        """Have the request answered, by another replica when one dies of it or during it."""
        answer = self._answer
        seam: bytes = b""
        while True:
            if answer.started:
                with answer.alive():
                    endpoint, response = await self._open(route, body, metrics, seam)
                metrics.continued += 1
            else:
                endpoint, response = await self._open(route, body, metrics)
            try:
                if response.header(b"content-type").startswith(b"text/event-stream"):
                    await answer.stream(response)
                else:
                    await answer.whole(response)
            except ReplicaDied as died:
                if answer.started and await answer.complete():
                    return
                self._lose(endpoint, died)
                if answer.started:
                    given = answer.take_up(body)
                    seam = b"" if given is None else msgspec.json.encode(given)
                    log.info("stream goes on elsewhere", request_id=self._note.request_id)
                metrics.retries += 1
            else:
                restore(endpoint)
                return
            finally:
                endpoint.outstanding -= 1
                response.close()

    def _lose(self, endpoint: Endpoint, cause: Exception) -> None:
        """Note that a replica died while it worked on this request.

        Raises:
            Crashed: it is the second one. There is no third try, lest the request kills them all.
        """
        eject(endpoint, monotonic())
        self._failed.add(endpoint.id)
        self._lost += 1
        if self._lost >= MOST_LOST_REPLICAS:
            raise Crashed(
                f"Two replicas of {self._note.model} died while they computed this answer.",
                hint="It is not tried again.",
            ) from cause

    async def _open(
        self, route: Route, body: bytes, metrics: Metrics, seam: bytes = b""
    ) -> tuple[Endpoint, Response]:
        """Send the request to a replica, and to another one when that one cannot be had.

        Args:
            route: The model's endpoints.
            body: The client's request.
            metrics: The model's.
            seam: What the client has of the answer already, for the replica.

        Returns:
            Who answers, with this request among its outstanding ones, and the answer.
        """
        state, note = self._state, self._note
        deadline = monotonic() + route.view.wait_s
        silence_s = route.view.wait_s + route.view.timeout_s + SILENCE_MARGIN_S
        headers = [
            (b"content-type", b"application/json"),
            (TOKEN_HEADER, state.token),
            (CLIENT_HEADER, self._client),
            (b"x-request-id", note.request_id),
        ]
        while True:
            endpoint = await route.acquire(deadline, self._failed, admitted=self._lost > 0)
            note.replica = endpoint.id
            if note.sent is None:
                note.sent = perf_counter()
            opened = False
            try:
                response = await state.client.request(
                    Target(endpoint.host, endpoint.port, endpoint.socket),
                    "POST",
                    endpoint.prefix + self._path,
                    [*headers, (CONTINUE_HEADER, b"%d" % len(seam))] if self._lost else headers,
                    seam + body,
                    silence_s=silence_s,
                )
                take_report(endpoint, response.header(LOAD_HEADER))
                note.sharing = max(1, min(endpoint.reported, endpoint.slots))
                opened = not self._try_elsewhere(route, endpoint, response)
                if opened:
                    return endpoint, response
                response.close()
            except ConnectFailed:
                eject(endpoint, monotonic())
            except UpstreamLost as error:
                self._lose(endpoint, error)
            except UpstreamSilent as error:
                raise TimedOut(f"Replica {endpoint.id} did not answer: {error}.") from error
            finally:
                if not opened:
                    endpoint.outstanding -= 1
            self._failed.add(endpoint.id)
            metrics.retries += 1

    def _try_elsewhere(self, route: Route, endpoint: Endpoint, response: Response) -> bool:
        """Whether another replica may do better: this one is full, or not ready (any more)."""
        if response.status == 503:
            eject(endpoint, monotonic())
            return True
        if response.status != 429:
            return False
        return any(e.id != endpoint.id and e.id not in self._failed for e in route.endpoints)


def client_of(key: KeyView | None, scope: Scope) -> bytes:
    """Whose request it is, as replicas are told: the key's id, without keys the address."""
    if key is not None and key.id:
        return key.id.encode()
    address = scope.get("client")
    return str(address[0]).encode("ascii", "replace") if address else b""


def pseudonym(address: bytes, token: bytes) -> str:
    """What stands for an address in the request log: without the token nobody can tell it from."""
    if not address:
        return ""
    return blake2b(address, key=token[: blake2b.MAX_KEY_SIZE], digest_size=8).hexdigest()
