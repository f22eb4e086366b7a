"""What all commands share: options, settings, and how JSON and errors are printed.

Nothing here imports pydantic, rich or an HTTP client before a command runs, so that `--help` is
instant.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aviary.core.errors import AviaryError, SpecError

if TYPE_CHECKING:
    from aviary.config.settings import Settings

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="A running Aviary's address (else AVIARY_URL).", metavar="URL"),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--api-key", help="The key to send (else AVIARY_API_KEY).", metavar="KEY"),
]

_MOST_LINES = 24
_MOST_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Globals:
    """Options given before the command's name."""

    url: str | None = None
    api_key: str | None = None


def settings_for(
    context: typer.Context, url: str | None = None, api_key: str | None = None
) -> Settings:
    """The environment's settings, with what the command line says over them.

    Raises:
        SpecError: an `AVIARY_…` variable has a value that cannot be.
    """
    from pydantic import ValidationError

    from aviary.config.settings import Settings

    given = context.find_object(Globals) or Globals()
    options: dict[str, Any] = {"url": url or given.url, "api_key": api_key or given.api_key}
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        lines = [
            f"AVIARY_{'_'.join(str(part) for part in detail['loc']).upper()}: {detail['msg']}."
            for detail in error.errors(include_url=False)
        ]
        raise SpecError("\n".join(lines)) from error


def print_json(data: Any) -> None:
    """Print data for programs."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_error(error: AviaryError) -> None:
    """`error: message hint` on stderr; never more than a screen of it."""
    lines = str(error).splitlines() or [type(error).__name__]
    if len(lines) > 1:
        lines = [f"{len(lines)} problems:", *lines]
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], "…"]
    text = "\n".join(lines)
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[:_MOST_CHARACTERS]}…"
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {printable(text)}", err=True)


def say(text: str) -> None:
    """Print a remark on stderr, where it is not mistaken for data."""
    typer.echo(printable(text), err=True)


def printable(text: str) -> str:
    """The text less control characters, with which a model could take over a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character
        for character in text
        if character in "\n\t" or not (character < " " or "\x7f" <= character <= "\x9f")
    )


def is_terminal() -> bool:
    """Whether a person is likely to read stdout."""
    return sys.stdout.isatty()
