"""Write the generated parts of the documentation anew, from the code they describe.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; the rest of a file is
written by hand.

    uv run python tools/docs.py                      write what is not current
    uv run python tools/docs.py --check              only say what is not current; exit status 1
    uv run python tools/docs.py --picture < CAPTURE  docs/pictures/up.svg from terminal output
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

ROOT = Path(__file__).resolve().parent.parent
BEGIN = re.compile(r"<!-- generated: ([a-z-]+) -->")
END = "<!-- end -->"
HELP_WIDTH = 88
PICTURE = ROOT / "docs" / "pictures" / "up.svg"
PICTURE_WIDTH = 118

# What the spec declares and this version does not act on. `*` stands for all fields of a section.
LATER = {
    "scaling.max_replicas": "accepted, not acted on yet",
    "scaling.signal": "accepted, not acted on yet",
    "scaling.look_back": "accepted, not acted on yet",
    "scaling.upscale_delay": "accepted, not acted on yet",
    "scaling.downscale_delay": "accepted, not acted on yet",
    "scaling.schedule": "accepted, not acted on yet",
    "resources.tensor_parallel": "accepted, not acted on yet",
    "resources.gpus": "the Ray backend only; the local backend refuses more than 0",
    "resources.accelerator": "the Ray backend only",
    "resources.nodes": "more than 1 is refused",
    "adapters": "refused in this version",
}

# Fields whose class says nothing, because their name is OpenAI's or their limits tell all.
MEANINGS = {
    "description": "One line for people.",
    "source": "Weights; needed by `llamacpp`.",
    "engine": "What generates tokens.",
    "chat": "How a conversation becomes a prompt.",
    "generation": "Defaults of a request.",
    "resources": "What one replica needs.",
    "scaling": "How many replicas.",
    "limits": "Hard limits.",
    "adapters": "LoRA adapters.",
    "price": "For the cost of each answer.",
    "tags": "Free words.",
    "engine.context_length": "Tokens a request may use, prompt + output.",
    "engine.slots": "Requests that generate at the same time.",
    "engine.kind": "Chooses the engine.",
    "engine.faults": "Faults to commit.",
    "chat.prompt_format": "Text around each message, instead of a template.",
    "chat.prompt_format.system": "Text around a system message.",
    "chat.prompt_format.user": "Text around a user message.",
    "chat.prompt_format.assistant": "Text around an assistant message.",
    "generation.max_tokens": "Longest answer when the request does not say.",
    "generation.temperature": "0: the likeliest token each time.",
    "generation.top_p": "Sample among the likeliest tokens with this much probability together.",
    "generation.top_k": "Sample among so many likeliest tokens.",
    "generation.min_p": "Leave out tokens less likely than this share of the likeliest one.",
    "generation.repeat_penalty": "Above 1: repeat less.",
    "generation.frequency_penalty": "Above 0: repeat frequent tokens less.",
    "generation.presence_penalty": "Above 0: repeat tokens less.",
    "generation.seed": "For answers that can be repeated.",
    "scaling.min_replicas": "So many run while it is awake, at least one; 0: it starts at rest.",
    "resources.tensor_parallel": "GPUs that share one model.",
    "resources.nodes": "Machines that share one model.",
    "price.usd_per_hour": "What one replica-hour costs.",
    "price.usd_per_million_input_tokens": "Instead: price of a million prompt tokens.",
    "price.usd_per_million_output_tokens": "And of a million generated tokens.",
    "limits.max_output_tokens": "A request that asks for more is refused.",
}

ENVIRONMENT_DEFAULTS = {
    "home": "`~/.local/share/aviary`; macOS: `~/Library/Application Support/aviary`",
    "cache": "`~/.cache/aviary`; macOS: `~/Library/Caches/aviary`",
    "runtime": "the system's temporary folder (`TMPDIR`, else `/tmp`)",
}


def main() -> int:
    """Write, check, or draw; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when stale")
    parser.add_argument("--picture", action="store_true", help="draw terminal output from stdin")
    arguments = parser.parse_args()
    if arguments.picture:
        PICTURE.write_text(picture(sys.stdin.read()))
        return 0
    stale = list(not_current())
    for file, line, name, text in stale:
        sys.stderr.write(f"{file.relative_to(ROOT)}:{line}: generated part {name} is not current\n")
        if not arguments.check:
            file.write_text(text)
    if arguments.check and stale:
        sys.stderr.write("Run: uv run python tools/docs.py\n")
        return 1
    return 0


def not_current() -> Iterator[tuple[Path, int, str, str]]:
    """File, line and name of each generated part that is not current, and the file's right text.

    Raises:
        ValueError: a part has no end, or no generator.
    """
    for file in sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]):
        text = file.read_text()
        at = 0
        while begin := BEGIN.search(text, at):
            line = text.count("\n", 0, begin.start()) + 1
            end = text.find(END, begin.end())
            name = begin[1]
            if end < 0 or name not in GENERATORS:
                cause = f"has no {END}" if end < 0 else "has no generator"
                raise ValueError(f"{file.relative_to(ROOT)}:{line}: generated part {name} {cause}")
            new = f"\n\n{GENERATORS[name]().strip()}\n\n"
            old = text[begin.end() : end]
            text = text[: begin.end()] + new + text[end:]
            at = begin.end() + len(new)
            if new != old:
                yield file, line, name, text


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in r) + " |" for r in lines
    )


