"""What the request log says of each model: speed, length and cost of its answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select

from aviary.store.database import Database
from aviary.store.records import clean_text
from aviary.store.requests import percentile
from aviary.store.schema import request_log

SAMPLE: Final = 2_000
"""Most answers of a model, the newest, that figures are made from."""
ROUTES: Final = ("/v1/chat/completions", "/v1/completions")
"""Where answers are text."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How a model answered lately, by the gateway's clock; `None` is what is not known.

    Attributes:
        answers: How many answers these figures are made from.
        ttft_p50_ms: Median of received → first token, of streamed answers.
        tokens_per_s: Tokens after the first by the time they took, of streamed answers together.
        mean_answer_tokens: Mean length.
        cost_per_answer_usd: Mean cost.
        cost_per_million_tokens_usd: Cost by tokens, those of prompt and answer together.
        last_seen: When the newest of the answers began, in unix seconds.
    """

    answers: int = 0
    ttft_p50_ms: float | None = None
    tokens_per_s: float | None = None
    mean_answer_tokens: float | None = None
    cost_per_answer_usd: float | None = None
    cost_per_million_tokens_usd: float | None = None
    last_seen: float | None = None


def figures(database: Database, models: Iterable[str], since: float = 0.0) -> dict[str, Figures]:
    """Figures of models, over the newest `SAMPLE` whole answers of each since a unix time.

    Args:
        database: The open `requests` database.
        models: Their names.
        since: Unix time in seconds of the earliest answer.

    Raises:
        StoreError: The database failed.
    """
    columns = request_log.c
    found: dict[str, Figures] = {}
    with database.read() as connection:
        for model in models:
            query = (
                select(
                    columns.time,
                    columns.stream,
                    columns.time_to_first_token_ms.label("ttft_ms"),
                    columns.latency_ms,
                    columns.prompt_tokens,
                    columns.completion_tokens,
                    columns.cost_usd,
                )
                .where(
                    columns.model == clean_text(model, 256),
                    columns.time >= since,
                    columns.status < 400,
                    columns.error == "",
                    columns.route.in_(ROUTES),
                )
                .order_by(columns.time.desc())
                .limit(SAMPLE)
            )
            found[model] = _sum_up(connection.execute(query).all())
    return found


def _sum_up(rows: Sequence[Any]) -> Figures:
    if not rows:
        return Figures()
    streamed = [row for row in rows if row.stream and row.ttft_ms is not None]
    written = [row for row in streamed if (row.completion_tokens or 0) > 1]
    writing_ms = sum(row.latency_ms - row.ttft_ms for row in written)
    lengths = [row.completion_tokens for row in rows if row.completion_tokens is not None]
    priced = [row for row in rows if row.cost_usd is not None]
    cost_usd = sum(row.cost_usd for row in priced)
    tokens = sum((row.prompt_tokens or 0) + (row.completion_tokens or 0) for row in priced)
    return Figures(
        answers=len(rows),
        ttft_p50_ms=percentile(sorted(row.ttft_ms for row in streamed), 50),
        tokens_per_s=(
            sum(row.completion_tokens - 1 for row in written) / writing_ms * 1000.0
            if writing_ms > 0
            else None
        ),
        mean_answer_tokens=sum(lengths) / len(lengths) if lengths else None,
        cost_per_answer_usd=cost_usd / len(priced) if priced else None,
        cost_per_million_tokens_usd=cost_usd / tokens * 1e6 if tokens else None,
        last_seen=rows[0].time,
    )
