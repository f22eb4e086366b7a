"""`aviary gateway`: gateway workers on this machine, for an Aviary on another one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aviary.cli.options import JsonOption, settings_for
from aviary.core.errors import SpecError


def gateway(
    context: typer.Context,
    join: Annotated[
        str,
        typer.Option(
            "--join",
            help="The control process: what its `aviary up --control` was given.",
            metavar="HOST:PORT",
        ),
    ],
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="File with the cluster's token (else AVIARY_CLUSTER_TOKEN).",
            metavar="FILE",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Gateway processes.")] = 2,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without any key.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Serve the models of an Aviary on another machine at this one, too, until Ctrl-C."""
    from aviary.bootstrap.control import token_from
    from aviary.bootstrap.remote import RemotePlan
    from aviary.cli.joined import serve
    from aviary.process.logs import configure_logging

    settings = settings_for(context)
    configure_logging(settings.log_level, settings.log_format)
    token = token_from(token_file) if token_file is not None else settings.cluster_token
    if not token:
        raise SpecError(
            "The cluster's token is needed.",
            hint="Set AVIARY_CLUSTER_TOKEN, or copy cluster.token of the home folder of the "
            "Aviary to join and name it with --token-file.",
        )
    plan = RemotePlan(join, token, host, port, workers, insecure)
    return serve(plan, settings, as_json=as_json)
