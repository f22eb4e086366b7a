"""`/api/battles`: one prompt, several models, one stream of events; stop and retry of a column.

All of it happens in the worker that the client asked, see docs/adr/0015. The control process stores
what comes of it, and tells the worker that runs a column when it shall stop: docs/adr/0017.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Final

import msgspec

from aviary.arena.asked import read_asked, read_retry, read_stop
from aviary.auth.addresses import network_of
from aviary.auth.keys import VISITOR, require
from aviary.auth.limits import AtOnce, Limits
from aviary.core.errors import AlreadyVoted, InvalidRequest, RouteMissing, Unavailable
from aviary.core.preference import Battle, Found, Stop
from aviary.core.states import KeyView
from aviary.gateway.asked import check_length
from aviary.gateway.contest import Contest
from aviary.gateway.exchange import GatewayState
from aviary.gateway.recorder import Recorder
from aviary.wire.asgi import (
    BATTLES_PATH,
    STOPS_PATH,
    TOKEN_HEADER,
    Leaving,
    Receive,
    Scope,
    Send,
    find_header,
    read_body,
    send_json,
)
from aviary.wire.client import Client, Target, WireError

PATH: Final = "/api/battles"
A_SESSION_PER_MINUTE: Final = 60
AN_ADDRESS_PER_MINUTE: Final = 240
"""Both in each worker, as the following."""
STOPS_A_SESSION_PER_MINUTE: Final = 120
STOPS_AN_ADDRESS_PER_MINUTE: Final = 480
VISITORS_COLUMNS: Final = 24
"""So many columns of a visitor's address, and of a visitor's session, run at once."""
ASK_S: Final = 10.0
SMALL_BODY_BYTES: Final = 65536
VISITORS_BATTLE_BYTES: Final = 262_144
BATTLE_LIMIT_BYTES: Final = 128 * 1024 * 1024
CLOSE_S: Final = 2.0

Serve = Callable[[GatewayState, Scope, Receive, Send], Awaitable[None]]
_RETRY: Final = re.compile(PATH + r"/([A-Za-z0-9_-]{1,64})/retry")
_STOP: Final = re.compile(PATH + r"/([A-Za-z0-9_-]{1,64})/columns/([0-9]{1,3})/stop")
_found = msgspec.json.Decoder(Found)


class Battles:
    """Runs the battles of one worker.

    Args:
        control: Where the control process listens, which stores them.
    """

    def __init__(self, control: Target) -> None:
        self._control = control
        self._recorder = Recorder(control)
        self._limits = Limits(A_SESSION_PER_MINUTE, AN_ADDRESS_PER_MINUTE, "battles")
        self._stops = Limits(STOPS_A_SESSION_PER_MINUTE, STOPS_AN_ADDRESS_PER_MINUTE, "stops")
        self._at_once = AtOnce(VISITORS_COLUMNS, "answers to a visitor")

    async def close(self) -> None:
        """Wait for what is not stored yet, a moment."""
        await self._recorder.close(CLOSE_S)

    def find(self, path: str) -> Serve | None:
        """What serves POST requests to a path; `None`: this is none of ours."""
        if path == PATH:
            return self._begin
        if retry := _RETRY.fullmatch(path):
            return partial(self._retry, retry[1])
        if stop := _STOP.fullmatch(path):
            return partial(self._stop, stop[1], int(stop[2]))
        return None

    async def _begin(self, state: GatewayState, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request for a battle.

        Raises:
            AviaryError: it was refused; nothing was sent.
            ClientLeft: before its request was complete.
        """
        key = _caller(state, scope)
        self._limits.take("", _address(scope), monotonic())
        most_bytes = state.max_body_bytes
        if key is VISITOR:
            most_bytes = min(VISITORS_BATTLE_BYTES, most_bytes)
        check_length(scope["headers"], most_bytes)
        asked = read_asked(await read_body(receive, most_bytes))
        if key is VISITOR and not asked.session:
            raise InvalidRequest("Without a key a session is needed.", param="session")
        self._limits.take(asked.session, "", monotonic())
        if asked.blind:
            secrets.SystemRandom().shuffle(asked.models)
        battle = Battle(
            id=f"bt-{secrets.token_urlsafe(16)}",
            created=time.time(),
            messages=asked.messages,
            system=asked.system,
            blind=asked.blind,
            task=asked.task,
            session=asked.session,
            key="" if key is None else key.id,
            lineup=asked.lineup,
        )
        contest = Contest(state, scope, battle, range(len(battle.lineup)), self._recorder)
        await self._run(key, (state, scope, receive, send), battle, contest, begins=True)

    async def _retry(
        self, identity: str, state: GatewayState, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a request to have columns answered once more."""
        key = _caller(state, scope)
        self._limits.take("", _address(scope), monotonic())
        check_length(scope["headers"], SMALL_BODY_BYTES)
        body = await read_body(receive, SMALL_BODY_BYTES)
        found = await self._find(state, identity)
        battle = found.battle
        asked = read_retry(body, battle)
        self._limits.take(asked.session, "", monotonic())
        if found.votes:
            raise AlreadyVoted("The battle was voted on: its answers stay.", param="battle")
        contest = Contest(state, scope, battle, asked.columns, self._recorder)
        await self._run(key, (state, scope, receive, send), battle, contest, begins=False)

    async def _run(
        self,
        key: KeyView | None,
        request: tuple[GatewayState, Scope, Receive, Send],
        battle: Battle,
        contest: Contest,
        *,
        begins: bool,
    ) -> None:
        """Let columns run while the client listens."""
        state, scope, receive, send = request
        names = []
        if key is VISITOR:
            network = network_of(_address(scope))
            names = [network and f"address {network}", f"session {battle.session}"]
        running = state.battles.hold(battle.id, battle.session, contest.columns)
        with self._at_once.hold(names, len(contest.columns)), running:
            if begins:
                contest.keep_beginning()
            leaving = Leaving(scope, receive)
            try:
                await contest.stream(send)
            except asyncio.CancelledError:
                if not leaving.left:
                    raise
                leaving.swallow()
            finally:
                leaving.stop()

    async def _stop(
        self,
        identity: str,
        column: int,
        state: GatewayState,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Serve a request to stop a column, wherever it runs."""
        _caller(state, scope)
        self._stops.take("", _address(scope), monotonic())
        check_length(scope["headers"], SMALL_BODY_BYTES)
        session = read_stop(await read_body(receive, SMALL_BODY_BYTES)).session
        self._stops.take(session, "", monotonic())
        stop = Stop(identity, column, session)
        if not state.battles.stop(stop):
            await _ask(state, self._control, "POST", STOPS_PATH, msgspec.json.encode(stop))
        await send_json(send, 202, {})

    async def _find(self, state: GatewayState, identity: str) -> Found:
        """The stored battle.

        Raises:
            RouteMissing: there is none.
            Unavailable: the control process does not answer.
        """
        path = f"{BATTLES_PATH}/{identity}"
        status, body = await _ask(state, self._control, "GET", path)
        if status == 404:
            raise RouteMissing(f"There is no battle {identity!r}.", param="battle")
        return _found.decode(body)


def _caller(state: GatewayState, scope: Scope) -> KeyView | None:
    """Whose request it is.

    Raises:
        NotAuthorized: it may not be made.
        InvalidRequest: a visitor's, and not JSON: browsers send other kinds for any page.
    """
    key = state.identify_or_welcome(scope)
    require(key, "visitor")
    if key is VISITOR:
        kind = find_header(scope["headers"], b"content-type") or b""
        if kind.partition(b";")[0].strip().lower() != b"application/json":
            raise InvalidRequest("Without a key the `content-type` must be `application/json`.")
    return key


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


async def _ask(
    state: GatewayState, control: Target, method: str, path: str, body: bytes = b""
) -> tuple[int, bytes]:
    """Ask the control process; the status, which is 200 or 404, and what it says.

    Raises:
        Unavailable: it does not answer, or not well.
    """
    client: Client = state.client
    headers = [(TOKEN_HEADER, state.token), (b"content-type", b"application/json")]
    try:
        async with asyncio.timeout(ASK_S):
            response = await client.request(control, method, path, headers, body, silence_s=ASK_S)
            try:
                data = await response.read_all(BATTLE_LIMIT_BYTES)
            finally:
                response.close()
    except (WireError, TimeoutError) as error:
        raise Unavailable(f"The control process does not answer: {error}.") from error
    if response.status not in (200, 404):
        raise Unavailable(f"The control process answered {response.status}.")
    return response.status, data
