"""The local backend: replicas as supervised child processes of the control process.

Each replica has a process group of its own and a life line to its parent, so that nothing stays
behind however the parent ends. A replica that dies, or does not start, is replaced with back-off.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import structlog

from aviary.backends.logbook import Logbook
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import DoesNotFit, NotAvailable
from aviary.core.states import ReplicaState, ReplicaView
from aviary.process.child import Backoff, Child
from aviary.process.environment import inherited
from aviary.replica.boot import BOOT_ENV, ReplicaBoot

log = structlog.get_logger()

DRAIN_S = 30.0
"""For the answers of a model that is stopped."""
LONG_DRAIN_S = 3600.0
"""For those of a replica that others replace: nobody waits for its end."""
STOP_S = 2.5
NOTICE_S = 0.3
"""Time for gateways to hear that a replica stops, before it does."""
CAUSE_LINES = 3
GB = 1e9


class _Place:
    """One replica's place: the process in it, and its successors."""

    def __init__(self, owner: LocalBackend, spec: ModelSpec, logbook: Logbook) -> None:
        self.spec = spec
        self.view = self._fresh(0)
        self._owner = owner
        self._logbook = logbook
        self._child: Child | None = None
        self._stopping = False
        self._backoff = Backoff()
        self._socket = owner.socket_path()
        self._last_lines: list[str] = []
        self.task = asyncio.create_task(self._run())

    def _fresh(self, restarts: int) -> ReplicaView:
        return ReplicaView(
            id=f"{self.spec.id}/{secrets.token_hex(3)}",
            node=os.uname().nodename,
            since=time.time(),
            restarts=restarts,
            spec_hash=self.spec.hash,
        )

    def _set(self, state: ReplicaState, detail: str, **fields: Any) -> None:
        since = self.view.since if state is self.view.state else time.time()
        self.view = replace(self.view, state=state, detail=detail, since=since, **fields)
        self._owner.notify()

    async def _run(self) -> None:
        """Keep the place filled until it is given up."""
        loop = asyncio.get_running_loop()
        while not self._given_up():
            began = loop.time()
            self._last_lines = []
            try:
                self._child = await Child.spawn(
                    [sys.executable, "-m", "aviary.replica"],
                    env=self._owner.replica_env(self.spec, self._socket),
                    on_line=self._on_line,
                    on_event=self._on_event,
                )
                self._set(ReplicaState.STARTING, "starting", pid=self._child.pid)
                code = await self._child.wait()
                cause = _describe_exit(code)
                self._socket.unlink(missing_ok=True)
            except OSError as error:
                cause = f"cannot start a process: {error}"
            if self._given_up():
                break
            failed = self.view.state is ReplicaState.FAILED
            detail = self.view.detail if failed else self._with_last_words(cause)
            delay_s = self._backoff.next_delay_s(loop.time() - began)
            log.warning("replica ended", replica=self.view.id, cause=detail, retry_in_s=delay_s)
            self._set(ReplicaState.FAILED, detail, socket="", pid=0, progress=None)
            await asyncio.sleep(delay_s)
            if not self._given_up():
                self.view = self._fresh(self.view.restarts + 1)
                self._owner.notify()
        self._set(ReplicaState.STOPPED, "", socket="", pid=0)

    @property
    def leaving(self) -> bool:
        """Whether it is given up; until its answers have ended it is still there."""
        return self._stopping

    def _given_up(self) -> bool:
        return self._stopping

    def _with_last_words(self, cause: str) -> str:
        words = " | ".join(line[:200] for line in self._last_lines[-CAUSE_LINES:])
        return f"{cause}; last words: {words}" if words else cause

    def _on_line(self, line: str) -> None:
        self._last_lines = [*self._last_lines[-(CAUSE_LINES - 1) :], line]
        self._logbook.add(self.view.id, line)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("event") == "listening":
            self._set(self.view.state, self.view.detail, socket=str(event["socket"]))
            return
        state = ReplicaState(event["state"])
        if self._stopping or state in (ReplicaState.STOPPING, ReplicaState.STOPPED):
            return
        self._set(state, str(event.get("detail", "")), progress=event.get("progress"))
        if state is ReplicaState.FAILED and self._child is not None:
            self._owner.keep(asyncio.create_task(self._child.stop(STOP_S)))

    def give_up(self) -> None:
        """Count as leaving from now on; `stop` must follow."""
        if not self._stopping:
            self._stopping = True
            self._set(ReplicaState.STOPPING, "draining")

    async def stop(self, drain_s: float) -> None:
        """Let running answers end, then end the process and give up the place.

        May be called again, to drain for a shorter time.
        """
        self.give_up()
        if drain_s > STOP_S:
            await asyncio.sleep(NOTICE_S)
        if self._child is not None and self._child.returncode is None:
            await self._child.stop(drain_s)
        else:
            self.task.cancel()
        await asyncio.wait([self.task])


