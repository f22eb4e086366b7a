"""The store: what must outlive a process. The only room that imports SQLAlchemy.

There are two logical databases, `state` (API keys, the fleet, battles and votes; every
write is fsynced) and `requests` (the request log; busy, may lose its last moments on a power cut).
On SQLite each is a file, on PostgreSQL both share one database. `open_database` creates and
migrates.

Names are imported on first use, so that importing `aviary.store` costs nothing. `LogWriter` and
`RecordWriter` alone never load SQLAlchemy by themselves.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aviary.store.ballots import SqlBallots
    from aviary.store.database import Database, open_database
    from aviary.store.fleet import FleetEventLog, SqlFleet
    from aviary.store.keys import KeyRow, SqlKeys
    from aviary.store.records import clean
    from aviary.store.requests import LatencySummary, SqlRequestLog
    from aviary.store.writer import LogWriter, RecordWriter

__all__ = [
    "Database",
    "FleetEventLog",
    "KeyRow",
    "LatencySummary",
    "LogWriter",
    "RecordWriter",
    "SqlBallots",
    "SqlFleet",
    "SqlKeys",
    "SqlRequestLog",
    "clean",
    "open_database",
]

_MODULES = {
    "Database": "database",
    "FleetEventLog": "fleet",
    "KeyRow": "keys",
    "LatencySummary": "requests",
    "LogWriter": "writer",
    "RecordWriter": "writer",
    "SqlBallots": "ballots",
    "SqlFleet": "fleet",
    "SqlKeys": "keys",
    "SqlRequestLog": "requests",
    "clean": "records",
    "open_database": "database",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
