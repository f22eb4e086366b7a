"""Renders a chat template in a process of its own, where a runaway template does no harm.

Run as `python -m aviary.cli.render_template`: reads `{"template", "conversations"}` as JSON from
stdin, prints a list of `{"text"}` or `{"error", "refused"}`. The sandbox keeps the template from
everything but its variables; limits on time, memory and output keep it from eating the machine.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
from datetime import datetime
from typing import Any

CPU_S = 3
WALL_S = 20.0
MEMORY_BYTES = 1 << 30
OUTPUT_CHARACTERS = 1_000_000


class Refused(Exception):
    """The template itself called `raise_exception`."""


def render(template: str, conversations: list[list[dict[str, str]]]) -> list[dict[str, Any]]:
    """Render the conversations in a child process.

    Returns:
        For each `{"text": …}`, or `{"error": why, "refused": by the template itself}`.
    """
    work = json.dumps({"template": template, "conversations": conversations})
    failed: str
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "aviary.cli.render_template"],
            input=work.encode(),
            capture_output=True,
            timeout=WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        failed = f"did not end within {WALL_S:g} s"
    else:
        with contextlib.suppress(ValueError):
            results: list[dict[str, Any]] = json.loads(done.stdout)
            return results
        failed = f"needs more than {CPU_S} s or {MEMORY_BYTES >> 30} GiB of memory"
    return [{"error": failed, "refused": False} for _ in conversations]


def _render_one(template: Any, messages: list[dict[str, str]]) -> dict[str, Any]:
    pieces: list[str] = []
    length = 0
    try:
        for piece in template.generate(messages=messages, add_generation_prompt=True):
            pieces.append(piece)
            length += len(piece)
            if length > OUTPUT_CHARACTERS:
                error = f"makes more than {OUTPUT_CHARACTERS:,} characters"
                return {"error": error, "refused": False}
    except Refused as error:
        return {"error": str(error), "refused": True}
    except MemoryError:
        return {"error": f"needs more than {MEMORY_BYTES >> 30} GiB of memory", "refused": False}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "refused": False}
    return {"text": "".join(pieces)}


def _main() -> None:
    work = json.loads(sys.stdin.buffer.read())
    with contextlib.suppress(ValueError, OSError):  # macOS lets neither be lowered at times
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def raise_exception(message: object) -> None:
        raise Refused(str(message))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, indent=options.get("indent")
    )
    environment.globals.update(
        raise_exception=raise_exception,
        strftime_now=lambda style: datetime.now().astimezone().strftime(style),
        bos_token="",
        eos_token="",
        tools=None,
    )
    try:
        template = environment.from_string(work["template"])
    except (TemplateError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        place = f"line {line} of the template: " if line else ""
        problem = {"error": f"{place}{error}", "refused": False}
        results = [problem for _ in work["conversations"]]
    else:
        results = [_render_one(template, messages) for messages in work["conversations"]]
    sys.stdout.buffer.write(json.dumps(results).encode())


if __name__ == "__main__":
    _main()
