"""The way to one Ray: a driver at a time, and what an earlier Aviary left at the other end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from pathlib import Path

import structlog

from aviary.backends.ray_app import Names
from aviary.backends.ray_session import RayLost, Session, owner_of, short_folder
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import StartFailed
from aviary.process.child import Backoff

log = structlog.get_logger()

TRIES = 3
DRIVER = "_ray"
"""Name of the driver's log; no model can have it."""
LEAVE_CLUSTER_S = 6.0
CLAIM_S = 15.0
"""What an earlier Aviary left running in a cluster waits so long to be deployed again."""


class Link:
    """Starts a Ray, or joins one; again when the driver has ended.

    Args:
        settings: This installation's settings.
        token: The internal token of this Aviary.
        runtime: Folder for the files of a Ray started here; short.
        address: The cluster to join; `None` starts a Ray on this machine.
        outlast: See `RayBackend`.
        on_line: Called with what the driver prints.

    Attributes:
        session: The present session; `None` when there is none.
        owner: Part of the names of all our applications.
        names: Makes those names.
        joined: Whether the Ray is somebody else's.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        token: str,
        runtime: Path,
        address: str | None,
        outlast: bool,
        on_line: Callable[[str], None],
    ) -> None:
        self.session: Session | None = None
        self.owner = owner_of(settings.home)
        self.names = Names(self.owner, token)
        self.joined = address is not None
        self._settings = settings
        self._runtime = runtime
        self._address = address
        self._outlast = outlast and self.joined
        self._on_line = on_line
        self._unclaimed: set[str] = set()
        self._backoff = Backoff()
        self._opened_at = 0.0

    async def open(self) -> None:
        """Start Ray, or join it; on a busy machine that may take more than one try.

        Raises:
            StartFailed: it did not, or the cluster has several nodes and the store is SQLite.
        """
        cause = ""
        for attempt in range(TRIES):
            try:
                await self._take_stock(await self._connect())
            except (RayLost, OSError) as error:
                cause = str(error)
                log.warning("Ray did not start", attempt=attempt + 1, cause=cause[:500])
                await self.close()
            else:
                return
        what = f"join Ray at {self._address}" if self._address else "start Ray"
        raise StartFailed(
            f"Cannot {what}: {cause}",
            hint=f"Its log is {self._settings.log_dir / f'{DRIVER}.log'}.",
        )

    async def reopen(self, ours: Callable[[], Collection[str]]) -> None:
        """After the driver has ended: another one, after a growing pause.

        Args:
            ours: Tells the names of the applications that stay in a joined cluster.

        Raises:
            RayLost: it did not start.
            OSError: likewise.
        """
        delay_s = self._backoff.next_delay_s(time.monotonic() - self._opened_at)
        log.warning("the Ray driver has ended", restart_in_s=delay_s)
        await self.close()
        await asyncio.sleep(delay_s)
        session = await self._connect()
        if self.joined:
            await session.clear(self.owner, 0.0, {*ours(), *self._unclaimed})

    async def _connect(self) -> Session:
        self.session = session = Session(
            folder=short_folder(self._runtime, self.owner),
            address=self._address,
            outlast=self._outlast,
            on_line=self._on_line,
        )
        await session.start()
        self._opened_at = time.monotonic()
        return session

    async def _take_stock(self, session: Session) -> None:
        """Of a joined cluster: may we, and what did an earlier Aviary leave when it was killed?"""
        if not self.joined:
            return
        nodes = len(await session.ask("nodes"))
        if nodes > 1:
            self._settings.require_shared_store(
                f"The Ray cluster at {self._address} has {nodes} nodes, and several nodes need a "
                "store that all of them can reach",
                f"aviary up --backend ray --address {self._address}",
            )
        if self._outlast:
            left = await session.ask("look", owner=self.owner)
            self._unclaimed = {name for name, app in left.items() if app["status"] != "DELETING"}
        await session.clear(self.owner, 0.0, self._unclaimed)

    def claim(self, spec: ModelSpec) -> str | None:
        """Take over an application that an earlier Aviary left and that serves just this spec."""
        name = self.names.find(spec, self._unclaimed)
        if name is not None:
            self._unclaimed.discard(name)
        return name

    async def drop_unclaimed(self, session: Session) -> None:
        """Delete what nobody has claimed for a while.

        Raises:
            RayLost: Ray could not be told.
        """
        if self._unclaimed and time.monotonic() - self._opened_at > CLAIM_S:
            await session.ask("delete", names=list(self._unclaimed))
            self._unclaimed.clear()

    async def leave(self, *, in_use: bool) -> None:
        """Close; a joined cluster stays, without our applications.

        Args:
            in_use: Whether anything was deployed. If not, the start has failed, and what an earlier
                Aviary left goes on until one succeeds.
        """
        if self.session is not None and self.joined:
            staying = set() if in_use else self._unclaimed
            try:
                await self.session.clear(self.owner, LEAVE_CLUSTER_S, staying)
            except RayLost as error:
                log.warning("left the cluster without clearing up", cause=str(error)[:500])
        await self.close()

    async def close(self) -> None:
        """End the driver, and a Ray that was started here."""
        session, self.session = self.session, None
        if session is not None:
            await session.stop()
