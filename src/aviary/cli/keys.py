"""`aviary keys`: API keys of this installation, straight in its state database.

A running Aviary notices a change within a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from aviary.cli.options import JsonOption, print_error, print_json, say, settings_for
from aviary.cli.tables import Column, print_table
from aviary.core.errors import AviaryError

if TYPE_CHECKING:
    from aviary.store import SqlKeys

app = typer.Typer(
    help="API keys: who may use this Aviary, and who may administer it.", no_args_is_help=True
)


class RoleChoice(StrEnum):
    """Roles as the command line offers them."""

    USER = "user"
    ADMIN = "admin"


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What the key is for, in your words.")],
    role: Annotated[
        RoleChoice, typer.Option(help="user: ask models; admin: everything.")
    ] = RoleChoice.USER,
    as_json: JsonOption = False,
) -> None:
    """Make a key and show its secret, once."""
    from aviary.auth.keys import issue

    with _opened_keys(context) as keys:
        secret, new = issue(name, role.value)
        row = keys.create(name=new.name, role=new.role, hash=new.hash, id=new.id)
        has_admin = any(key.role == "admin" for key in keys.active())
    if as_json:
        print_json({**asdict(row), "secret": secret})
        return
    typer.echo(secret)  # alone on stdout, for SECRET=$(aviary keys create …)
    say(
        f"This is the secret of {row.id} ({row.name}, role {row.role}). Copy it now: it is not "
        "stored and cannot be shown again."
    )
    if not has_admin:
        say("There is no admin key yet: without one, nobody administers this Aviary by HTTP.")


@app.command("list")
def list_keys(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show all keys, without their secrets."""
    with _opened_keys(context) as keys:
        rows = keys.list()
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    if not rows:
        typer.echo(
            "No keys: everybody who reaches this Aviary may use it. See `aviary keys create`."
        )
        return
    print_table(
        [Column(title) for title in ("ID", "NAME", "ROLE", "CREATED", "LAST USED", "STATE")],
        [
            (
                row.id,
                row.name,
                row.role,
                _local_time(row.created),
                _local_time(row.last_used),
                "good" if row.revoked is None else f"revoked {_local_time(row.revoked)}",
            )
            for row in rows
        ],
    )


@app.command()
def revoke(
    context: typer.Context,
    id_: Annotated[str, typer.Argument(metavar="ID", help="The key's id, `ak_…`.")],
    as_json: JsonOption = False,
) -> None:
    """Make a key worthless, for ever."""
    with _opened_keys(context) as keys:
        row = keys.revoke(id_)
        active = keys.active()
    if as_json:
        print_json(asdict(row))
    else:
        typer.echo(f"Revoked {row.id} ({row.name}). A running Aviary refuses it within a second.")
    if not active:
        say(
            "warning: no key is left: an Aviary on loopback now serves everybody on this machine, "
            "any other needs a new key: `aviary keys create NAME --role admin`."
        )
    elif row.role == "admin" and not any(key.role == "admin" for key in active):
        say(
            "warning: no admin key is left: nobody can administer this Aviary over HTTP until you "
            "run `aviary keys create NAME --role admin`."
        )


@contextmanager
def _opened_keys(context: typer.Context) -> Iterator[SqlKeys]:
    """The keys of this installation; Aviary's errors end the command with a message."""
    from aviary.store import SqlKeys

    try:
        keys = SqlKeys.open(settings_for(context).store_url("state"))
        try:
            yield keys
        finally:
            keys.close()
    except AviaryError as error:
        print_error(error)
        raise typer.Exit(1) from error


def _local_time(unix_s: float | None) -> str:
    from datetime import UTC, datetime

    if unix_s is None:
        return "-"
    return datetime.fromtimestamp(unix_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
