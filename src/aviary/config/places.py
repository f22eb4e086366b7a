"""Where a process that runs an engine keeps files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Places(Protocol):
    """Folders an engine needs; `Settings` has them."""

    @property
    def weights_dir(self) -> Path:
        """The content-addressed weight cache."""

    @property
    def runtime(self) -> Path:
        """For sockets; short."""


@dataclass(frozen=True, slots=True)
class FixedPlaces:
    """Folders that were decided elsewhere."""

    weights_dir: Path
    runtime: Path
