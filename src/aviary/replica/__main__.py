"""Entry of a replica process on the local backend: `python -m aviary.replica`.

The first report to the parent names the port.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import aviary.process.light  # noqa: F401 - first, it makes the others' import faster

# isort: split
import msgspec
import setproctitle

from aviary.config.places import FixedPlaces
from aviary.config.spec import ModelSpec
from aviary.core.states import ReplicaState
from aviary.engines.registry import create_engine
from aviary.process.lifeline import Reporter, watch_parent
from aviary.process.logs import configure_logging
from aviary.replica.app import ReplicaApp
from aviary.replica.boot import BOOT_ENV, ReplicaBoot
from aviary.wire.server import run_server

BACKLOG = 4096
DRAIN_S = 3600
"""Longest time for answers in progress; whoever wants it shorter kills."""


def main() -> None:
    """Serve one spec until asked to stop or the parent is gone."""
    watch_parent()
    reporter = Reporter()
    boot = msgspec.json.decode(os.environ.pop(BOOT_ENV), type=ReplicaBoot)
    spec = ModelSpec.model_validate(boot.spec)
    setproctitle.setproctitle(f"aviary replica {spec.id}")
    configure_logging(boot.log_level, boot.log_format)

    def on_state(state: ReplicaState, detail: str, progress: float | None) -> None:
        reporter.send(event="state", state=state, detail=detail, progress=progress)

    app = ReplicaApp(
        spec,
        create_engine(spec, FixedPlaces(Path(boot.weights), Path(boot.runtime))),
        token=boot.token,
        max_body_bytes=boot.max_body_bytes,
        on_state=on_state,
    )
    # Not a port: on one machine a Unix socket costs half of what TCP does.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(boot.listen)
    listener.listen(BACKLOG)
    reporter.send(event="listening", socket=boot.listen)
    run_server(app, listener, drain_s=DRAIN_S)


if __name__ == "__main__":
    main()
