"""Tables on a terminal and elsewhere."""

from __future__ import annotations

import pytest

from aviary.cli import tables
from aviary.cli.options import printable
from aviary.cli.tables import Column, figure, one_line, print_table

COLUMNS = (Column("NAME"), Column("N", right=True), Column("WHY", wide=True))
ROWS = [("漢字", "1", "[red]no markup[/]\x1b[2J"), ("b" * 60, "1234", "two\nlines")]


def test_plain(capsys: pytest.CaptureFixture[str]):
    print_table(COLUMNS, ROWS)
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == f"NAME{' ' * 56}     N  WHY"
    assert first == f"漢字{' ' * 56}     1  [red]no markup[/][2J"
    assert second == f"{'b' * 60}  1234  two lines"


def test_terminal_never_cuts_names_to_pieces(capsys, monkeypatch):
    monkeypatch.setattr(tables, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    print_table(COLUMNS, ROWS)
    out = capsys.readouterr().out
    assert "b" * 60 in out
    assert "[red]no markup[/]" in out
    assert "\x1b[2J" not in out


def test_figures_and_lines():
    assert (figure(None), figure(0), figure(1.25, 1), figure(3)) == ("-", "0", "1.2", "3")
    assert one_line("a\n b\t c", 10) == "a b c"
    assert one_line("abcdef", 4) == "abc…"
    assert printable("a\x1b[0m\x00\x9b\tb\nü") == "a[0m\tb\nü"
