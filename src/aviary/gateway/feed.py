"""A worker's line to the control plane: the stream of snapshots, with wishes to stop a column."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from aviary.core.errors import NotAuthorized
from aviary.core.preference import Stop
from aviary.core.states import Snapshot
from aviary.wire.asgi import SNAPSHOTS_PATH, TOKEN_HEADER
from aviary.wire.client import Client, Target, UpstreamLost, WireError
from aviary.wire.feedlines import STOP, read_stop_line

log = structlog.get_logger()

RETRY_S = 0.2
SILENCE_S = 15.0
"""The control plane sends a sign of life more often than this."""
LINE_LIMIT_BYTES = 64 * 1024 * 1024


def _ignore(stop: Stop) -> None:
    """For who runs no battles."""


async def follow_snapshots(
    client: Client,
    control: Target,
    token: bytes,
    take: Callable[[Snapshot], None],
    stop: Callable[[Stop], object] = _ignore,
) -> None:
    """Hand every snapshot of the control plane to `take`, for ever; reconnect when cut.

    Wishes to stop a column go to `stop`.

    While the control plane cannot be reached, the worker goes on with what it has.
    """
    while True:
        try:
            await _follow_once(client, control, token, take, stop)
        except WireError as error:
            log.debug("no line to the control plane", error=str(error))
        except Exception:  # whatever it was, keys and endpoints must go on being followed
            log.exception("a snapshot could not be taken")
        await asyncio.sleep(RETRY_S)


async def check_line(client: Client, control: Target, token: bytes) -> None:
    """Whether the control plane answers, and lets us follow it.

    Raises:
        NotAuthorized: the token is not its own.
        WireError: it does not answer, or is no control plane.
    """
    headers = [(TOKEN_HEADER, token)]
    response = await client.request(control, "GET", SNAPSHOTS_PATH, headers, silence_s=SILENCE_S)
    response.close()
    if response.status == 401:
        raise NotAuthorized(
            f"The control process at {control} does not know this token.",
            hint="Take the one of its home folder: cluster.token.",
        )
    if response.status != 200:
        raise UpstreamLost(f"it answered {response.status}", sent=True)


def keep_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write a snapshot to a file, whole or not at all. Blocking.

    Raises:
        OSError: it could not be written.
    """
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(snapshot))
    new.replace(path)


def kept_snapshot(path: Path) -> Snapshot:
    """What `keep_snapshot` wrote. Blocking.

    Raises:
        OSError: there is none.
        msgspec.DecodeError: it is none.
    """
    return msgspec.json.decode(path.read_bytes(), type=Snapshot)


async def _follow_once(
    client: Client,
    control: Target,
    token: bytes,
    take: Callable[[Snapshot], None],
    stop: Callable[[Stop], object],
) -> None:
    headers = [(TOKEN_HEADER, token)]
    response = await client.request(control, "GET", SNAPSHOTS_PATH, headers, silence_s=SILENCE_S)
    try:
        if response.status != 200:
            raise UpstreamLost(f"the control plane answered {response.status}", sent=True)
        rest = b""
        while data := await response.read():
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > LINE_LIMIT_BYTES:
                raise UpstreamLost("a snapshot is absurdly large", sent=True)
            for line in lines:
                if line.startswith(STOP):
                    stop(read_stop_line(line))
                elif line:
                    take(msgspec.json.decode(line, type=Snapshot))
    finally:
        response.close()
