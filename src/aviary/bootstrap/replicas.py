"""How the fleet asks single replicas: to sleep, to wake, and how much memory they take."""

from __future__ import annotations

from aviary.core.errors import InvalidRequest
from aviary.core.states import ReplicaView
from aviary.replica.asking import ask_sleep, ask_state, ask_wake
from aviary.wire.client import Client, Target, WireError

CONNECT_S = 1.0
ASK_S = 3.0
SLEEP_S = 60.0
"""Engines write back, unmap and free: large ones take their time."""


class AskedReplicas:
    """Asks by the replicas' own HTTP (implements `aviary.fleet.keeper.Replicas`)."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._client = Client(connect_timeout_s=CONNECT_S)

    async def sleep(self, replica: ReplicaView) -> bool:
        """Free the engine; false when the replica is busy or cannot be asked."""
        try:
            return await ask_sleep(self._client, *_place(replica), self._token, SLEEP_S)
        except (WireError, InvalidRequest):
            return False

    async def wake(self, replica: ReplicaView) -> bool:
        """Begin to load the engine again; false when the replica cannot be asked."""
        try:
            await ask_wake(self._client, *_place(replica), self._token, ASK_S)
        except (WireError, InvalidRequest):
            return False
        return True

    async def memory_bytes(self, replica: ReplicaView) -> int | None:
        """What the replica says that its processes take."""
        try:
            state = await ask_state(self._client, *_place(replica), self._token, ASK_S)
        except (WireError, InvalidRequest):
            return None
        size = state.get("memory_bytes")
        return size if isinstance(size, int) and size > 0 else None

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()


def _place(replica: ReplicaView) -> tuple[Target, str]:
    return Target(replica.host, replica.port, replica.socket), replica.prefix
