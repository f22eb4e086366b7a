"""What this process takes of the machine's memory, and giving it back."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

STATM = Path("/proc/self/statm")


def give_back_memory() -> None:
    """Collect garbage, and return what the C library keeps for later to the system.

    On other C libraries than glibc and macOS's it only collects. Blocking, for some ten
    milliseconds: call it in a thread.
    """
    gc.collect()
    library = ctypes.CDLL(None)
    nothing = ctypes.c_size_t(0)
    for name, arguments in (
        ("malloc_trim", (nothing,)),
        ("malloc_zone_pressure_relief", (None, nothing)),
    ):
        release = getattr(library, name, None)
        if release is not None:
            release(*arguments)
            return


def resident_bytes() -> int:
    """Resident set of this process in bytes, shared pages included."""
    try:
        pages = int(STATM.read_text().split()[1])
    except OSError:  # not Linux
        import psutil

        size: int = psutil.Process().memory_info().rss
        return size
    return pages * os.sysconf("SC_PAGE_SIZE")
