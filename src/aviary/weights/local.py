"""`file:` addresses: files on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aviary.core.errors import WeightsError
from aviary.core.ports import Progress
from aviary.weights.address import display_name, printable
from aviary.weights.disk import copy_stream, disk_errors, require_space
from aviary.weights.meter import Meter


def file_path(uri: str) -> Path:
    """The absolute path of a `file:` address.

    `file:/folder/name` is taken letter by letter; `file:///folder/my%20name` is a URL, so that
    `%20` there means a space.

    Raises:
        WeightsError: when the path is not absolute or names another machine.
    """
    path = uri.partition(":")[2]
    if path.startswith("//"):
        try:
            parts = urlsplit(f"file:{path}")
        except ValueError as error:
            raise WeightsError(f"{printable(uri)}: not an address: {error}.") from error
        if parts.netloc not in {"", "localhost"}:
            raise WeightsError(
                f"{printable(uri)}: file: names this machine's files only, not those of "
                f"{parts.netloc}.",
                hint="Write file:/absolute/path.",
            )
        path = unquote(parts.path)
    if not os.path.isabs(path) or "\x00" in path:  # noqa: PTH117
        raise WeightsError(
            f"{printable(uri)}: not an absolute path.", hint="Write file:/folder/file."
        )
    return Path(path)


def existing_file(uri: str) -> Path:
    """The path of a `file:` address, when it is a file that can be read.

    Raises:
        WeightsError: when it is not.
    """
    path = file_path(uri)
    with disk_errors(path, "reading"):
        if not path.exists():
            raise WeightsError(
                f"There is no file {path}.", hint="Check the path after file: in the spec."
            )
        if not path.is_file():
            raise WeightsError(f"{path} is not a file; the weights are one file.")
        with path.open("rb"):
            pass
    return path


class FileSource:
    """Copies a file of this machine."""

    def fetch(self, uri: str, target: Path, progress: Progress) -> None:
        """Write the file's bytes to `target`; what is there is replaced."""
        path = existing_file(uri)
        size = path.stat().st_size
        require_space(target, size, path.name)
        meter = Meter(progress, "copying", display_name(uri), size)
        with disk_errors(target, "writing"), path.open("rb") as reader, target.open("wb") as writer:
            copy_stream(reader, writer, meter)
