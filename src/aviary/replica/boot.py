"""How a replica process is told what to be."""

from __future__ import annotations

from typing import Final

BOOT_ENV: Final = "AVIARY_REPLICA_BOOT"
"""JSON `{"spec": …, "token": …}`: in the environment, not on the command line that all can read."""
