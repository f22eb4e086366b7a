"""A gateway over a fixed endpoint table, with no control plane: `python -m aviary.gateway.static`.

For benchmarks, and for putting Aviary's gateway in front of servers that something else runs.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
from pathlib import Path


def main() -> None:
    """Serve until asked to stop."""
    parser = argparse.ArgumentParser(prog="python -m aviary.gateway.static", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=HOST:PORT|PATH")
    parser.add_argument("--token", default="", help="internal token the upstreams expect")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--log", type=Path, help="SQLite file of the request log")
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="aviary-metrics-")
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)

    from aviary.auth.keys import KeyRing
    from aviary.core.states import ModelView, ReplicaState, ReplicaView, Snapshot
    from aviary.gateway.app import GatewayApp
    from aviary.gateway.exchange import GatewayState
    from aviary.routing.table import Table
    from aviary.store.requests import SqlRequestLog
    from aviary.store.writer import LogWriter
    from aviary.wire.client import Client
    from aviary.wire.server import run_server

    replicas: dict[str, list[ReplicaView]] = {}
    for entry in arguments.model:
        name, _, address = entry.partition("=")
        host, _, port = ("", "", "0") if "/" in address else address.rpartition(":")
        path = address if "/" in address else ""
        views = replicas.setdefault(name, [])
        identity = f"{name}/{len(views)}"
        ready = ReplicaState.READY
        views.append(ReplicaView(identity, host, int(port), state=ready, socket=path))
    snapshot = Snapshot(
        generation=1,
        models=tuple(
            ModelView(id=name, slots=arguments.slots, usd_per_hour=1.0, replicas=tuple(views))
            for name, views in replicas.items()
        ),
        workers=1,
    )
    url = f"sqlite:///{arguments.log or Path(folder) / 'requests.db'}"
    writer = LogWriter(lambda: SqlRequestLog.open(url))
    clients: list[Client] = []

    async def startup() -> GatewayState:
        table = Table()
        table.update(snapshot)
        clients.append(Client())
        return GatewayState(
            table=table,
            ring=KeyRing(),
            client=clients[0],
            token=arguments.token.encode(),
            record=writer.put,
            max_body_bytes=32 * 1024 * 1024,
        )

    async def shutdown() -> None:
        for client in clients:
            await client.close()
        writer.close()

    listener = socket.create_server(("127.0.0.1", arguments.port), backlog=2048)
    run_server(GatewayApp(startup, shutdown), listener, drain_s=5)


if __name__ == "__main__":
    main()
