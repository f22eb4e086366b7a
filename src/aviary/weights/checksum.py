"""Checksums of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aviary.core.errors import WeightsError
from aviary.weights.disk import CHUNK, disk_errors
from aviary.weights.meter import Meter


class WrongChecksum(WeightsError):
    """The file is not the one that was declared.

    Args:
        what: Address or path, for people.
        expected: The declared SHA-256, hex.
        found: The file's.
        removed: Whether the wrong file was removed.
    """

    def __init__(self, what: str, expected: str, found: str, *, removed: bool) -> None:
        end = "it was removed" if removed else "it was left as it is"
        super().__init__(
            f"{what}: wrong checksum: expected sha256 {expected}, the file has {found}; {end}.",
            hint="Either the file changed at its source, or source.sha256 is not its checksum.",
        )


def sha256_of(path: Path, meter: Meter) -> str:
    """SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with disk_errors(path, "reading"), path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            meter.add(len(chunk))
    return digest.hexdigest()
