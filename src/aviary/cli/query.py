"""`aviary query`: ask one or many models one or many prompts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aviary.cli.options import (
    JsonOption,
    KeyOption,
    UrlOption,
    is_terminal,
    print_error,
    print_json,
    printable,
    say,
    settings_for,
)
from aviary.cli.tables import Column, figure, one_line, print_table
from aviary.core.errors import AviaryError

if TYPE_CHECKING:
    from aviary.cli.asking import Answer, Asker

COLUMNS = (
    Column("MODEL"),
    Column("PROMPT"),
    Column("TTFT MS", right=True),
    Column("LATENCY MS", right=True),
    Column("TOKENS/S", right=True),
    Column("TOKENS IN", right=True),
    Column("TOKENS OUT", right=True),
    Column("RESULT", wide=True),
)


def query(
    context: typer.Context,
    models: Annotated[list[str], typer.Option("--model", "-m", help="A model to ask; repeatable.")],
    words: Annotated[
        list[str] | None, typer.Argument(help="The prompt; several words make one.", metavar="TEXT")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="A prompt; repeatable.")
    ] = None,
    prompt_file: Annotated[
        str | None,
        typer.Option("--prompt-file", help="A file of prompts; -: stdin.", metavar="FILE"),
    ] = None,
    separator: Annotated[
        str, typer.Option(help="The line between two prompts of a file.")
    ] = "----",
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=5, help="0: the likeliest words; more: freer.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="For answers that can be repeated.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write results here as JSON.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=1000, help="Requests at a time, per model.")
    ] = 4,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> int:
    """Ask one or many models one or many prompts.

    One answer is printed as it comes; several end in a table of times and tokens.
    """
    from aviary.cli.asking import Asker, Options

    prompts = _prompts(words, prompt, prompt_file, separator)
    models = list(dict.fromkeys(models))
    jobs = [(model, text) for text in prompts for model in models]
    if output is not None:
        _check_writable(output)
    settings = settings_for(context, url, api_key)
    options = Options(system, max_tokens, temperature, seed)
    answers: dict[int, Answer] = {}
    interrupted = False
    try:
        _ask(lambda: Asker(settings, options), jobs, answers, concurrency, as_json=as_json)
    except KeyboardInterrupt:
        interrupted = True
    found = [answers[index] for index in sorted(answers)]
    if output is not None:
        _write(output, found)
    if as_json:
        print_json([answer.as_dict() for answer in found])
    elif len(jobs) > 1:
        _print_answers(found, texts=output is None)
    elif found and found[0].error is not None:
        print_error(AviaryError(found[0].error))
    if interrupted:
        say(f"Interrupted: {len(found)} of {len(jobs)} answers came.")
        return 130
    return 1 if any(answer.error is not None for answer in found) else 0


def _prompts(
    words: list[str] | None, prompt: list[str] | None, file: str | None, separator: str
) -> list[str]:
    found = [" ".join(words)] if words else []
    found += prompt or []
    if file is not None:
        found += _split(_read(file), separator)
    elif not found:
        if sys.stdin.isatty():
            raise typer.BadParameter("Give a prompt: TEXT, --prompt, --prompt-file or stdin.")
        found.append(_read("-").strip())
    found = [text for text in found if text.strip()]
    if not found:
        raise typer.BadParameter("The prompt is empty.")
    return found


def _read(file: str) -> str:
    name = "stdin" if file == "-" else file
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise AviaryError(f"{name}: is not UTF-8 text.") from None
    except OSError as error:
        raise AviaryError(f"{name}: cannot be read: {_reason(error)}.") from None


def _split(text: str, separator: str) -> list[str]:
    """The prompts in a file: what stands between lines that are the separator."""
    prompts: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip() == separator.strip():
            prompts.append([])
        else:
            prompts[-1].append(line)
    return ["\n".join(lines).strip() for lines in prompts]


def _ask(
    make: Callable[[], Asker],
    jobs: list[tuple[str, str]],
    answers: dict[int, Answer],
    concurrency: int,
    *,
    as_json: bool,
) -> None:
    import asyncio

    from aviary.cli.asking import ask_all

    async def work() -> None:
        asker = make()
        try:
            if len(jobs) == 1:
                answers[0] = await asker.ask(*jobs[0], None if as_json else _print_text)
                if not as_json:
                    _end_text(answers[0])
                return
            await asker.check()
            with _bar(len(jobs)) as advance:

                def done(index: int, answer: Answer) -> None:
                    answers[index] = answer
                    advance()

                await ask_all(asker, jobs, concurrency, done)
        finally:
            await asker.close()

    asyncio.run(work())


def _print_text(text: str) -> None:
    sys.stdout.write(printable(text) if is_terminal() else text)
    sys.stdout.flush()


def _end_text(answer: Answer) -> None:
    if answer.text and not answer.text.endswith("\n"):
        _print_text("\n")
    if not is_terminal() or answer.error is not None:
        return
    parts = [
        f"first token {figure(answer.time_to_first_token_ms)} ms",
        f"in all {figure(answer.latency_ms)} ms",
        f"{figure(answer.tokens_per_second, 1)} tokens/s",
        f"tokens {figure(answer.prompt_tokens)} in, {figure(answer.completion_tokens)} out",
    ]
    if answer.finish_reason == "length":
        parts.append("cut at the longest answer allowed")
    say(" · ".join(parts))


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, when somebody sees it."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)


def _print_answers(answers: list[Answer], *, texts: bool) -> None:
    if texts:
        for answer in answers:
            if answer.text:
                print(f"== {answer.model}: {one_line(answer.prompt, 60)}")
                print(printable(answer.text.strip()))
                print()
    rows = []
    for answer in answers:
        result = f"error: {answer.error}" if answer.error else answer.finish_reason or "ok"
        rows.append(
            (
                answer.model,
                one_line(answer.prompt, 32),
                figure(answer.time_to_first_token_ms),
                figure(answer.latency_ms),
                figure(answer.tokens_per_second, 1),
                figure(answer.prompt_tokens),
                figure(answer.completion_tokens),
                one_line(result, 200),
            )
        )
    print_table(COLUMNS, rows)


def _check_writable(path: Path) -> None:
    """Fail before the models have worked, not after."""
    import os

    folder = path.parent
    if path.is_dir():
        raise AviaryError(f"{path}: is a folder.", hint="Name a file.")
    if not folder.is_dir():
        raise AviaryError(f"{path}: there is no folder {folder}.")
    if not os.access(folder, os.W_OK):
        raise AviaryError(f"{path}: cannot be written: permission denied.")


def _write(path: Path, answers: list[Answer]) -> None:
    """Write all at once: the file has either its old content or all of the new."""
    import json
    import os
    import tempfile

    data = [answer.as_dict() for answer in answers]
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    path = path.resolve()  # a link stays a link
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise AviaryError(f"{path}: cannot be written: {_reason(error)}.") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode(errors="replace"))
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # noqa: PTH101 - mkstemp makes private files
        os.replace(name, path)  # noqa: PTH105
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise AviaryError(f"{path}: cannot be written: {_reason(error)}.") from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
