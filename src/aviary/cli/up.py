"""`aviary up`: start Aviary here and serve models until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from aviary.cli.options import JsonOption, settings_for
from aviary.core.errors import SpecError


def up(
    context: typer.Context,
    specs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Spec files or folders of them; none: what was served last, at first the starter "
            "catalog.",
            metavar="SPEC",
        ),
    ] = None,
    models: Annotated[
        Path | None, typer.Option("--models", help="A folder of specs to serve.", metavar="DIR")
    ] = None,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Stop what was served last and is not among the specs."),
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Gateway processes.")] = 2,
    backend: Annotated[
        Literal["local", "ray"], typer.Option(help="What runs the replicas.")
    ] = "local",
    address: Annotated[str | None, typer.Option(help="Ray cluster to join.", metavar="RAY")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without any key.")
    ] = False,
    control: Annotated[
        str | None,
        typer.Option(
            "--control",
            help="Let gateways of other machines join here; plain HTTP, for private networks.",
            metavar="HOST:PORT",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Start Aviary and serve models until Ctrl-C."""
    from aviary.bootstrap import Plan
    from aviary.cli.serving import serve
    from aviary.config.loader import catalog_dir, load_specs
    from aviary.process.logs import configure_logging

    settings = settings_for(context)
    configure_logging(settings.log_level, settings.log_format)
    paths = [*(specs or ()), *([models] if models is not None else [])]
    if prune and not paths:
        raise SpecError("--prune needs the specs that shall stay.", hint="Name them as SPEC.")
    plan = Plan(
        specs=load_specs(paths) if paths else None,
        starter=lambda: load_specs([catalog_dir()]),
        prune=prune,
        host=host,
        port=port,
        workers=workers,
        backend=backend,
        address=address,
        insecure=insecure,
        control=control,
    )
    return serve(plan, settings, as_json=as_json)
