"""The composition root: everything one running Aviary consists of, put together and taken down.

The control process (this one) owns fleet, backend and web app, and supervises the gateway workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import msgspec
import structlog

from aviary.auth.bind import check_bind, is_loopback
from aviary.auth.keys import keys_to_publish
from aviary.backends.local import LocalBackend
from aviary.backends.logbook import Logbook
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import AviaryError, NotAvailable, SpecError, StartFailed
from aviary.core.ports import Backend
from aviary.fleet.fleet import Fleet
from aviary.gateway.boot import BOOT_ENV, WorkerBoot
from aviary.process.child import Backoff, Child, keep_running
from aviary.wire.asgi import TOKEN_HEADER
from aviary.wire.client import Client, Target, WireError

if TYPE_CHECKING:
    from aviary.store.keys import SqlKeys
    from aviary.store.requests import SqlRequestLog
    from aviary.web.app import ControlApp

log = structlog.get_logger()

PREFIX = "aviary-run-"
SOCKET_PATH_LIMIT_BYTES = 100
KEYS_EVERY_S = 0.5
TOTALS_FOR_S = 1.0
PROBE_S = 1.0
WORKER_STOP_S = 2.0
CONTROL_STOP_S = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start.

    Attributes:
        specs: The models.
        host: Address the gateway binds.
        port: Its port; 0 takes a free one.
        workers: Gateway workers.
        backend: `local` or `ray`.
        address: The Ray cluster to join; `None` starts one here.
        insecure: Bind beyond loopback without an admin key.
    """

    specs: Sequence[ModelSpec]
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 2
    backend: str = "local"
    address: str | None = None
    insecure: bool = False


