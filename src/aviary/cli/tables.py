"""Tables: by rich on a terminal, plain aligned columns anywhere else."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aviary.cli.options import is_terminal, printable

if TYPE_CHECKING:
    from rich.table import Table

_LEAST_WIDE = 24


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: Its heading.
        right: Whether it holds figures, which are aligned to the right.
        wide: Whether a narrow terminal may break its texts into lines.
    """

    title: str
    right: bool = False
    wide: bool = False


def figure(value: float | None, digits: int = 0) -> str:
    """A number, or a dash for one that is not known."""
    return "-" if value is None else f"{value:.{digits}f}"


def one_line(text: str, most: int) -> str:
    """The text in one line of at most so many characters."""
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headings."""
    cells = _cells(rows)
    if is_terminal():
        _print_rich(columns, cells)
    else:
        _print_plain(columns, cells)


def rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Table:
    """The table as rich draws it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.wide,
            overflow="fold",
        )
    for row in _cells(rows):
        table.add_row(*(Text(cell) for cell in row))  # Text: models' words are no markup
    return table


def _cells(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[" ".join(printable(cell).split()) for cell in row] for row in rows]


def _print_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console

    console = Console()
    # A line that the terminal breaks is easier to read, and to copy, than cells cut to pieces.
    least = sum(
        min(width, _LEAST_WIDE) if column.wide else width
        for column, width in zip(columns, _widths(columns, rows), strict=True)
    )
    console.width = max(console.width, least + len(columns) * 2)
    console.print(rich_table(columns, rows))


def _print_plain(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    widths = _widths(columns, rows)
    for line in ([column.title for column in columns], *rows):
        cells = [
            " " * (width - _width(cell)) + cell
            if column.right
            else cell + " " * (width - _width(cell))
            for column, width, cell in zip(columns, widths, line, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    titles = [column.title for column in columns]
    return [max(_width(line[index]) for line in (titles, *rows)) for index in range(len(columns))]


def _width(text: str) -> int:
    """Terminal cells of a text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
