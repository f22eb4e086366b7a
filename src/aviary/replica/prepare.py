"""From a client's request body to the body an engine gets: checks, defaults, hard limits.

Pure functions. Fields we do not know pass through untouched: engines know more than we do.
"""

from __future__ import annotations

from typing import Any

import msgspec

from aviary.config.spec import ModelSpec
from aviary.core.errors import InvalidRequest, PromptTooLong
from aviary.core.ports import Continuation

GENERATION_ROUTES = frozenset({"/v1/chat/completions", "/v1/completions"})
ROUTES = GENERATION_ROUTES | {"/v1/embeddings"}
SHOWN_CHARS = 60

MOST_LOGPROBS = 20
"""Alternatives a token; without a limit llama.cpp answers with its whole vocabulary for each."""


def decode_body(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request body.

    Raises:
        InvalidRequest: it is empty, not JSON, not UTF-8, or not an object.
    """
    if not raw.strip():
        raise InvalidRequest("The request body is empty; a JSON object is expected.")
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from error
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    return body


def continuation_bytes(header: bytes | None) -> int:
    """How many bytes of continuation come before a client's body.

    Args:
        header: Value of `CONTINUE_HEADER`, which only gateways can set.

    Raises:
        InvalidRequest: it is no number.
    """
    if header is None:
        return 0
    if not header.isdigit():
        raise InvalidRequest(f"The size of a continuation is {header!r}; it must be a number.")
    return int(header)


def split_continuation(header: bytes | None, raw: bytes) -> tuple[Continuation | None, bytes]:
    """The continuation that a gateway put before a client's body, and that body.

    Raises:
        InvalidRequest: the continuation cannot be read.
    """
    size = continuation_bytes(header)
    if size == 0:
        return None, raw
    try:
        return msgspec.json.decode(raw[:size], type=Continuation), raw[size:]
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"The continuation of an answer cannot be read: {error}.") from error


def weight(body: dict[str, Any]) -> int:
    """How many sequences the request generates at once (`n` times the prompts)."""
    return _prompts(body) * int(body.get("n") or 1)


def _prompts(body: dict[str, Any]) -> int:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not all(isinstance(part, int) for part in prompt):
        return len(prompt)
    return 1


def prepare(spec: ModelSpec, path: str, given: dict[str, Any]) -> dict[str, Any]:
    """The body to hand to the engine.

    Raises:
        InvalidRequest: a field that Aviary acts on has a wrong type or value; `param` names it.
    """
    body = dict(given)
    body["model"] = spec.id
    _check_n(spec, body)
    if path == "/v1/embeddings":
        if body.get("input") in (None, "", []):
            raise InvalidRequest("input is missing or empty.", param="input")
        return body
    if path == "/v1/chat/completions":
        body["messages"] = _messages(spec, body.get("messages"))
    else:
        _check_prompt(spec, body)
    for name in ("top_logprobs", "n_probs"):
        _check_count(body, name)
    if path == "/v1/completions":
        _check_count(body, "logprobs")
    for name in ("stream", "logprobs"):
        if name == "logprobs" and path == "/v1/completions":
            continue
        _check_type(body, name, bool)
    for name, value in spec.generation.model_dump(exclude_none=True).items():
        if name != "max_tokens" and body.get(name) is None:
            body[name] = value
    _limit_output(spec, body)
    _add_stop(spec, body)
    return body


def _messages(spec: ModelSpec, messages: object) -> list[Any]:
    if not isinstance(messages, list):
        raise InvalidRequest("messages must be a list of messages.", param="messages")
    if not messages:
        raise InvalidRequest("messages is empty; at least one is needed.", param="messages")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise InvalidRequest(f"{where} must be an object.", param=where)
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant", "tool", "function"):
            raise InvalidRequest(
                f"{where}.role is {_shown(role)}; "
                "it must be system, developer, user, assistant or tool.",
                param=f"{where}.role",
            )
        content = message.get("content")
        if content is None and role not in ("assistant", "tool", "function"):
            raise InvalidRequest(f"{where}.content is missing.", param=f"{where}.content")
        if content is not None and not isinstance(content, str | list):
            raise InvalidRequest(
                f"{where}.content must be a text or a list of parts.", param=f"{where}.content"
            )
    has_system = any(m["role"] in ("system", "developer") for m in messages)
    if spec.chat.system is not None and not has_system:
        return [{"role": "system", "content": spec.chat.system}, *messages]
    return messages


def _check_prompt(spec: ModelSpec, body: dict[str, Any]) -> None:
    prompt = body.get("prompt")
    if not isinstance(prompt, str | list) or not prompt:
        raise InvalidRequest("prompt must be a text or a list, not empty.", param="prompt")
    if weight(body) > spec.engine.slots:
        raise InvalidRequest(
            f"{_prompts(body)} prompts with n = {body.get('n', 1)} are {weight(body)} answers; "
            f"model {spec.id} generates at most {spec.engine.slots} at once.",
            hint="Send fewer prompts in one request.",
            param="prompt",
        )


def _check_n(spec: ModelSpec, body: dict[str, Any]) -> None:
    count = body.get("n")
    if count is None:
        body.pop("n", None)
        return
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidRequest("n must be a whole number of at least 1.", param="n")
    if count > spec.engine.slots:
        raise InvalidRequest(
            f"n is {count}; model {spec.id} generates at most {spec.engine.slots} answers at once.",
            param="n",
        )


def _check_count(body: dict[str, Any], name: str) -> None:
    value = body.get(name)
    if value is None:
        return
    if type(value) is not int or not 0 <= value <= MOST_LOGPROBS:
        raise InvalidRequest(
            f"{name} must be a whole number from 0 to {MOST_LOGPROBS}, not {_shown(value)}.",
            param=name,
        )


def _check_type(body: dict[str, Any], name: str, kind: type) -> None:
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise InvalidRequest(f"{name} must be {kind.__name__}, not {_shown(value)}.", param=name)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"


def _limit_output(spec: ModelSpec, body: dict[str, Any]) -> None:
    """One `max_tokens`, from the request or the spec's default, within the spec's hard limit."""
    wanted = None
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.pop(name, None)
        if value is None or wanted is not None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidRequest(f"{name} must be a whole number of at least 1.", param=name)
        wanted = value
    most = spec.limits.max_output_tokens
    if wanted is not None and wanted >= spec.engine.context_length:
        raise PromptTooLong(
            f"max_tokens is {wanted}; the context of model {spec.id} is "
            f"{spec.engine.context_length} tokens, prompt and output together.",
            hint="Ask for less.",
            param="max_tokens",
        )
    if wanted is None:
        wanted = spec.generation.max_tokens
        if wanted is None:
            wanted = most
    elif most is not None and wanted > most:
        raise InvalidRequest(
            f"max_tokens is {wanted}; model {spec.id} answers with at most {most} tokens.",
            param="max_tokens",
        )
    if wanted is not None:
        body["max_tokens"] = wanted


def _add_stop(spec: ModelSpec, body: dict[str, Any]) -> None:
    stop = body.get("stop")
    if stop is None:
        wanted: list[Any] = []
    elif isinstance(stop, str):
        wanted = [stop]
    elif isinstance(stop, list):
        wanted = list(stop)
    else:
        raise InvalidRequest("stop must be a text or a list of texts.", param="stop")
    if any(not isinstance(text, str) or not text for text in wanted):
        raise InvalidRequest("stop must hold texts that are not empty.", param="stop")
    wanted.extend(text for text in spec.chat.stop if text not in wanted)
    if wanted:
        body["stop"] = wanted
    else:
        body.pop("stop", None)
