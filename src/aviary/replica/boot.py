"""How a replica process is told what to be."""

from __future__ import annotations

from typing import Any, Final

import msgspec

BOOT_ENV: Final = "AVIARY_REPLICA_BOOT"


class ReplicaBoot(msgspec.Struct):
    """Sent as JSON in the environment: the command line can be read by every user of the machine.

    Attributes:
        spec: The spec, as JSON.
        token: The cluster's internal token.
        weights: The weight cache.
        runtime: Folder for sockets.
        listen: Path of the Unix socket to listen on; not used on Ray, which has its own ways.
        max_body_bytes: Largest request body.
        log_level: See `Settings`.
        log_format: See `Settings`.
    """

    spec: dict[str, Any]
    token: str
    weights: str
    runtime: str
    max_body_bytes: int
    listen: str = ""
    log_level: str = "info"
    log_format: str = "console"
