"""Lines of the feed from the control process to gateway workers that are no snapshots."""

from __future__ import annotations

from typing import Final

import msgspec

from aviary.core.preference import Stop

STOP: Final = b'{"stop":'
"""How a line begins that tells to stop a column."""


class _StopLine(msgspec.Struct):
    stop: Stop


_stop_line = msgspec.json.Decoder(_StopLine)


def stop_line(stop: Stop) -> bytes:
    """The line that tells workers to stop a column."""
    return msgspec.json.encode(_StopLine(stop)) + b"\n"


def read_stop_line(line: bytes) -> Stop:
    """What `stop_line` made.

    Raises:
        msgspec.MsgspecError: it is no such line.
    """
    return _stop_line.decode(line).stop
