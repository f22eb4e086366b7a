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
        requests_url: SQLAlchemy URL of the request log.
        max_body_bytes: Largest request body.
        guard_hosts: Whether, without keys, only this machine's own programs are answered.
        log_level: See `Settings`.
        log_format: See `Settings`.
    """

    listener_fd: int
    control: str
    token: str
    requests_url: str
    max_body_bytes: int
    guard_hosts: bool = True
    log_level: str = "info"
    log_format: str = "console"