class Instance:
    """One running Aviary. `async with Instance(plan, settings) as instance: …`."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self._plan = plan
        self._settings = settings
        self._token = secrets.token_urlsafe(32)
        self._exits = contextlib.AsyncExitStack()
        self._workers: dict[int, Child] = {}
        self._ready_workers: set[int] = set()
        self.worker_ready = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.url = ""
        self.fleet: Fleet

    async def __aenter__(self) -> Instance:
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def _start(self) -> None:
        """Bring up everything, in the order in which each part needs the one before."""
        plan, settings, exits = self._plan, self._settings, self._exits
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        exits.enter_context(_only_one(settings.home))
        open_without_keys = plan.insecure or is_loopback(plan.host)
        keys = None if open_without_keys else await self._open_keys()
        listener = exits.enter_context(_listen(plan.host, plan.port))
        self.url = _url(plan.host, listener.getsockname()[1])
        runtime = exits.enter_context(_runtime_folder(settings.runtime))
        (runtime / "metrics").mkdir()

        # Children first: database and web framework are imported here while those load.
        backend = make_backend(plan, settings, self._token, runtime)
        self.fleet = Fleet(backend)
        exits.push_async_callback(backend.stop)
        await backend.start()
        for spec in plan.specs:
            await self.fleet.apply(spec)
        if keys is None:
            keys = await self._open_keys()
        publish = _KeyPublisher(keys, self.fleet, open_without_keys)
        await publish.now()
        observed = _Observed(self.fleet, self._settings, self._token, runtime, publish.now)
        exits.push_async_callback(observed.close)
        app = await asyncio.to_thread(self._make_app, backend, keys, observed)
        await self._serve_control(app, runtime)
        self._background(publish.poll())
        self._start_workers(listener, runtime)

    async def _open_keys(self) -> SqlKeys:
        """Open the key store; refuse to listen beyond this machine without an admin key."""

        def open_keys() -> tuple[SqlKeys, bool]:
            from aviary.store.keys import SqlKeys

            keys = SqlKeys.open(self._settings.store_url("state"))
            return keys, any(key.role == "admin" for key in keys.active())

        keys, has_admin_key = await asyncio.to_thread(open_keys)
        self._exits.callback(keys.close)
        check_bind(self._plan.host, has_admin_key, self._plan.insecure)
        return keys

    def _make_app(self, backend: Backend, keys: SqlKeys, observed: _Observed) -> ControlApp:
        from aviary.web.app import ControlApp
        from aviary.web.ports import Control

        control = Control(
            fleet=self.fleet,
            backend=backend,
            backend_name=self._plan.backend,
            url=self.url,
            started=time.time(),
            keys=keys,
            observed=observed,
        )
        return ControlApp(control, self._token)

    async def _serve_control(self, app: ControlApp, runtime: Path) -> None:
        control = socket.socket(socket.AF_UNIX)
        control.bind(str(runtime / "control.sock"))
        control.listen(512)
        from aviary.wire.server import server

        serving = server(app, drain_s=CONTROL_STOP_S, handle_signals=False)
        task = asyncio.create_task(serving.serve(sockets=[control]))

        async def stop() -> None:
            serving.should_exit = True
            await asyncio.wait([task], timeout=2 * CONTROL_STOP_S)
            task.cancel()
            await asyncio.wait([task])
            control.close()

        self._exits.push_async_callback(stop)

    def _background(self, work: Any) -> None:
        """Run something until the end; its failure ends this Aviary, visibly."""
        task = asyncio.create_task(work)

        def ended(done: asyncio.Task[Any]) -> None:
            if not done.cancelled() and done.exception() is not None and not self.failed.done():
                self.failed.set_exception(done.exception() or RuntimeError())

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])

        task.add_done_callback(ended)
        self._exits.push_async_callback(stop)

    # gateway workers

    def _start_workers(self, listener: socket.socket, runtime: Path) -> None:
        settings = self._settings
        boot = WorkerBoot(
            listener_fd=listener.fileno(),
            control=str(runtime / "control.sock"),
            token=self._token,
            requests_url=settings.store_url("requests"),
            max_body_bytes=settings.max_body_mb * 1024 * 1024,
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
        environment = {
            **os.environ,
            BOOT_ENV: msgspec.json.encode(boot).decode(),
            "PROMETHEUS_MULTIPROC_DIR": str(runtime / "metrics"),
            "PYTHONUNBUFFERED": "1",
        }
        logbook = Logbook(settings.log_dir, "gateway")
        self._exits.callback(logbook.close)
        supervisors = [
            asyncio.create_task(
                self._supervise_worker(index, environment, listener.fileno(), logbook)
            )
            for index in range(max(1, self._plan.workers))
        ]

        async def stop() -> None:
            for supervisor in supervisors:
                supervisor.cancel()
            await asyncio.wait(supervisors)
            await asyncio.gather(*(c.stop(WORKER_STOP_S) for c in self._workers.values()))

        self._exits.push_async_callback(stop)

    async def _supervise_worker(
        self, index: int, environment: Mapping[str, str], listener_fd: int, logbook: Logbook
    ) -> None:
        async def spawn() -> Child:
            def on_event(event: dict[str, Any]) -> None:
                if event.get("event") == "ready":
                    self._ready_workers.add(index)
                    self.fleet.set_workers(len(self._ready_workers))
                    self.worker_ready.set()

            return await Child.spawn(
                [sys.executable, "-m", "aviary.gateway"],
                env=environment,
                on_line=lambda line: logbook.add(f"worker-{index}", line),
                on_event=on_event,
                pass_fds=[listener_fd],
            )

        def on_start(child: Child) -> None:
            self._workers[index] = child

        def on_exit(code: int, delay_s: float) -> None:
            pid = self._workers[index].pid
            self._ready_workers.discard(index)
            self.fleet.set_workers(len(self._ready_workers))
            _forget_metrics(Path(environment["PROMETHEUS_MULTIPROC_DIR"]), pid)
            log.warning("gateway worker ended", status=code, pid=pid, retry_in_s=delay_s)

        await keep_running(spawn, backoff=Backoff(), on_start=on_start, on_exit=on_exit)

    def worker_pids(self) -> list[int]:
        """Process ids of the gateway workers."""
        return [child.pid for child in self._workers.values()]


def make_backend(plan: Plan, settings: Settings, token: str, runtime: Path) -> Backend:
    """The backend the plan names; the one place that chooses.

    Raises:
        NotAvailable: Ray is asked for and not installed.
        SpecError: there is no such backend.
    """
    if plan.backend == "local":
        if plan.address is not None:
            raise SpecError("--address belongs to --backend ray.")
        return LocalBackend(settings, token=token, runtime=runtime)
    if plan.backend == "ray":
        try:
            from aviary.backends.ray import RayBackend
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("ray"):
                raise
            raise NotAvailable(
                "Ray is not installed.", hint="Install it: pip install 'aviary-llm[ray]'."
            ) from error
        return RayBackend(settings, token=token, runtime=runtime, address=plan.address)
    raise SpecError(f"There is no backend {plan.backend!r}.", hint="Backends: local, ray.")


class _KeyPublisher:
    """Hands the stored keys to the fleet: at once when asked, and when another process changed."""

    def __init__(self, keys: SqlKeys, fleet: Fleet, open_without_keys: bool) -> None:
        self._keys = keys
        self._fleet = fleet
        self._open_without_keys = open_without_keys

    async def now(self) -> None:
        active = await asyncio.to_thread(self._keys.active)
        self._fleet.set_keys(keys_to_publish(active, open_without_keys=self._open_without_keys))

    async def poll(self) -> None:
        """`aviary keys` writes to the database directly; notice that within a second."""
        version = ""
        while True:
            try:
                latest = await asyncio.to_thread(self._keys.version)
                if latest != version:
                    await self.now()
                    version = latest
            except AviaryError as error:
                log.warning("cannot read the keys; those known stay good", error=str(error))
            await asyncio.sleep(KEYS_EVERY_S)


class _Observed:
    """Figures looked up on demand: replicas' load, the log's totals, lost records."""

    def __init__(
        self,
        fleet: Fleet,
        settings: Settings,
        token: str,
        runtime: Path,
        publish_keys: Callable[[], Any],
    ) -> None:
        self._fleet = fleet
        self._url = settings.store_url("requests")
        self._token = token
        self._metrics = runtime / "metrics"
        self._publish_keys = publish_keys
        self._client = Client(connect_timeout_s=PROBE_S)
        self._log: SqlRequestLog | None = None
        self._lock = asyncio.Lock()
        self._totals: Mapping[str, Mapping[str, float]] = {}
        self._totals_at = 0.0

    async def loads(self) -> dict[str, tuple[int, int]]:
        """Per model: running and waiting, over the replicas that answer."""
        models = self._fleet.snapshot.models
        replicas = [(m.id, r) for m in models for r in m.replicas if r.port]
        states = await asyncio.gather(
            *(self._state(Target(r.host, r.port), r.prefix) for _, r in replicas)
        )
        loads: dict[str, tuple[int, int]] = {}
        for (model, _), state in zip(replicas, states, strict=True):
            running, waiting = loads.get(model, (0, 0))
            more = (int(state.get("running", 0)), int(state.get("waiting", 0)))
            loads[model] = (running + more[0], waiting + more[1])
        return loads

    async def _state(self, target: Target, prefix: str) -> Mapping[str, Any]:
        headers = [(TOKEN_HEADER, self._token.encode())]
        try:
            response = await self._client.request(
                target, "GET", prefix + "/internal/state", headers, silence_s=PROBE_S
            )
            try:
                body = await response.read_all(1024 * 1024)
            finally:
                response.close()
            state = msgspec.json.decode(body)
        except (WireError, msgspec.DecodeError):
            return {}
        return state if isinstance(state, dict) else {}

    async def totals(self) -> Mapping[str, Mapping[str, float]]:
        """What the request log adds up to; a second old at most."""
        async with self._lock:
            if time.monotonic() - self._totals_at > TOTALS_FOR_S:
                self._totals = await asyncio.to_thread(self._read_totals)
                self._totals_at = time.monotonic()
        return self._totals

    def _read_totals(self) -> Mapping[str, Mapping[str, float]]:
        from aviary.store.requests import SqlRequestLog

        if self._log is None:
            self._log = SqlRequestLog.open(self._url)
        return self._log.totals()

    async def dropped_log_records(self) -> int:
        """Sum over all workers, from their metric files."""
        return await asyncio.to_thread(_read_dropped, self._metrics)

    async def keys_changed(self) -> None:
        """Publish the keys anew."""
        await self._publish_keys()

    async def close(self) -> None:
        """Close connections and the log."""
        await self._client.close()
        if self._log is not None:
            await asyncio.to_thread(self._log.close)


def _read_dropped(folder: Path) -> int:
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    if not folder.is_dir():
        return 0
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    value = registry.get_sample_value("aviary_request_log_dropped_records")
    return int(value or 0)


def _forget_metrics(folder: Path, pid: int) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid, path=str(folder))  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _only_one(home: Path) -> Any:
    """One Aviary a home: two would write one state."""
    lock = filelock.FileLock(home / "instance.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StartFailed(
            f"An Aviary runs already with its state in {home}.",
            hint="Stop it, or set AVIARY_HOME to another folder.",
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _listen(host: str, port: int) -> Any:
    """The gateway's listening socket; workers inherit it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=4096)
    except OSError as error:
        raise StartFailed(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            hint="Choose another with --port; 0 takes a free one.",
        ) from error
    listener.set_inheritable(True)
    with listener:
        yield listener


def _url(host: str, port: int) -> str:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


@contextlib.contextmanager
def _runtime_folder(parent: Path) -> Any:
    """A private folder for sockets and metric files; those of dead instances are swept away."""
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.glob(f"{PREFIX}*"):
        lock = filelock.FileLock(old / "lock")
        with contextlib.suppress(OSError, filelock.Timeout):
            lock.acquire(timeout=0)
            shutil.rmtree(old, ignore_errors=True)
            lock.release()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    if len(str(folder / "aviary-xxxxxxxx" / "engine.sock").encode()) > SOCKET_PATH_LIMIT_BYTES:
        folder.rmdir()
        raise StartFailed(
            f"The path {parent} is too long for Unix sockets.",
            hint="Set AVIARY_RUNTIME to a short one such as /tmp.",
        )
    lock = filelock.FileLock(folder / "lock")
    lock.acquire()
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
