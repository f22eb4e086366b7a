"""The checks of `aviary check`: does this spec do what its author expects, before it is served?"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aviary.cli.render_template import render
from aviary.config.loader import load_spec
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import AviaryError, EngineError, StartFailed, TimedOut
from aviary.core.ports import EngineRequest, Progress

MARK = 'Say "ünï" <b>&amp; {{x}}</b> 漢字.'
"""A message with everything that careless templates spoil."""

_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Check:
    """One check's outcome.

    Attributes:
        spec: The spec's file.
        name: `spec`, `template` or `generate`.
        ok: Whether it passed.
        seconds: How long it took.
        detail: What was found, in words.
    """

    spec: str
    name: str
    ok: bool
    seconds: float
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def check_spec(
    path: Path,
    settings: Settings,
    *,
    generate: bool,
    timeout_s: float,
    progress: Progress,
) -> Iterator[Check]:
    """Run the checks, one after the other; those that need an earlier one end with it."""
    found: list[ModelSpec] = []

    def read() -> str:
        found.append(load_spec(path))
        return f"{found[0].id}, engine {found[0].engine.kind}"

    yield _timed(path, "spec", read)
    if not found:
        return
    spec = found[0]
    if spec.chat.template is not None or spec.chat.prompt_format is not None:
        check = _timed(path, "template", lambda: check_template(spec))
        yield check
        if not check.ok:
            return
    if generate:
        yield _timed(
            path, "generate", lambda: asyncio.run(_generate(spec, settings, timeout_s, progress))
        )


def _timed(path: Path, name: str, work: Callable[[], str]) -> Check:
    began = time.perf_counter()
    try:
        detail = work()
    except AviaryError as error:
        return Check(str(path), name, False, round(time.perf_counter() - began, 3), str(error))
    return Check(str(path), name, True, round(time.perf_counter() - began, 3), detail)


def check_template(spec: ModelSpec) -> str:
    """Render three conversations; raises `AviaryError` when the template spoils one."""
    from aviary.engines.templates import chat_template

    user = {"role": "user", "content": MARK}
    system = {"role": "system", "content": spec.chat.system or "You are helpful."}
    earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    conversations = {
        "one message": [user],
        "with a system message": [system, user],
        "of several turns": [*earlier, user],
    }
    template = chat_template(spec.chat)
    if template is None:
        return "the weights' own template"
    results = render(template, list(conversations.values()))
    notes = []
    for (name, messages), result in zip(conversations.items(), results, strict=True):
        if "error" in result:
            if result["refused"] and messages[0] is system and spec.chat.system is None:
                notes.append(f"refuses system messages ({result['error']})")
                continue
            raise AviaryError(f"A conversation {name}: the template fails: {result['error']}.")
        _check_text(name, messages, result["text"])
    size = f"{len(results)} conversations rendered"
    return "; ".join([size, *notes])


def _check_text(name: str, messages: list[dict[str, str]], text: str) -> None:
    at = -1
    for message in messages:
        content = message["content"].strip()
        at = text.find(content, at + 1)
        if at < 0:
            raise AviaryError(
                f"A conversation {name}: the {message['role']} message is lost, changed or out of "
                f"order in what the template makes: {_short(text)}"
            )


async def _generate(
    spec: ModelSpec, settings: Settings, timeout_s: float, progress: Progress
) -> str:
    from aviary.engines.registry import create_engine

    engine = create_engine(spec, settings)
    try:
        async with asyncio.timeout(timeout_s):
            await engine.start(progress)
            progress("generating", None)
            embeddings = bool(getattr(spec.engine, "embeddings", False))
            response = await engine.generate(_request(spec, embeddings=embeddings))
            pieces = [piece async for piece in response.body]
    except TimeoutError:
        raise TimedOut(f"No answer within {timeout_s:g} s.", hint="Raise --timeout.") from None
    except AviaryError:
        raise
    except Exception as error:
        raise StartFailed(f"The engine failed: {type(error).__name__}: {error}.") from error
    finally:
        await engine.stop()
    return _judge(response.status, b"".join(pieces), embeddings=embeddings)


def _request(spec: ModelSpec, *, embeddings: bool) -> EngineRequest:
    """A short request, prepared with the spec's defaults and limits as a replica does."""
    from aviary.replica.prepare import prepare

    path = "/v1/embeddings"
    body: dict[str, Any] = {"input": "A bird sings."}
    if not embeddings:
        path = "/v1/chat/completions"
        body = {
            "messages": [{"role": "user", "content": "Say hello."}],
            "max_tokens": _TOKENS,
            "temperature": 0,
        }
    return EngineRequest(path, prepare(spec, path, body), "check")


def _judge(status: int, body: bytes, *, embeddings: bool) -> str:
    """What the answer says; raises when it is none."""
    try:
        data = json.loads(body)
        if status >= 400 or "error" in data:
            raise EngineError(f"The engine answered HTTP {status}: {_short(body.decode())}")
        if embeddings:
            return f"{len(data['data'][0]['embedding'])} dimensions"
        text = data["choices"][0]["message"]["content"]
        tokens = (data.get("usage") or {}).get("completion_tokens")
    except (ValueError, LookupError, TypeError):
        shown = _short(body.decode(errors="replace"))
        raise EngineError(f"The engine's answer is not OpenAI's: {shown}") from None
    if not text:
        raise EngineError(
            "The engine generated no text.", hint="Check chat.template and chat.stop."
        )
    return f"{tokens} tokens: {_short(text)}" if tokens is not None else _short(text)


def _short(text: str) -> str:
    shown = text if len(text) <= 120 else f"{text[:120]}…"
    return json.dumps(shown, ensure_ascii=False)
