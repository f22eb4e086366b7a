"""`aviary version`: which Aviary this is."""

from __future__ import annotations

import platform

from aviary.cli.options import JsonOption, print_json
from aviary.version import __version__


def version(as_json: JsonOption = False) -> None:
    """Print this program's version."""
    if as_json:
        system = f"{platform.system()} {platform.machine()}"
        print_json({"version": __version__, "python": platform.python_version(), "system": system})
        return
    print(f"aviary {__version__}")
