"""What a child process may know of the environment of its parent."""

from __future__ import annotations

import os

PREFIX = "AVIARY_"


def inherited() -> dict[str, str]:
    """This process's environment without Aviary's own variables.

    Among those are secrets (`AVIARY_API_KEY`, `AVIARY_DATABASE_URL`); a child is told what it needs
    by its boot variable and reads no settings.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
