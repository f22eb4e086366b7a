"""`aviary gateway`: gateway workers on this machine, for an Aviary on another one."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aviary.cli.options import JsonOption, print_json, say, settings_for
from aviary.core.errors import SpecError

if TYPE_CHECKING:
    from aviary.bootstrap.remote import RemotePlan
    from aviary.config.settings import Settings

_INTERRUPTED = 130


def gateway(
    context: typer.Context,
    join: Annotated[
        str,
        typer.Option(
            "--join",
            help="The control process: what its `aviary up --control` was given.",
            metavar="HOST:PORT",
        ),
    ],
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="File with the cluster's token (else AVIARY_CLUSTER_TOKEN).",
            metavar="FILE",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Gateway processes.")] = 2,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without any key.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Serve the models of an Aviary on another machine at this one, too, until Ctrl-C."""
    from aviary.bootstrap.control import token_from
    from aviary.bootstrap.remote import RemotePlan
    from aviary.process.logs import configure_logging

    settings = settings_for(context)
    configure_logging(settings.log_level, settings.log_format)
    token = token_from(token_file) if token_file is not None else settings.cluster_token
    if not token:
        raise SpecError(
            "The cluster's token is needed.",
            hint="Set AVIARY_CLUSTER_TOKEN, or copy cluster.token of the home folder of the "
            "Aviary to join and name it with --token-file.",
        )
    plan = RemotePlan(join, token, host, port, workers, insecure)
    return _serve(plan, settings, as_json=as_json)


def _serve(plan: RemotePlan, settings: Settings, *, as_json: bool) -> int:
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
