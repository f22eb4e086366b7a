"""`aviary keys`: API keys of this installation, straight in its state database.

A running Aviary notices a change within a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from aviary.store import KeyRow, SqlKeys

app = typer.Typer(
    help="API keys: who may use this Aviary, and who may administer it.", no_args_is_help=True
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class RoleChoice(StrEnum):
    """Roles as the command line offers them."""

    USER = "user"
    ADMIN = "admin"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for, in your words.")],
    role: Annotated[
        RoleChoice, typer.Option(help="user: ask models; admin: everything.")
    ] = RoleChoice.USER,
    as_json: JsonOption = False,
) -> None:
    """Make a key and show its secret, once."""
    from aviary.auth.keys import issue

    with _opened_keys() as keys:
        secret, new = issue(name, role.value)
        row = keys.create(name=new.name, role=new.role, hash=new.hash, id=new.id)
    if as_json:
        _print_json({**asdict(row), "secret": secret})
        return
    # Not by rich, which may break a line within the secret.
    typer.echo(secret)
    typer.echo(
        f"\nThis is the secret of {row.id} ({row.name}, role {row.role}). Copy it now: it is not "
        "stored and cannot be shown again."
    )


@app.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """Show all keys, without their secrets."""
    with _opened_keys() as keys:
        rows = keys.list()
    if as_json:
        _print_json([asdict(row) for row in rows])
        return
    if not rows:
        typer.echo(
            "No keys: everybody who reaches this Aviary may use it. See `aviary keys create`."
        )
        return
    _print_table(rows)


@app.command()
def revoke(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The key's id, `ak_…`.")],
    as_json: JsonOption = False,
) -> None:
    """Make a key worthless, for ever."""
    with _opened_keys() as keys:
        row = keys.revoke(id_)
        active = keys.active()
    if as_json:
        _print_json(asdict(row))
    else:
        typer.echo(f"Revoked {row.id} ({row.name}). A running Aviary refuses it within a second.")
    if not active:
        _warn(
            "no key is left: an Aviary on loopback now serves everybody on this machine, any other "
            "needs a new key: `aviary keys create NAME --role admin`."
        )
    elif row.role == "admin" and not any(key.role == "admin" for key in active):
        _warn(
            "no admin key is left: nobody can administer this Aviary over HTTP until you run "
            "`aviary keys create NAME --role admin`."
        )


@contextmanager
def _opened_keys() -> Iterator[SqlKeys]:
    """The keys of this installation; Aviary's errors end the command with a message."""
    from aviary.config.settings import Settings
    from aviary.core.errors import AviaryError
    from aviary.store import SqlKeys

    try:
        keys = SqlKeys.open(Settings().store_url("state"))
        try:
            yield keys
        finally:
            keys.close()
    except AviaryError as error:
        _print_to_stderr("error", "red", str(error))
        raise typer.Exit(1) from error


def _print_table(rows: list[KeyRow]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("ID", "NAME", "ROLE", "CREATED", "LAST USED", "STATE"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        state = "good" if row.revoked is None else f"revoked {_local_time(row.revoked)}"
        cells = (
            row.id,
            row.name,
            row.role,
            _local_time(row.created),
            _local_time(row.last_used),
            state,
        )
        table.add_row(*(Text(cell) for cell in cells))  # Text: a name is no markup
    Console().print(table)


def _local_time(unix_s: float | None) -> str:
    from datetime import UTC, datetime

    if unix_s is None:
        return "-"
    return datetime.fromtimestamp(unix_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def _warn(text: str) -> None:
    _print_to_stderr("warning", "yellow", text)


def _print_to_stderr(label: str, colour: str, text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(
        Text.assemble((f"{label}: ", f"bold {colour}"), text), soft_wrap=True
    )
