"""`aviary check SPEC…`: try specs before they are served."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from aviary.cli.options import JsonOption, print_json, printable, settings_for


def check(
    context: typer.Context,
    specs: Annotated[
        list[Path], typer.Argument(help="Spec files or folders of them.", metavar="SPEC")
    ],
    generate: Annotated[
        bool,
        typer.Option("--generate/--no-generate", help="Also load the model and generate a little."),
    ] = True,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1, help="Longest load and generation, in seconds.")
    ] = 600.0,
    as_json: JsonOption = False,
) -> int:
    """Try specs: fields, template, one generation."""
    from aviary.cli.checks import check_spec
    from aviary.config.loader import spec_files

    settings = settings_for(context)
    done = []
    for path in spec_files(specs):
        checks = check_spec(
            path, settings, generate=generate, timeout_s=timeout_s, progress=_show_progress
        )
        for outcome in checks:
            _show_progress("", None)
            done.append(outcome)
            if not as_json:
                word = "ok" if outcome.ok else "failed"
                print(f"{path}: {outcome.name}: {word} ({outcome.seconds:.2f} s)", end="")
                print(f": {printable(outcome.detail)}", flush=True)
    if as_json:
        print_json([outcome.as_dict() for outcome in done])
    return 0 if all(outcome.ok for outcome in done) else 1


def _show_progress(text: str, fraction: float | None) -> None:
    """One line on a terminal's stderr, overwritten each time; nothing elsewhere."""
    if not sys.stderr.isatty():
        return
    done = f" {fraction:.0%}" if fraction is not None else ""
    sys.stderr.write(f"\r\x1b[K{printable(text)[:100]}{done}")
    sys.stderr.flush()
