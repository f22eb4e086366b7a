"""`aviary stop MODEL…`: take models off a running Aviary."""

from __future__ import annotations

from typing import Annotated

import typer

from aviary.cli.options import (
    JsonOption,
    KeyOption,
    UrlOption,
    print_error,
    print_json,
    settings_for,
)
from aviary.core.errors import AviaryError


def stop(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(help="Ids of models.", metavar="MODEL")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> int:
    """Stop models of a running Aviary.

    Requests in progress end, new ones are refused, memory is freed.
    """
    from aviary.cli.client import Client

    done = []
    failed = False
    with Client(settings_for(context, url, api_key)) as client:
        for model in models:
            try:
                done.append(client.stop(model))
            except AviaryError as error:
                failed = True
                print_error(error)
                continue
            if not as_json:
                print(f"Stopped {model}.")
    if as_json:
        print_json(done)
    return 1 if failed else 0
