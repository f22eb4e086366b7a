"""How a gateway worker is told what it needs."""

from __future__ import annotations

from typing import Final

import msgspec

from aviary.wire.client import Target

BOOT_ENV: Final = "AVIARY_GATEWAY_BOOT"


class WorkerBoot(msgspec.Struct):
    """Sent as JSON in the environment.

    Attributes:
        listener_fd: The inherited listening socket.
        token: The cluster's internal token.
        requests_url: SQLAlchemy URL of the request log.
        max_body_bytes: Largest request body.
        control: Path of the control process's Unix socket; empty when it is on another machine.
        control_host: Its address then.
        control_port: Its port then.
        last_snapshot: File with the last snapshot, for a start while the control process on another
            machine is away; empty: there is none.
        guard_hosts: Whether, without keys, only this machine's own programs are answered.
        open_without_keys: Whether everybody may come in while the control process knows no key; see
            `keys_to_publish`.
        log_level: See `Settings`.
        log_format: See `Settings`.
    """

    listener_fd: int
    token: str
    requests_url: str
    max_body_bytes: int
    control: str = ""
    control_host: str = ""
    control_port: int = 0
    last_snapshot: str = ""
    guard_hosts: bool = True
    open_without_keys: bool = True
    log_level: str = "info"
    log_format: str = "console"

    @property
    def control_target(self) -> Target:
        """Where the control process listens."""
        return Target(self.control_host, self.control_port, self.control)
