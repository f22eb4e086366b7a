"""Import this first in a process that must start fast.

structlog imports rich, for coloured tracebacks, whenever it is installed: 0.1 to 0.2 s of every
start. A child process's output goes to a pipe, so it is hidden while structlog is imported.
"""

from __future__ import annotations

import sys

if "structlog" not in sys.modules and "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]
    import structlog

    del sys.modules["rich"]
    __all__ = ["structlog"]
