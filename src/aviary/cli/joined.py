"""Runs a gateway that joined an Aviary elsewhere in this process until a signal."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any

from aviary.cli.options import print_json, say

if TYPE_CHECKING:
    from aviary.bootstrap.remote import RemotePlan
    from aviary.config.settings import Settings

_INTERRUPTED = 130


def serve(plan: RemotePlan, settings: Settings, *, as_json: bool) -> int:
    """Start what the plan says and serve until a signal; returns the exit status."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_signal(plan, settings, as_json))


async def _until_signal(plan: RemotePlan, settings: Settings, as_json: bool) -> int:
    from aviary.bootstrap.remote import RemoteGateway

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait())
    gateway = RemoteGateway(plan, settings)
    starting = asyncio.create_task(gateway.__aenter__())
    await asyncio.wait([stopping, starting], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
        return _INTERRUPTED
    starting.result()
    try:
        ready = asyncio.create_task(gateway.worker_ready.wait())
        ends: list[asyncio.Future[Any]] = [stopping, gateway.failed]
        await asyncio.wait([*ends, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if gateway.worker_ready.is_set():
            _announce(plan, gateway.url, as_json)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if gateway.failed.done():
            gateway.failed.result()
        if not as_json:
            say("Stopping…")
    finally:
        stopping.cancel()
        await gateway.__aexit__(None, None, None)
    return 0


def _announce(plan: RemotePlan, url: str, as_json: bool) -> None:
    if as_json:
        print_json({"url": url, "joined": plan.join})
    else:
        print(f"The gateway serves at {url}, for the Aviary at {plan.join}. Stop it with Ctrl-C.")
    sys.stdout.flush()