def first_line(thing: Any) -> str:
    """The first sentence of something's docstring."""
    return " ".join((thing.__doc__ or "").strip().split("\n\n")[0].split())


# The spec


def spec_reference() -> str:
    """All fields of a model spec, a table for each part."""
    from aviary.config.spec import ModelSpec

    parts = list(_spec_parts(ModelSpec, ""))
    return "\n\n".join(parts)


def _spec_parts(model: Any, path: str, title: str = "") -> Iterator[str]:
    from pydantic import BaseModel

    rows = []
    inner: list[tuple[Any, str, str]] = []
    for name, field in model.model_fields.items():
        place = f"{path}.{name}".lstrip(".")
        kinds = [k for k in _leaves(field.annotation) if _is_model(k, BaseModel)]
        rows.append([f"`{name}`", _type(field, place), _default(field), _meaning(field, place)])
        for kind in kinds:
            tag = _tag(kind)
            heading = f"{place} (kind: {tag})" if tag else place
            inner.append((kind, place, heading))
    heading = f"### {title or 'The spec'}"
    fields = table(["field", "type", "default", "meaning"], rows)
    yield f"{heading}\n\n{first_line(model)}\n\n{fields}"
    seen = set()
    for kind, place, heading in inner:
        if place.startswith("adapters.") or (kind, place) in seen:
            continue
        seen.add((kind, place))
        yield from _spec_parts(kind, place, heading)


def _is_model(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _leaves(annotation: Any) -> list[Any]:
    """The types an annotation is made of."""
    if get_origin(annotation) is Annotated:
        return _leaves(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType, tuple, list):
        return [leaf for arg in get_args(annotation) for leaf in _leaves(arg)]
    return [annotation]


def _tag(model: Any) -> str:
    field = model.model_fields.get("kind")
    values = get_args(field.annotation) if field is not None else ()
    return values[0] if len(values) == 1 else ""


def _type(field: Any, place: str) -> str:
    from pydantic import BaseModel

    limits = _limits(field.metadata)
    if any("parse_duration" in repr(part) for part in field.metadata):
        return "duration" + limits.replace(" ≥ 0", "")
    return _type_name(field.annotation, BaseModel, place) + limits


def _type_name(annotation: Any, base: type, place: str) -> str:
    if get_origin(annotation) is Annotated:
        metadata = get_args(annotation)[1:]
        if any("parse_duration" in repr(part) for part in metadata):
            return "duration"
        return _type_name(get_args(annotation)[0], base, place)
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        if len(kinds) > 1 and all(_is_model(kind, base) for kind in kinds):
            return "by kind, below"
        return " or ".join(_type_name(kind, base, place) for kind in kinds)
    if get_origin(annotation) is tuple:
        return "list of " + _type_name(get_args(annotation)[0], base, place)
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if _is_model(annotation, base):
        place = "source" if place == "adapters.source" else place
        return f"[{place}](#{anchor(place)})"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]


