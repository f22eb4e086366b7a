"""`aviary`: the command line's entry. Commands import what they need when they run."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aviary.cli import keys
from aviary.cli.apply import apply
from aviary.cli.check import check
from aviary.cli.events import events
from aviary.cli.gateway import gateway
from aviary.cli.leaderboard import leaderboard
from aviary.cli.logs import logs
from aviary.cli.models import models
from aviary.cli.options import (
    Globals,
    JsonOption,
    KeyOption,
    UrlOption,
    print_error,
    settings_for,
)
from aviary.cli.orders import scale, sleep, wake
from aviary.cli.query import query
from aviary.cli.run import run as run_model
from aviary.cli.schema import schema
from aviary.cli.status import status
from aviary.cli.stop import stop
from aviary.cli.up import up
from aviary.cli.version import version
from aviary.core.errors import AviaryError
from aviary.version import __version__

_BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended
_INTERRUPTED = 130


class _Commands(TyperGroup):
    """Turns errors raised on purpose into a message, and a command's answer into exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
        except AviaryError as error:
            print_error(error)
            raise typer.Exit(1) from error
        except BrokenPipeError as error:  # typer would call it 1, as if the command had failed
            raise typer.Exit(_BROKEN_PIPE) from error
        if isinstance(result, int) and result:
            raise typer.Exit(result)
        return result


app = typer.Typer(
    cls=_Commands,
    name="aviary",
    help="Explore, serve and run many LLMs of your own behind one OpenAI-compatible endpoint.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"aviary {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    context: typer.Context,
    url: UrlOption = None,
    api_key: KeyOption = None,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and leave.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    del show_version  # its callback has left already
    context.obj = Globals(url=url, api_key=api_key)


app.command()(up)
app.command()(apply)
app.command("run")(run_model)
app.command()(stop)
app.command()(scale)
app.command()(sleep)
app.command()(wake)
app.command()(status)
app.command()(models)
app.command()(events)
app.command()(logs)
app.command()(query)
app.command()(leaderboard)
app.command()(check)
app.command()(gateway)


@app.command()
def pull(
    context: typer.Context,
    specs: Annotated[
        list[str], typer.Argument(help="Spec files, or addresses of weights.", metavar="SPEC")
    ],
    as_json: JsonOption = False,
) -> int:
    """Fetch weights into the cache."""
    from aviary.cli.pull import pull as fetch

    return fetch(specs, as_json=as_json, settings=settings_for(context))


app.add_typer(keys.app, name="keys")
app.command()(schema)
app.command()(version)


def run() -> None:
    """The console script: run the command line and leave the process with its status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows "?"
    try:
        try:
            app(prog_name="aviary")
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        _leave(_INTERRUPTED)
    except BrokenPipeError:
        _leave(_BROKEN_PIPE)


def _leave(status: int) -> None:
    """Leave without Python's own attempts to flush what nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    sys.exit(status)


if __name__ == "__main__":
    run()
