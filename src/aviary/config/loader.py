"""Reads model specs from YAML files, and says exactly what is wrong with the bad ones.

Every problem is one line, `FILE:LINE:COLUMN: field.path: what is wrong. hint`, so that editors can
jump to it; one `SpecError` lists them all (at most 20).
"""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from aviary.config.explain import explain, field_path
from aviary.config.spec import ModelSpec
from aviary.config.strict_yaml import Document, Problem, Unreadable, decode, read
from aviary.core.errors import SpecError

MAX_PROBLEMS = 20

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a spec's text turned out to be.

    Attributes:
        spec: The spec; `None` when anything is wrong.
        problems: What is wrong, in order of place.
        document: Says where each field stands.
    """

    spec: ModelSpec | None
    problems: list[Problem]
    document: Document = field(default_factory=Document)


def load_spec(path: Path, *, check_source: bool = True) -> ModelSpec:
    """Read one spec file.

    Args:
        path: The YAML file.
        check_source: Also require that local weights (`file:`) without a mirror exist.

    Raises:
        SpecError: the file cannot be read, or is no correct spec.
    """
    spec, problems = _load(path, check_source=check_source)
    if spec is None:
        raise _error(problems)
    return spec


def load_specs(paths: Sequence[Path], *, check_source: bool = True) -> list[ModelSpec]:
    """Read several spec files, or all `*.yaml` and `*.yml` files of folders (not of their folders).

    A file that is named more than once counts once.

    Raises:
        SpecError: a path is missing, a folder has no specs, a spec is wrong, or two share an id.
    """
    specs: list[ModelSpec] = []
    problems: list[str] = []
    seen: set[Path] = set()
    origin: dict[str, Path] = {}
    for path in _files(paths, problems):
        real = path.resolve()
        if real in seen:
            continue
        seen.add(real)
        spec, found = _load(path, check_source=check_source)
        problems += found
        if spec is None:
            continue
        if spec.id in origin:
            other = origin[spec.id]
            problems.append(f"{path}: id: {spec.id} is also the id in {other}. Ids must differ.")
        origin.setdefault(spec.id, path)
        specs.append(spec)
    if problems:
        raise _error(problems)
    return specs


def parse_spec(text: str | bytes, name: str, *, folder: Path | None = None) -> ModelSpec:
    """Read a spec from text.

    Args:
        text: YAML (or JSON, which is YAML too).
        name: What to call it in messages, usually the file's name.
        folder: Where relative `file:` addresses begin; left out, they stay as they are.

    Raises:
        SpecError: it is no correct spec.
    """
    spec, problems = _parse(text, name, folder=folder, check_source=False)
    if spec is None:
        raise _error(problems)
    return spec


def read_spec(text: str) -> Reading:
    """Read a spec from text, and say what is wrong with it by places instead of raising.

    Args:
        text: YAML (or JSON, which is YAML too).
    """
    return _read(text, folder=None, check_source=False)


def spec_files(paths: Sequence[Path]) -> list[Path]:
    """The spec files that paths name: files as they are, folders as their `*.yaml` and `*.yml`.

    Raises:
        SpecError: a folder has none, or cannot be read.
    """
    problems: list[str] = []
    files = list(_files(paths, problems))
    if problems:
        raise _error(problems)
    return files


def catalog_dir() -> Path:
    """The folder of the starter catalog: packaged with the wheel, else the repository's `models/`.

    Raises:
        SpecError: this installation has neither.
    """
    package = Path(str(importlib.resources.files("aviary")))
    for folder in (package / "catalog", package.parents[1] / "models"):
        if folder.is_dir():
            return folder
    raise SpecError(
        "This installation has no starter catalog.", hint="Give the specs to serve: aviary up SPEC…"
    )


def _error(problems: list[str]) -> SpecError:
    shown = problems[:MAX_PROBLEMS]
    if len(problems) > MAX_PROBLEMS:
        shown.append(f"… and {len(problems) - MAX_PROBLEMS} more.")
    return SpecError("\n".join(shown))


def _files(paths: Sequence[Path], problems: list[str]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        try:
            files = sorted(
                file
                for file in path.iterdir()
                if file.suffix in _SUFFIXES and not file.name.startswith(".") and file.is_file()
            )
        except OSError as error:
            problems.append(f"{path}: cannot be read: {_reason(error)}.")
            continue
        if not files:
            problems.append(f"{path}: holds no *.yaml or *.yml file.")
        yield from files


def _load(path: Path, *, check_source: bool) -> tuple[ModelSpec | None, list[str]]:
    if path.is_dir():
        return None, [f"{path}: is a folder, not a spec file."]
    try:
        with path.open("rb") as file:
            data = file.read((1 << 20) + 1)
    except FileNotFoundError:
        return None, [f"{path}: there is no such file."]
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        return None, [f"{path}: cannot be read: {_reason(error)}."]
    folder = Path(os.path.abspath(path)).parent  # noqa: PTH100 - as written: links stay links
    return _parse(data, str(path), folder=folder, check_source=check_source)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _parse(
    text: str | bytes, name: str, *, folder: Path | None, check_source: bool
) -> tuple[ModelSpec | None, list[str]]:
    reading = _read(text, folder=folder, check_source=check_source)
    return reading.spec, [_line(name, problem) for problem in reading.problems]


def _read(text: str | bytes, *, folder: Path | None, check_source: bool) -> Reading:
    try:
        document = read(decode(text) if isinstance(text, bytes) else text)
    except Unreadable as error:
        return Reading(None, [error.problem])
    problems = list(document.problems)
    spec: ModelSpec | None = None
    if not isinstance(document.data, dict):
        hint = "Begin with id: and engine: (see aviary schema)."
        problems.append(Problem((1, 1), (), "is not a mapping (lines of key: value).", hint))
    elif "route" in document.data:
        message = "routes are not available in this version."
        problems = [Problem(document.position(("route",), key=True), ("route",), message)]
    else:
        _resolve(document, folder, problems, check_exists=check_source)
        try:
            spec = ModelSpec.model_validate(document.data, strict=True)
        except ValidationError as error:
            problems += explain(error, document)
    if problems:
        problems.sort(key=lambda problem: problem.position or (0, 0))
        return Reading(None, problems, document)
    return Reading(spec, [], document)


def _line(name: str, problem: Problem) -> str:
    place = f"{name}:{problem.position[0]}:{problem.position[1]}" if problem.position else name
    where = f"{field_path(problem.path)}: " if problem.path else ""
    return f"{place}: {where}{problem.text}"


def _resolve(
    document: Document, folder: Path | None, problems: list[Problem], *, check_exists: bool
) -> None:
    """Make `file:` addresses of weights absolute, in place."""
    sources: list[tuple[tuple[str | int, ...], Any]] = [(("source",), document.data.get("source"))]
    adapters = document.data.get("adapters")
    if isinstance(adapters, tuple):
        sources += [
            (("adapters", index, "source"), adapter.get("source"))
            for index, adapter in enumerate(adapters)
            if isinstance(adapter, dict)
        ]
    for path, source in sources:
        if not isinstance(source, dict):
            continue
        must_exist = check_exists and not source.get("mirrors")
        for key, value in source.items():
            if key == "uri":
                source[key] = _absolute(
                    value, (*path, key), folder, document, problems, must_exist=must_exist
                )
            elif key in ("parts", "mirrors") and isinstance(value, tuple):
                source[key] = tuple(
                    _absolute(
                        item,
                        (*path, key, index),
                        folder,
                        document,
                        problems,
                        must_exist=must_exist and key == "parts",
                    )
                    for index, item in enumerate(value)
                )


def _absolute(
    uri: Any,
    path: tuple[str | int, ...],
    folder: Path | None,
    document: Document,
    problems: list[Problem],
    *,
    must_exist: bool,
) -> Any:
    if not isinstance(uri, str) or not uri.lower().startswith("file:"):
        return uri

    def wrong(message: str, hint: str = "") -> None:
        problems.append(Problem(document.position(path), path, message, hint))

    rest = uri[len("file:") :]
    if rest.startswith("//"):
        host = urlsplit(f"file:{rest}").netloc
        if host not in ("", "localhost"):
            wrong(
                f"{uri} names the host {host}.",
                "Write file:relative/path or file:///absolute/path.",
            )
            return uri
        rest = rest[2 + len(host) :]
    rest = unquote(rest)
    if not rest.strip("/"):
        wrong(f"{uri} names no file.")
        return uri
    target = Path(rest)
    if rest.startswith("~"):
        try:
            target = target.expanduser()
        except RuntimeError:
            wrong(f"{uri} names a home folder that is unknown.")
            return uri
    if folder is None and not target.is_absolute():
        return uri
    target = Path(os.path.normpath((folder or Path("/")) / target))
    if must_exist and not target.is_file():
        wrong(f"there is no file {target}.", "Relative addresses begin at the spec's folder.")
    return target.as_uri()
