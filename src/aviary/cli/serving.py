"""Runs an Aviary in this process until a signal, and tells people how its start goes."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from aviary.cli.options import print_json, printable, say
from aviary.cli.progress import Step, progress
from aviary.cli.tables import Column, one_line, print_table
from aviary.core.states import UNPLACEABLE, ModelState, ModelView, ReplicaState

if TYPE_CHECKING:
    from aviary.bootstrap import Instance, Plan
    from aviary.config.settings import Settings

REFRESH_S = 0.1
DEFAULT_URL = "http://127.0.0.1:8000"


def serve(plan: Plan, settings: Settings, *, as_json: bool) -> int:
    """Start what the plan says and serve until a signal; returns the exit status."""
    import uvloop

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
    """Show progress until every model is ready, rests or failed once, and a worker listens."""
    with progress(quiet=as_json) as shown:
        while True:
            views = instance.fleet.snapshot.models
            shown.show([Step(view.id, view.state, _doing(view)) for view in views])
            settled = all(_settled(view) for view in views)
            if settled and instance.worker_ready.is_set():
                return
            await asyncio.sleep(REFRESH_S)


def _settled(view: ModelView) -> bool:
    if view.state in (ModelState.READY, ModelState.SLEEPING):
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
    return view.detail


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
