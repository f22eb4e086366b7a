"""`aviary scale`, `sleep`, `wake`: orders to models of a running Aviary."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from aviary.cli.client import Client

ModelsArgument = Annotated[list[str], typer.Argument(help="Ids of models.", metavar="MODEL")]
MOST_REPLICAS = 1000


def scale(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Id of a model.", metavar="MODEL")],
    replicas: Annotated[
        int, typer.Argument(help="How many; 0: none while nobody asks.", min=0, max=MOST_REPLICAS)
    ],
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> int:
    """Change how many replicas a model has.

    None that stays is restarted. It changes scaling.min_replicas of the stored spec; a spec file
    that is applied later says it anew.
    """
    from aviary.cli.client import Client

    with Client(settings_for(context, url, api_key)) as client:
        answer = client.scale(model, replicas)
    if as_json:
        print_json(answer)
    elif answer.get("action") == "unchanged":
        print(f"{model} has {replicas} already.")
    else:
        print(f"Scaled {model} to {replicas}.")
    return 0


def sleep(
    context: typer.Context,
    models: ModelsArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> int:
    """Put models to sleep: their memory is freed once their answers have ended.

    A request wakes them, or `aviary wake`.
    """

    def order(client: Client, model: str) -> dict[str, Any]:
        return client.sleep(model)

    words = {"sleeps": "{} goes to sleep.", "unchanged": "{} sleeps already."}
    return _order(context, models, order, words, (as_json, url, api_key))


def wake(
    context: typer.Context,
    models: ModelsArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> int:
    """Wake models that sleep, before a request does."""

    def order(client: Client, model: str) -> dict[str, Any]:
        return client.wake(model)

    words = {"wakes": "{} wakes.", "unchanged": "{} is awake already."}
    return _order(context, models, order, words, (as_json, url, api_key))


def _order(
    context: typer.Context,
    models: list[str],
    order: Callable[[Client, str], dict[str, Any]],
    words: dict[str, str],
    options: tuple[bool, str | None, str | None],
) -> int:
    """Order models one by one; one that is missing does not keep the others from it."""
    from aviary.cli.client import Client

    as_json, url, api_key = options
    done = []
    failed = False
    with Client(settings_for(context, url, api_key)) as client:
        for model in models:
            try:
                answer = order(client, model)
            except AviaryError as error:
                failed = True
                print_error(error)
                continue
            done.append(answer)
            if not as_json:
                print(words.get(str(answer.get("action")), "{}: done.").format(model))
    if as_json:
        print_json(done)
    return 1 if failed else 0
