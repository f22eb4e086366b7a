"""Giving memory back to the system: what was freed stays in the allocator's hands otherwise."""

from __future__ import annotations

import ctypes
import gc


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
