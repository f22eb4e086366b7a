"""Progress on stderr: a table that stays in its place on a terminal, lines anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

from aviary.cli.options import say
from aviary.cli.tables import one_line

DETAIL_CHARACTERS = 70
LINE_CHARACTERS = 200


class Step(NamedTuple):
    """How far one model has come.

    Attributes:
        model: Its id.
        state: Its state.
        doing: What it does, in words.
    """

    model: str
    state: str
    doing: str = ""


class Progress(Protocol):
    """Shows steps while the `with` block runs."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, steps: Sequence[Step]) -> None:
        """Show how far all have come."""


def progress(*, quiet: bool) -> Progress:
    """A display that fits stderr.

    Args:
        quiet: Show nothing: a program reads what is printed.
    """
    return Table() if sys.stderr.isatty() and not quiet else Lines(quiet=quiet)


class Lines:
    """For logs and pipes: a line a change of state."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._states: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, steps: Sequence[Step]) -> None:
        """Print a line for each whose state is another than at the last call."""
        if self._quiet:
            return
        for step in steps:
            if self._states.get(step.model) != step.state:
                self._states[step.model] = step.state
                doing = f" ({one_line(step.doing, LINE_CHARACTERS)})" if step.doing else ""
                say(f"{step.model}: {step.state}{doing}")


class Table:
    """For people: a table that stays in its place, and goes at the end."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, steps: Sequence[Step]) -> None:
        """Draw the table anew."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=None, pad_edge=False, show_header=False)
        for step in steps:
            doing = one_line(step.doing, DETAIL_CHARACTERS)
            table.add_row(Text(step.model), Text(step.state), Text(doing))
        self._live.update(table, refresh=True)