class LocalBackend:
    """A `Backend` on this machine. See `aviary.core.ports.Backend`."""

    def __init__(self, settings: Settings, *, token: str, runtime: Path) -> None:
        self._settings = settings
        self._token = token
        self._runtime = runtime
        self._specs: dict[str, ModelSpec] = {}
        self._places: dict[str, list[_Place]] = {}
        self._rolls: dict[str, asyncio.Task[None]] = {}
        self._logbooks: dict[str, Logbook] = {}
        self._listeners: list[Callable[[], None]] = []
        self._background: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Nothing to get ready."""

    def socket_path(self) -> Path:
        """Where a new replica listens: in the instance's folder, which nobody else may enter."""
        return self._runtime / f"r-{secrets.token_hex(4)}.sock"

    def replica_env(self, spec: ModelSpec, socket: Path) -> dict[str, str]:
        """Environment of a replica process."""
        settings = self._settings
        boot = ReplicaBoot(
            spec=spec.model_dump(mode="json"),
            token=self._token,
            weights=str(settings.weights_dir),
            runtime=str(self._runtime),
            listen=str(socket),
            max_body_bytes=settings.max_body_mb * 1024 * 1024,
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
        environment = {
            **inherited(),
            BOOT_ENV: msgspec.json.encode(boot).decode(),
            "PYTHONUNBUFFERED": "1",
        }
        environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
        if spec.resources.gpus == 0:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        return environment

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each change."""
        self._listeners.append(changed)

    def notify(self) -> None:
        """Tell the listeners."""
        for listener in self._listeners:
            listener()

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Hold a background task until it is done."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def check(self, spec: ModelSpec, replicas: int) -> None:
        """Whether the spec could run here; see `check_placeable`."""
        check_placeable(spec, replicas)

    async def deploy(self, spec: ModelSpec, replicas: int) -> None:
        """Run the spec; replicas of an older version leave when the new ones are ready.

        Raises:
            NotAvailable: it asks for what this backend does not place.
            DoesNotFit: it asks for more memory than this machine has.
        """
        self.check(spec, replicas)
        logbook = self._logbooks.get(spec.id)
        if logbook is None:
            logbook = self._logbooks[spec.id] = Logbook(self._settings.log_dir, spec.id)
        self._specs[spec.id] = spec
        places = self._places.setdefault(spec.id, [])
        staying = [place for place in places if not place.leaving]
        old = [place for place in staying if place.spec.hash != spec.hash]
        current = [place for place in staying if place.spec.hash == spec.hash]
        for place in current:
            place.spec = spec
        new = [_Place(self, spec, logbook) for _ in range(max(0, replicas - len(current)))]
        places.extend(new)
        before = self._rolls.pop(spec.id, None)
        if before is not None:
            before.cancel()  # what it waited for is not wanted any more
        self._drain_surplus(spec.id, current, replicas)
        if old:
            roll = asyncio.create_task(self._roll(spec.id, old, current[:replicas] + new))
            self._rolls[spec.id] = roll
            self.keep(roll)
        self.notify()

    async def _roll(self, model: str, old: list[_Place], new: list[_Place]) -> None:
        """Stop the old replicas once all new ones are ready, unless those leave, too."""
        while True:
            staying = [place for place in new if not place.leaving]
            if new and not staying:
                return  # superseded or removed
            if all(place.view.state is ReplicaState.READY for place in staying):
                break
            await asyncio.sleep(0.05)
        for place in old:
            place.give_up()
        self.keep(asyncio.create_task(self._leave(model, old, LONG_DRAIN_S)))

    def _drain_surplus(self, model: str, staying: list[_Place], replicas: int) -> None:
        """Let those go that are too many; those that serve nobody yet go first."""
        surplus = len(staying) - replicas
        if surplus <= 0:
            return
        staying.sort(key=lambda p: p.view.state is not ReplicaState.READY)
        leaving = staying[replicas:]
        for place in leaving:
            place.give_up()
        self.keep(asyncio.create_task(self._leave(model, leaving, LONG_DRAIN_S)))

    async def scale(self, model: str, replicas: int) -> None:
        """Add or drain replicas; those that stay are not touched."""
        spec = self._specs.get(model)
        if spec is None:
            return  # removed in the meantime
        places = self._places.setdefault(model, [])
        staying = [place for place in places if not place.leaving]
        for _ in range(replicas - len(staying)):
            places.append(_Place(self, spec, self._logbooks[model]))
        self._drain_surplus(model, staying, replicas)
        self.notify()

    async def _leave(self, model: str, places: list[_Place], drain_s: float) -> None:
        await asyncio.gather(*(place.stop(drain_s) for place in places))
        remaining = self._places.get(model, [])
        remaining[:] = [place for place in remaining if place not in places]
        self.notify()

    async def remove(self, model: str) -> None:
        """Drain and stop the replicas that the model has now; those deployed later stay."""
        self._specs.pop(model, None)
        roll = self._rolls.pop(model, None)
        if roll is not None:
            roll.cancel()
        places = list(self._places.get(model, []))
        for place in places:
            place.give_up()
        # A caller that is gone must not leave half of it behind.
        removing = asyncio.create_task(self._remove(model, places))
        self.keep(removing)
        await asyncio.shield(removing)

    async def _remove(self, model: str, places: list[_Place]) -> None:
        await self._leave(model, places, DRAIN_S)
        if not self._places.get(model) and model not in self._specs:
            self._places.pop(model, None)
            logbook = self._logbooks.pop(model, None)
            if logbook is not None:
                logbook.close()
        self.notify()

    def replicas(self, model: str) -> tuple[ReplicaView, ...]:
        """The model's replicas as known now."""
        return tuple(place.view for place in self._places.get(model, []))

    def logs(self, model: str, lines: int) -> list[str]:
        """The last log lines of the model's replicas."""
        logbook = self._logbooks.get(model)
        return logbook.feed.last(lines) if logbook is not None else []

    async def follow_logs(self, model: str, lines: int) -> AsyncGenerator[str, None]:
        """The last lines, then each new one."""
        logbook = self._logbooks.get(model)
        if logbook is None:
            return
        async for line in logbook.feed.follow(lines):
            yield line

    async def stop(self) -> None:
        """Stop every replica, soon."""
        places = [place for places in self._places.values() for place in places]
        await asyncio.gather(*(place.stop(STOP_S) for place in places))
        for task in list(self._background):
            task.cancel()
        if self._background:
            await asyncio.wait(list(self._background))
        self._places.clear()
        self._specs.clear()
        for logbook in self._logbooks.values():
            logbook.close()
        self._logbooks.clear()


def check_placeable(spec: ModelSpec, replicas: int) -> None:
    """Whether this machine can hold the replicas, as far as the spec says what they need.

    Raises:
        NotAvailable: GPUs or several nodes are asked for.
        DoesNotFit: more memory than the machine has is asked for.
    """
    resources = spec.resources
    if resources.gpus > 0 or resources.accelerator or resources.nodes > 1:
        raise NotAvailable(
            f"{spec.id}: the local backend of this version places no GPUs and one node only.",
            hint="Set resources.gpus to 0 and resources.nodes to 1, and leave out "
            "resources.accelerator; or use --backend ray.",
            param="resources",
        )
    if resources.memory_gb is None:
        return
    import psutil

    memory = psutil.virtual_memory()
    wanted_gb, total_gb = resources.memory_gb * replicas, memory.total / GB
    if wanted_gb > total_gb:
        raise DoesNotFit(
            f"{spec.id}: {replicas} replicas of resources.memory_gb {resources.memory_gb:g} are "
            f"{wanted_gb:g} GB; this machine has {total_gb:.1f} GB.",
            hint="Ask for fewer replicas, or serve a smaller model or quantization.",
            param="resources.memory_gb",
        )
    if wanted_gb > memory.available / GB:
        log.warning(
            "the model may not fit the free memory",
            model=spec.id,
            wanted_gb=wanted_gb,
            free_gb=round(memory.available / GB, 1),
        )


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"its process ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    likely = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{likely}"
