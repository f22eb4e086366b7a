"""How a gateway worker is told what it needs."""

from __future__ import annotations

from typing import Final

import msgspec

BOOT_ENV: Final = "AVIARY_GATEWAY_BOOT"


class WorkerBoot(msgspec.Struct):
    """Sent as JSON in the environment.

    Attributes:
        listener_fd: The inherited listening socket.
        control: Path of the control process's Unix socket.
        token: The cluster's internal token.
    """

    listener_fd: int
    control: str
    token: str
