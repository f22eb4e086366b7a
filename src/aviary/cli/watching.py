"""`aviary status --watch`: look again each second, and show what there is or what has changed."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Protocol, Self

from aviary.cli.options import is_terminal, printable
from aviary.cli.status import look, summary
from aviary.cli.tables import Column, one_line, print_table, rich_table
from aviary.core.errors import AviaryError

if TYPE_CHECKING:
    from aviary.cli.client import Client, Model, Status

INTERVAL_S = 1.0
DETAIL_CHARACTERS = 90
COLUMNS = (
    Column("MODEL"),
    Column("STATE"),
    Column("READY", right=True),
    Column("RUNNING", right=True),
    Column("WAITING", right=True),
    Column("RESTARTS", right=True),
    Column("DETAIL", wide=True),
)


class _Display(Protocol):
    """Shows what was seen while the `with` block runs."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, data: dict[str, Any], now: Status, rows: list[tuple[str, ...]]) -> None:
        """Show what there is."""

    def lost(self, error: AviaryError) -> None:
        """Say that nothing can be seen for now."""


def watch(client: Client, *, as_json: bool) -> None:
    """Look until Ctrl-C; an Aviary that goes away meanwhile is waited for.

    Raises:
        AviaryError: there is none at the beginning, or it refuses.
    """
    from aviary.cli.client import may_pass

    display: _Display
    if as_json:
        display = _JsonLines()
    else:
        display = _Screen(client.url) if is_terminal() else _Blocks(client.url)
    seen = False
    try:
        with display:
            while True:
                began_s = time.monotonic()
                try:
                    data, now, models = look(client)
                    display.show(data, now, [_row(model) for model in models])
                    seen = True
                except AviaryError as error:
                    if not (seen and may_pass(error)):
                        raise
                    display.lost(error)
                time.sleep(max(0.0, INTERVAL_S - (time.monotonic() - began_s)))
    except KeyboardInterrupt:
        return


def _row(model: Model) -> tuple[str, ...]:
    return (
        model.id,
        model.state,
        f"{model.ready_replicas}/{model.desired_replicas}",
        str(model.running),
        str(model.waiting),
        str(model.restarts),
        one_line(model.detail or model.doing, DETAIL_CHARACTERS),
    )


class _Screen:
    """For people: one picture that stays in its place."""

    def __init__(self, url: str) -> None:
        from rich.live import Live

        self._url = url
        self._lines: list[str] = []
        self._rows: list[tuple[str, ...]] = []
        self._live = Live(auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, data: dict[str, Any], now: Status, rows: list[tuple[str, ...]]) -> None:
        del data
        self._lines, self._rows = summary(now, self._url), rows
        self._draw()

    def lost(self, error: AviaryError) -> None:
        self._draw(printable(str(error)))

    def _draw(self, remark: str = "") -> None:
        from rich.console import Group
        from rich.text import Text

        lines = [*self._lines, "", *([remark, ""] if remark else [])]
        text = Text("\n".join(lines), overflow="fold")
        self._live.update(Group(text, rich_table(COLUMNS, self._rows)), refresh=True)


class _Blocks:
    """For logs and pipes: all of it again whenever something has changed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._last: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, data: dict[str, Any], now: Status, rows: list[tuple[str, ...]]) -> None:
        del data
        if self._is_new((now.backend, now.workers, now.models, now.dropped_events, rows)):
            print(time.strftime("%Y-%m-%d %H:%M:%S"))
            print("\n".join(summary(now, self._url)))
            if rows:
                print_table(COLUMNS, rows)
            print(flush=True)

    def lost(self, error: AviaryError) -> None:
        if self._is_new(str(error)):
            print(time.strftime("%Y-%m-%d %H:%M:%S"))
            print(f"{printable(str(error))}\n", flush=True)

    def _is_new(self, what: object) -> bool:
        if what == self._last:
            return False
        self._last = what
        return True


class _JsonLines:
    """For programs: one object a look."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, data: dict[str, Any], now: Status, rows: list[tuple[str, ...]]) -> None:
        del now, rows
        print(json.dumps(data, ensure_ascii=False), flush=True)

    def lost(self, error: AviaryError) -> None:
        print(json.dumps({"error": {"code": error.code, "message": str(error)}}), flush=True)
