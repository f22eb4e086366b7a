"""What the web app needs of the process it runs in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from aviary.core.ports import Backend
from aviary.core.preference import Ballots
from aviary.core.states import KeyView
from aviary.core.traffic import Range, Traffic
from aviary.fleet.fleet import Fleet
from aviary.fleet.keeper import Keeper
from aviary.fleet.load import Load
from aviary.store.figures import Figures


class KeyRow(Protocol):
    """A stored key."""

    @property
    def id(self) -> str:
        """Public name."""

    @property
    def name(self) -> str:
        """What it is for."""

    @property
    def role(self) -> str:
        """`admin` or `user`."""

    @property
    def created(self) -> float:
        """Unix time in seconds."""

    @property
    def revoked(self) -> float | None:
        """Unix time in seconds, when revoked."""


class KeyStore(Protocol):
    """Keeps API keys."""

    def create(self, name: str, role: str, hash: str, id: str) -> KeyRow:  # noqa: A002
        """Store a key."""

    def list(self) -> Sequence[KeyRow]:
        """All keys, revoked ones included."""

    def revoke(self, id: str) -> KeyRow:  # noqa: A002
        """Revoke a key."""

    def active(self) -> tuple[KeyView, ...]:
        """Keys that are good now."""


class Observed(Protocol):
    """Figures that are looked up when asked for."""

    async def loads(self) -> Mapping[str, Load]:
        """Per id of a replica that answers: what it does now."""

    async def totals(self) -> Mapping[str, Mapping[str, float]]:
        """Per model: what the request log adds up to."""

    async def figures(self, models: Sequence[str], since: float) -> Mapping[str, Figures]:
        """Per model: what the request log says of its answers since a unix time."""

    async def traffic(self, shown: Range, model: str | None) -> Traffic:
        """What the request log's roll-ups say of a range of time; seconds old at most."""

    async def dropped_log_records(self) -> int:
        """Request log records lost by all workers."""

    def dropped_events(self) -> int:
        """Events of the fleet that could not be kept."""

    async def keys_changed(self) -> None:
        """Publish the keys anew, at once."""


@dataclass(frozen=True, slots=True)
class Control:
    """The control process, as the web app uses it.

    Attributes:
        fleet: Desired state and snapshots.
        keeper: Makes what is follow it.
        backend: What runs the replicas.
        backend_name: `local` or `ray`.
        url: Where people reach this Aviary.
        started: Unix time in seconds.
        keys: The key store.
        ballots: Battles and votes.
        observed: Figures.
    """

    fleet: Fleet
    keeper: Keeper
    backend: Backend
    backend_name: str
    url: str
    started: float
    keys: KeyStore
    ballots: Ballots
    observed: Observed
