"""`aviary up`: start Aviary here and serve models until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aviary.cli.options import print_json, printable, say
from aviary.cli.tables import Column, one_line, print_table
from aviary.core.states import UNPLACEABLE, ModelState, ModelView, ReplicaState

if TYPE_CHECKING:
    from aviary.bootstrap import Instance, Plan
    from aviary.config.settings import Settings

REFRESH_S = 0.1
DEFAULT_URL = "http://127.0.0.1:8000"
DETAIL_CHARACTERS = 70


def up(
    *,
    specs: list[Path],
    models: Path | None,
    host: str,
    port: int,
    workers: int,
    backend: str,
    address: str | None,
    insecure: bool,
    as_json: bool,
    settings: Settings,
) -> int:
    """Serve the specs (none given: the starter catalog) until a signal; returns the exit status."""
    import uvloop

    from aviary.bootstrap import Plan
    from aviary.config.loader import catalog_dir, load_specs
    from aviary.process.logs import configure_logging

    configure_logging(settings.log_level, settings.log_format)
    paths = [*specs, *([models] if models is not None else [])] or [catalog_dir()]
    plan = Plan(
        specs=load_specs(paths),
        host=host,
        port=port,
        workers=workers,
        backend=backend,
        address=address,
        insecure=insecure,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(plan, settings, as_json))


async def _serve(plan: Plan, settings: Settings, as_json: bool) -> int:
    from aviary.bootstrap import Instance

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    began = time.monotonic()
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(_enter(Instance(plan, settings)))
    await asyncio.wait([stopping, starting], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
        return 130
    instance = starting.result()
    try:
        watching = asyncio.create_task(_show_start(instance, as_json))
        await _first(stopping, watching, instance.failed)
        if watching.done():
            watching.result()
            _announce(instance, time.monotonic() - began, as_json)
            await _first(stopping, instance.failed)
        else:
            watching.cancel()
            await asyncio.wait([watching])
        if instance.failed.done():
            instance.failed.result()
        if not as_json:
            say("Stopping…")
    finally:
        stopping.cancel()
        await instance.__aexit__(None, None, None)
    return 0


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _enter(instance: Instance) -> Instance:
    return await instance.__aenter__()


async def _show_start(instance: Instance, as_json: bool) -> None:
    """Show progress until every model is ready or has failed once, and a worker listens."""
    shown = _Terminal() if sys.stderr.isatty() and not as_json else _Lines(quiet=as_json)
    with shown:
        while True:
            views = instance.fleet.snapshot.models
            shown.show(views)
            settled = all(_settled(view) for view in views)
            if settled and instance.worker_ready.is_set():
                return
            await asyncio.sleep(REFRESH_S)


def _settled(view: ModelView) -> bool:
    if view.state is ModelState.READY:
        return True
    return any(
        r.restarts > 0 or r.state is ReplicaState.FAILED or r.detail.startswith(UNPLACEABLE)
        for r in view.replicas
    )


def _doing(view: ModelView) -> str:
    """What the model's replicas do, in words."""
    for state in (ReplicaState.FAILED, ReplicaState.STARTING, ReplicaState.READY):
        for replica in view.replicas:
            if replica.state is state and replica.detail:
                return replica.detail
    return ""


class _Lines:
    """Progress for logs and pipes: a line a change of state."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._states: dict[str, str] = {}

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, views: tuple[ModelView, ...]) -> None:
        if self._quiet:
            return
        for view in views:
            if self._states.get(view.id) != view.state:
                self._states[view.id] = view.state
                detail = _doing(view)
                say(f"{view.id}: {view.state}{f' ({one_line(detail, 200)})' if detail else ''}")


class _Terminal:
    """Progress for people: a table that stays in its place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> None:
        self._live.__enter__()

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, views: tuple[ModelView, ...]) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        for view in views:
            table.add_row(
                Text(view.id),
                Text(str(view.state)),
                Text(one_line(_doing(view), DETAIL_CHARACTERS)),
            )
        self._live.update(table, refresh=True)


def _announce(instance: Instance, took_s: float, as_json: bool) -> None:
    """Say what is served, where, and how to ask it."""
    views = instance.fleet.snapshot.models
    if as_json:
        models: list[dict[str, Any]] = [
            {"id": view.id, "state": view.state, "detail": _doing(view)} for view in views
        ]
        print_json({"url": instance.url, "started_in_s": round(took_s, 2), "models": models})
        sys.stdout.flush()
        return
    rows = [
        [
            view.id,
            str(view.state),
            f"{sum(r.state is ReplicaState.READY for r in view.replicas)}/{view.desired_replicas}",
            view.engine,
            str(view.context_length),
            one_line(_doing(view) if view.state is not ModelState.READY else view.description, 80),
        ]
        for view in views
    ]
    columns = [
        Column("MODEL"),
        Column("STATE"),
        Column("READY", right=True),
        Column("ENGINE"),
        Column("CONTEXT", right=True),
        Column("ABOUT"),
    ]
    print_table(columns, rows)
    ready = [view for view in views if view.state is ModelState.READY]
    ready.sort(key=lambda view: "chat" not in view.tags)  # one that was made to answer, if any
    print(f"\nAviary serves at {instance.url} (ready in {took_s:.1f} s). Stop it with Ctrl-C.")
    if ready:
        where = "" if instance.url == DEFAULT_URL else f" --url {instance.url}"
        model = printable(ready[0].id)
        print(f'Ask it:    aviary query -m {model}{where} "Why do birds sing?"')
    print(f'Use it:    OpenAI(base_url="{instance.url}/v1", api_key="none")')
    print(f"Read it:   {instance.url}/docs")
    sys.stdout.flush()
