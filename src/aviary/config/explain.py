"""What pydantic found wrong with a spec, in words for the person who wrote the YAML."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from aviary.config.spec import ModelSpec
from aviary.config.strict_yaml import Document, Path, Problem, below

_PATTERNS = {
    "id": (
        "must be 1 to 63 lower-case letters, digits, dots, dashes or underscores, "
        "and begin with a letter or digit"
    ),
    "sha256": "must be 64 lower-case hex digits",
}
_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping (lines of key: value)",
    "model_type": "a mapping (lines of key: value)",
}


def explain(error: ValidationError, document: Document) -> list[Problem]:
    """Each of pydantic's errors as a problem at a place in the document.

    Errors about parts that already have a problem as YAML are left out.
    """
    known = [problem.path for problem in document.problems]
    problems = []
    for detail in error.errors(include_url=False):
        problem = _explain(detail, document)
        if not below(problem.path, known):
            problems.append(problem)
    return problems


def suggestion(word: str, known: Iterable[str]) -> str:
    """`Did you mean …?` when one of the known words is close, else the list of them."""
    names = list(known)
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(names)}."


def field_path(path: Path) -> str:
    """A path as people write it: `scaling.schedule[0].cron`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _explain(detail: ErrorDetails, document: Document) -> Problem:
    path = _path(detail["loc"])
    kind = detail["type"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    if kind == "extra_forbidden":
        hint = suggestion(str(path[-1]), _fields(path[:-1], document.data))
        return Problem(document.position(path, key=True), path, "unknown key.", hint)
    if kind == "missing":
        return Problem(document.position(path[:-1], key=True), path, "is missing.")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _engine_kind(kind, path, context, document)
    if kind in _KINDS:
        message, hint = _wrong_type(path, _KINDS[kind], detail["input"], document)
        return Problem(document.position(path), path, message, hint)
    if kind == "value_error":
        whole = isinstance(detail["input"], Mapping | tuple)
        return Problem(document.position(path, key=whole), path, f"{context['error']}.")
    if kind == "string_pattern_mismatch" and path and path[-1] in _PATTERNS:
        message = f"{_PATTERNS[str(path[-1])]}, not {_shown(detail['input'])}."
        return Problem(document.position(path), path, message)
    if kind == "literal_error":
        expected = [
            word.strip(" '") for word in context["expected"].replace(" or ", ", ").split(",")
        ]
        hint = suggestion(str(detail["input"]), expected)
        return Problem(
            document.position(path), path, f"unknown value {_shown(detail['input'])}.", hint
        )
    return Problem(document.position(path), path, _plain(detail))


def _path(loc: tuple[str | int, ...]) -> Path:
    """Pydantic's location without the union's tag, which is not in the file."""
    if len(loc) > 1 and loc[0] == "engine":
        return (loc[0], *loc[2:])
    return loc


def _engine_kind(kind: str, path: Path, context: Mapping[str, Any], document: Document) -> Problem:
    kinds = [word for member in _members(ModelSpec, "engine") for word in _kind_of(member)]
    path = (*path, "kind")
    if kind == "union_tag_not_found":
        position = document.position(path[:-1], key=True)
        return Problem(position, path, "is missing.", f"Known: {', '.join(kinds)}.")
    tag = str(context["tag"])
    message = f"unknown engine kind {document.written.get(path, tag)}."
    return Problem(document.position(path), path, message, suggestion(tag, kinds))


def _wrong_type(path: Path, wanted: str, given: object, document: Document) -> tuple[str, str]:
    written = document.written.get(path)
    if given is None:
        return f"must be {wanted}, but nothing is given.", "Fill it in, or remove the key."
    if isinstance(given, Mapping):
        return f"must be {wanted}, not a mapping.", "Check the indentation below it."
    if isinstance(given, tuple):
        return f"must be {wanted}, not a list.", ""
    if isinstance(given, bool):
        is_read = f"must be {wanted}; {written or given} is read as true/false."
        return is_read, "Put it in quotes." if wanted == "text" else ""
    if isinstance(given, int | float):
        is_read = f"must be {wanted}; {written or given} is read as a number."
        return is_read, "Put it in quotes." if wanted == "text" else ""
    hint = "Remove the quotes." if written is None and "number" in wanted else ""
    if wanted == "a list":
        hint = f"Write it as [{given}]." if len(str(given)) < 40 else ""
    return f"must be {wanted}, not {_shown(given)}.", hint


def _plain(detail: ErrorDetails) -> str:
    message = detail["msg"]
    for begin in ("Input should ", "String should ", "Tuple should ", "Value should "):
        if message.startswith(begin):
            message = f"must {message.removeprefix(begin)}"
    message = message.replace(" after validation", "").replace("valid tuple", "list")
    shown = _shown(detail["input"])
    return f"{message}, not {shown}." if ", not " not in message else f"{message}."


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else f'"{value[:60]}…" ({len(value):,} characters)'
    if isinstance(value, Mapping | tuple):
        return "a mapping" if isinstance(value, Mapping) else f"a list of {len(value)}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fields(path: Path, data: Any) -> list[str]:
    """The keys that may stand at the path."""
    model: type[BaseModel] | None = ModelSpec
    for part in path:
        data = _child(data, part)
        if isinstance(part, int):
            continue
        if model is None or part not in model.model_fields:
            return []
        members = _members(model, part)
        model = members[0] if members else None
        if len(members) > 1 and isinstance(data, Mapping):
            model = next((m for m in members if data.get("kind") in _kind_of(m)), None)
    return list(model.model_fields) if model is not None else []


def _child(data: Any, part: str | int) -> Any:
    if isinstance(part, int):
        return data[part] if isinstance(data, tuple) and part < len(data) else None
    return data.get(part) if isinstance(data, Mapping) else None


def _members(model: type[BaseModel], name: str) -> list[type[BaseModel]]:
    """The model classes that a field may hold, through optionals, lists and unions."""
    found: list[type[BaseModel]] = []

    def visit(annotation: Any) -> None:
        arguments = typing.get_args(annotation)
        if not arguments and isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        for argument in arguments:
            visit(argument)

    visit(model.model_fields[name].annotation)
    return found


def _kind_of(model: type[BaseModel]) -> tuple[str, ...]:
    kind = model.model_fields.get("kind")
    return tuple(typing.get_args(kind.annotation)) if kind is not None else ()
