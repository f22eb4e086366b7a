"""A replica's life: start, prove, probe, sleep, wake, stop. See the picture in `core.states`.

Every change of state is made here, in one event loop, and told to `on_state`. What is slow
(loading, unloading) runs in tasks, one after the other: a wake that is asked for while the engine
is still falling asleep waits for that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from aviary.config.spec import ModelSpec
from aviary.core.errors import AviaryError, EngineError, Overloaded, StartFailed, TimedOut
from aviary.core.ports import READINESS, Engine, EngineRequest, Progress
from aviary.core.states import ReplicaState
from aviary.process.memory import give_back_memory
from aviary.replica.prepare import prepare

HEALTH_EVERY_S = 5.0
HEALTH_DEADLINE_S = 10.0
HEALTH_FAILURES = 3
"""After so many failed probes in a row the replica counts as failed and gets replaced."""
START_DEADLINE_S = 3600.0
"""Longest start or wake: weights may have to come over the network."""
SLEEP_DEADLINE_S = 30.0
"""Longest time an engine may take to free what it holds; past it the replica counts as failed."""

log = structlog.get_logger()

OnState = Callable[[ReplicaState, str, float | None], None]
"""Called with each change: state, words, done fraction."""


class Busy(Overloaded):
    """The replica cannot sleep now: requests run or wait, or it is not ready.

    Told to the control plane only, never to clients.
    """

    code = "replica_busy"
    status = 409


class Lifecycle:
    """The states of one replica and of its engine.

    Args:
        spec: What it serves.
        engine: Made, not started.
        is_busy: Whether any request runs or waits here.
        on_state: Told of each change.

    Attributes:
        state: Where the replica is in its life.
        detail: Progress or a cause, in words.
        progress: Done fraction of a start or wake, when known.
        since: Unix time in seconds of the last change of state.
    """

    def __init__(
        self,
        spec: ModelSpec,
        engine: Engine,
        *,
        is_busy: Callable[[], bool],
        on_state: OnState | None = None,
    ) -> None:
        self.state = ReplicaState.STARTING
        self.detail = ""
        self.progress: float | None = None
        self.since = time.time()
        self._spec = spec
        self._engine = engine
        self._is_busy = is_busy
        self._on_state = on_state
        self._rises = 0
        self._riser: asyncio.Task[None] | None = None
        self._sleeper: asyncio.Task[None] | None = None
        self._prober: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start in the background; that ends in the state ready or failed."""
        self._riser = asyncio.create_task(self._rise(self._engine.start, "", "started"))

    async def sleep(self) -> None:
        """Let the engine free what it can; returns when it has. May be called again.

        From its first moment on no request is let in. It goes on when the caller is cancelled.

        Raises:
            Busy: a request runs or waits, or the replica is neither ready nor asleep.
            EngineError: the engine could not fall asleep; the replica has failed.
        """
        if self.state is not ReplicaState.SLEEPING:
            if self.state is not ReplicaState.READY:
                raise Busy(f"This replica of {self._spec.id} is {self.state}.")
            if self._is_busy():
                raise Busy(f"Requests run or wait in this replica of {self._spec.id}.")
            self._set(ReplicaState.SLEEPING, "going to sleep")
            self._sleeper = asyncio.create_task(self._fall_asleep())
        if self._sleeper is not None:
            await asyncio.wait([self._sleeper])
        self._check_asleep()

    def _check_asleep(self) -> None:
        if self.state is ReplicaState.FAILED:
            raise EngineError(self.detail)
        if self.state is not ReplicaState.SLEEPING:
            raise Busy(f"This replica of {self._spec.id} is {self.state} again.")

    def wake(self) -> None:
        """Begin to wake the engine, which ends in the state ready or failed. May be called again.

        Raises:
            Busy: the replica has failed or stops.
        """
        if self.state in (ReplicaState.STARTING, ReplicaState.READY):
            return
        if self.state is not ReplicaState.SLEEPING:
            raise Busy(f"This replica of {self._spec.id} is {self.state}.")
        self._set(ReplicaState.STARTING, "waking")
        self._riser = asyncio.create_task(self._wake_up())

    async def probe(self) -> None:
        """Ask the engine for a sign of life; raises `EngineError` when none comes in time."""
        try:
            async with asyncio.timeout(HEALTH_DEADLINE_S):
                await self._engine.healthy()
        except TimeoutError:
            raise TimedOut("The engine did not answer its probe in time.") from None

    async def stop(self) -> None:
        """Free the engine, in whatever state it is."""
        self._set(ReplicaState.STOPPING, "")
        for task in (self._riser, self._sleeper, self._prober):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self._engine.stop()
        self._set(ReplicaState.STOPPED, "")

    async def _rise(
        self, load: Callable[[Progress], Awaitable[None]], prefix: str, verb: str
    ) -> None:
        """Load the engine and prove that it generates."""
        loop = asyncio.get_running_loop()
        self._rises += 1
        rise = self._rises

        def progress(text: str, fraction: float | None) -> None:
            loop.call_soon_threadsafe(self._tell, rise, prefix + text, fraction)

        began = time.monotonic()
        try:
            async with asyncio.timeout(START_DEADLINE_S) as limit:
                await load(progress)
                progress("first generation", None)
                await self._prove()
        except Exception as error:
            late = TimedOut(f"{self._spec.id} was not {verb} within {START_DEADLINE_S:g} s.")
            self._fail(f"not {verb}", late if limit.expired() else error)
        else:
            await asyncio.sleep(0)  # let queued progress calls run before the final state
            seconds = time.monotonic() - began
            self._set(ReplicaState.READY, f"{verb} in {seconds:.1f} s")
            log.info("ready", model=self._spec.id, how=verb, seconds=round(seconds, 2))
            self._prober = asyncio.create_task(self._keep_probing())

    async def _wake_up(self) -> None:
        if self._sleeper is not None:
            await asyncio.wait([self._sleeper])
        if self.state is ReplicaState.STARTING:  # it may have failed to fall asleep
            await self._rise(self._engine.wake, "waking: ", "woken")

    async def _fall_asleep(self) -> None:
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait([self._prober])
        began = time.monotonic()
        try:
            async with asyncio.timeout(SLEEP_DEADLINE_S) as limit:
                await self._engine.sleep()
                await asyncio.to_thread(give_back_memory)
        except Exception as error:
            late = TimedOut(f"The engine did not fall asleep within {SLEEP_DEADLINE_S:g} s.")
            self._fail("not asleep", late if limit.expired() else error)
        else:
            log.info("asleep", model=self._spec.id, seconds=round(time.monotonic() - began, 2))
            if self.state is ReplicaState.SLEEPING:
                self._set(ReplicaState.SLEEPING, "asleep")

    async def _keep_probing(self) -> None:
        """Probe the engine now and then; fail after several failures in a row."""
        failures = 0
        while self.state is ReplicaState.READY:
            await asyncio.sleep(HEALTH_EVERY_S)
            try:
                await self.probe()
            except Exception as error:
                failures += 1
                cause = str(error) if isinstance(error, AviaryError) else repr(error)
                log.warning("probe failed", model=self._spec.id, failures=failures, error=cause)
                if failures >= HEALTH_FAILURES:
                    detail = f"{failures} health probes in a row failed: {cause}"
                    self._set(ReplicaState.FAILED, detail)
            else:
                failures = 0

    async def _prove(self) -> None:
        """One short generation: readiness means that this worked."""
        embeddings = getattr(self._spec.engine, "embeddings", False)
        path = "/v1/embeddings" if embeddings else "/v1/chat/completions"
        messages = [{"role": "user", "content": "Hi"}]
        body = {"input": "Hi"} if embeddings else {"messages": messages, "max_tokens": 1}
        response = await self._engine.generate(
            EngineRequest(path, prepare(self._spec, path, body), READINESS)
        )
        try:
            answer = b"".join([piece async for piece in response.body])
        finally:
            await response.body.aclose()
        if response.status != 200 or not answer:
            raise StartFailed(f"The readiness generation failed: {answer[:300]!r}")

    def _tell(self, rise: int, text: str, fraction: float | None) -> None:
        """Take a word of progress, unless it comes after that start or wake has ended."""
        if rise == self._rises and self.state is ReplicaState.STARTING:
            self._set(ReplicaState.STARTING, text, fraction)

    def _fail(self, what: str, error: Exception) -> None:
        if isinstance(error, AviaryError):
            self._set(ReplicaState.FAILED, str(error))
            log.warning(what, model=self._spec.id, error=str(error), code=error.code)
        else:
            self._set(ReplicaState.FAILED, f"{type(error).__name__}: {error}")
            log.error(what, model=self._spec.id, exc_info=error)

    def _set(self, state: ReplicaState, detail: str, fraction: float | None = None) -> None:
        """Change the state. What has failed can only stop, and what stops only have stopped."""
        if self.state is ReplicaState.FAILED and state is not ReplicaState.STOPPING:
            return
        if self.state is ReplicaState.STOPPING and state is not ReplicaState.STOPPED:
            return
        if state is not self.state:
            self.since = time.time()
        self.state, self.detail, self.progress = state, detail, fraction
        if self._on_state is not None:
            self._on_state(state, detail, fraction)
