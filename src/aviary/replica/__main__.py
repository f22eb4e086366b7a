"""Entry of a replica process on the local backend: `python -m aviary.replica`.

The spec and the internal token come as JSON in the environment (not on the command line, where
every user of the machine could read them). The first report to the parent names the port.
"""

from __future__ import annotations

import os
import socket

import msgspec
import setproctitle

from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.states import ReplicaState
from aviary.engines.registry import create_engine
from aviary.process.lifeline import Reporter, watch_parent
from aviary.process.logs import configure_logging
from aviary.replica.app import ReplicaApp
from aviary.replica.boot import BOOT_ENV
from aviary.wire.server import run_server

DRAIN_S = 30


def main() -> None:
    """Serve one spec until asked to stop or the parent is gone."""
    watch_parent()
    reporter = Reporter()
    boot = msgspec.json.decode(os.environ.pop(BOOT_ENV))
    spec = ModelSpec.model_validate(boot["spec"])
    setproctitle.setproctitle(f"aviary replica {spec.id}")
    settings = Settings()
    configure_logging(settings)

    def on_state(state: ReplicaState, detail: str, progress: float | None) -> None:
        reporter.send(event="state", state=state, detail=detail, progress=progress)

    app = ReplicaApp(
        spec,
        create_engine(spec, settings),
        token=boot["token"],
        max_body_bytes=settings.max_body_mb * 1024 * 1024,
        on_state=on_state,
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    reporter.send(event="listening", port=listener.getsockname()[1])
    run_server(app, listener, drain_s=DRAIN_S)


if __name__ == "__main__":
    main()