def _limits(metadata: list[Any]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = []
    for part in metadata:
        for name, sign in signs.items():
            value = getattr(part, name, None)
            if value is not None:
                found.append(f"{sign} {value:,g}" if value < 10**6 else f"{sign} {value:,}")
    return f", {' '.join(found)}".replace(", ≥", " ≥", 1).replace(", >", " >", 1) if found else ""


def _default(field: Any) -> str:
    from pydantic import BaseModel

    from aviary.config.spec import format_duration

    if field.is_required():
        return "**needed**"
    value = field.default
    if value is None or value == () or isinstance(value, BaseModel):
        return ""
    if value == "":
        return '`""`'
    if isinstance(value, float) and any("parse_duration" in repr(p) for p in field.metadata):
        return f"`{format_duration(value)}`"
    if isinstance(value, str):
        return f"`{value!r}`".replace("'", '"') if "\n" in value else f"`{value}`"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _meaning(field: Any, place: str) -> str:
    text = field.description or MEANINGS.get(place, "")
    later = LATER.get(place)
    if later is not None:
        text = f"{text} *{later[0].upper()}{later[1:]}.*".strip()
    return text


def anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    plain = re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


# The command line


def cli_reference() -> str:
    """Each command's own help."""
    import typer.main

    from aviary.cli.main import app

    root: Any = typer.main.get_command(app)
    return "\n\n".join(_command_help(root, "aviary", None))


def _command_help(command: Any, path: str, parent: Any) -> Iterator[str]:
    settings = command.context_settings
    context = command.context_class(
        command,
        info_name=path if parent is None else path.rpartition(" ")[2],
        parent=parent,
        terminal_width=HELP_WIDTH,
        max_content_width=HELP_WIDTH,
        **settings,
    )
    text = "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())
    yield f"## {path}\n\n```text\n{text}\n```"
    for name, child in getattr(command, "commands", {}).items():
        yield from _command_help(child, f"{path} {name}", context)


# HTTP


def error_table() -> str:
    """All errors with their codes."""
    from aviary.core import errors
    from aviary.gateway import app as gateway

    source = "".join(file.read_text() for file in (ROOT / "src" / "aviary").rglob("*.py"))
    known = list(_subclasses(errors.AviaryError))
    known = [kind for kind in known if kind.__module__ in (errors.__name__, gateway.__name__)]
    rows = []
    for kind in sorted(known, key=lambda kind: (kind.status, kind.code)):
        raised = re.search(rf"(?<!class )\b{kind.__name__}\(", source) is not None
        rows.append(
            [
                f"`{kind.code}`",
                str(kind.status),
                f"`{kind.type}`",
                kind.who,
                "yes" if kind.retryable else "no",
                first_line(kind) + ("" if raised else " *Not raised in this version.*"),
            ]
        )
    return table(["code", "HTTP", "type", "who", "retryable", "meaning"], rows)


def _subclasses(kind: Any) -> Iterator[Any]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def api_table() -> str:
    """The routes of `/api`."""
    from fastapi.routing import APIRoute

    from aviary.auth.visitors import may_visit
    from aviary.web.api import make_router
    from aviary.web.roles import admin

    nothing = SimpleNamespace(fleet=None, keys=None)
    rows = []
    for route in make_router(cast("Any", nothing)).routes:
        if isinstance(route, APIRoute):
            needs_admin = any(needed.dependency is admin for needed in route.dependencies)
            visits = all(may_visit(method, route.path) for method in route.methods)
            arguments = [f"`{p.name}`" for p in route.dependant.query_params]
            rows.append(
                [
                    f"`{' '.join(sorted(route.methods))} {route.path}`",
                    "admin" if needs_admin else "visitor" if visits else "user",
                    ", ".join(arguments),
                    first_line(route.endpoint),
                ]
            )
    return table(["route", "role", "query", "what it does"], rows)


def metrics_table() -> str:
    """The gateway's metrics."""
    from prometheus_client.metrics import MetricWrapperBase

    from aviary.gateway import metrics

    rows = []
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            described = next(iter(metric.describe()))
            total = "_total" if described.type == "counter" else ""
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # noqa: SLF001
            name = f"`{described.name}{total}`"
            rows.append([name, described.type, labels, described.documentation])
    return table(["name", "type", "labels", "meaning"], rows)


def buckets_list() -> str:
    """The histograms' buckets."""
    from aviary.gateway import metrics

    named = {
        "aviary_request_duration_seconds": metrics.LATENCY_BUCKETS_S,
        "aviary_time_to_first_token_seconds": metrics.TTFT_BUCKETS_S,
        "aviary_gateway_overhead_seconds": metrics.OVERHEAD_BUCKETS_S,
    }
    return "\n".join(
        f"- `{name}`: {', '.join(f'{bound:g}' for bound in bounds)}"
        for name, bounds in named.items()
    )


# Settings


def environment_table() -> str:
    """The environment variables."""
    from aviary.config.settings import Settings

    text = Settings.__doc__ or ""
    told = dict(re.findall(r"^ {8}(\w+): (.+)$", text, re.MULTILINE))
    rows = []
    for name, field in Settings.model_fields.items():
        default = ENVIRONMENT_DEFAULTS.get(name)
        if default is None:
            default = "" if field.default is None else f"`{field.default}`"
        values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        more = f" One of {', '.join(f'`{value}`' for value in values)}." if values else ""
        rows.append([f"`AVIARY_{name.upper()}`", default, told[name] + more])
    return table(["variable", "default", "meaning"], rows)


# The picture


def picture(text: str) -> str:
    """An SVG of terminal output; lines that are longer than the terminal is wide end in `…`."""
    import io

    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console
    from rich.terminal_theme import MONOKAI
    from rich.text import Text

    console = Console(record=True, width=PICTURE_WIDTH, file=io.StringIO(), force_terminal=True)
    for line in text.rstrip("\n").split("\n"):
        console.print(Text.from_ansi(line), no_wrap=True, overflow="ellipsis", highlight=False)
    # The reader's own fonts: nothing is fetched from anywhere.
    template = re.sub(r"\s*@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(
        title="aviary", theme=MONOKAI, code_format=template, unique_id="aviary"
    )
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


GENERATORS: dict[str, Callable[[], str]] = {
    "spec": spec_reference,
    "cli": cli_reference,
    "errors": error_table,
    "api": api_table,
    "metrics": metrics_table,
    "buckets": buckets_list,
    "environment": environment_table,
}


if __name__ == "__main__":
    sys.exit(main())
