"""The endpoint table of one gateway worker: the control plane's snapshot plus what it sees itself.

Endpoints keep what the worker learned about them (load, failures) from one snapshot to the next.
Requests that find no endpoint wait here, a bounded number, until one comes up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from time import monotonic

from aviary.core.errors import ModelNotFound, Overloaded, Unavailable
from aviary.core.states import ModelView, ReplicaState, Snapshot
from aviary.routing.balancer import Endpoint, choose

SHOWN_MODELS = 8
RETRY_AFTER_S = 5.0


def _nobody() -> None:
    """Nobody wants to know which requests wait."""


class Route:
    """One model's endpoints in this worker."""

    __slots__ = ("_changed", "_on_hold", "endpoints", "held", "removed", "view")

    def __init__(self, view: ModelView, on_hold: Callable[[], None] = _nobody) -> None:
        self.view = view
        self._on_hold = on_hold
        self.endpoints: list[Endpoint] = []
        self.held = 0
        self.removed = False
        self._changed = asyncio.Event()

    def update(self, view: ModelView) -> None:
        """Take a new view of the model; wake requests that wait."""
        known = {endpoint.id: endpoint for endpoint in self.endpoints}
        self.view = view
        self.endpoints = [
            known.get(replica.id)
            or Endpoint(
                id=replica.id,
                host=replica.host,
                port=replica.port,
                socket=replica.socket,
                prefix=replica.prefix,
                slots=view.slots,
            )
            for replica in view.replicas
            if replica.state is ReplicaState.READY and replica.reachable and not view.asleep
        ]
        self.wake()

    def wake(self) -> None:
        """Let waiting requests look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def acquire(
        self, deadline_s: float, exclude: Collection[str] = (), *, admitted: bool = False
    ) -> Endpoint:
        """An endpoint to ask; waits for one until the deadline (clock of `monotonic`).

        Args:
            deadline_s: When to give up.
            exclude: Ids of replicas not to ask at once.
            admitted: The request had a replica already, which died in the middle of its answer. It
                waits however many others do: there are never more such than were being answered.

        Raises:
            Overloaded: too many requests wait for this model already.
            Unavailable: no endpoint became ready in time.
            ModelNotFound: the model was removed while the request waited.
        """
        endpoint = choose(self.endpoints, monotonic(), random.random, exclude)
        if endpoint is None:
            endpoint = await self._hold(deadline_s, admitted)
        endpoint.outstanding += 1
        return endpoint

    async def _hold(self, deadline_s: float, admitted: bool) -> Endpoint:
        view = self.view
        if self.held >= max(1, view.queue) and not admitted:
            raise Overloaded(
                f"Model {view.id} has no ready replica, and {self.held} requests wait for one.",
                hint="Try again later.",
                retry_after_s=view.wake_s or RETRY_AFTER_S,
            )
        self.held += 1
        self._on_hold()
        try:
            while True:
                if self.removed:
                    raise ModelNotFound(f"The model {view.id!r} was stopped.", param="model")
                now = monotonic()
                remaining_s = deadline_s - now
                if remaining_s <= 0:
                    raise Unavailable(
                        f"Model {view.id} has no ready replica: {describe(self.view)}.",
                        hint=f"Waited {view.wait_s:g} s; see `aviary status`.",
                        retry_after_s=self.view.wake_s or RETRY_AFTER_S,
                    )
                ejected = [e.ejected_until - now for e in self.endpoints if e.ejected_until > now]
                pause_s = min([remaining_s, *ejected]) + 0.001
                try:
                    async with asyncio.timeout(pause_s):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                # A replica that failed this request may be asked again once it has come back.
                endpoint = choose(self.endpoints, monotonic(), random.random)
                if endpoint is not None:
                    return endpoint
        finally:
            self.held -= 1


class Table:
    """All models of this worker.

    Attributes:
        snapshot: What it was told last.
        on_hold: Called whenever a request begins to wait for a replica.
    """

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.on_hold: Callable[[], None] = _nobody
        self._routes: dict[str, Route] = {}

    def update(self, snapshot: Snapshot) -> None:
        """Take a snapshot of the control plane."""
        routes: dict[str, Route] = {}
        for view in snapshot.models:
            route = self._routes.get(view.id) or Route(view, lambda: self.on_hold())
            route.update(view)
            routes[view.id] = route
        gone = [route for name, route in self._routes.items() if name not in routes]
        self.snapshot = snapshot
        self._routes = routes
        for route in gone:
            route.endpoints = []
            route.removed = True
            route.wake()

    def route(self, model: str) -> Route:
        """The model's route.

        Raises:
            ModelNotFound: there is no such model; the message names some that are.
        """
        route = self._routes.get(model)
        if route is None:
            known = ", ".join(list(self._routes)[:SHOWN_MODELS]) or "none"
            shown = model if len(model) <= 100 else model[:100] + "…"
            raise ModelNotFound(
                f"The model {shown!r} does not exist here.",
                hint=f"Models: {known}.",
                param="model",
            )
        return route

    @property
    def routes(self) -> Collection[Route]:
        """All routes, in order of declaration."""
        return self._routes.values()


def describe(view: ModelView) -> str:
    """The state of a model's replicas in words."""
    if view.asleep:
        return "it rests, and did not wake in time"
    if not view.replicas:
        return "none is running"
    parts = []
    for replica in view.replicas[:4]:
        # Why one failed may be nobody's business but the administrator's: it stands in the logs.
        tells = replica.detail and replica.state is ReplicaState.STARTING
        detail = f" ({replica.detail})" if tells else ""
        parts.append(f"{replica.state}{detail}")
    return "; ".join(parts)
