"""One table of quality, speed and cost, and the choice of a model by it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Final, Literal

from aviary.arena.ratings import Rating
from aviary.core.errors import InvalidRequest

if TYPE_CHECKING:
    from aviary.store.figures import Figures

How = Literal["fastest", "cheapest", "best", "random"]

_PERIOD: Final = re.compile(r"([0-9]{1,10}(?:\.[0-9]{1,6})?)([smhd]?)")
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Row:
    """One model on the leaderboard; `None` is what is not known.

    Attributes:
        model: Its name.
        served: Whether it is served here now.
        tags: Its spec's tags.
        rank: Shared by models that the votes do not tell apart.
        rating: Bradley-Terry, on a scale like Elo's with mean 1000.
        low: Lower end of the rating's 95 % interval.
        high: Upper end.
        votes: Votes on battles in which it answered.
        pairs: In how many pairs these votes put it.
        win_rate: Share of its pairs that it won, a tie counting half.
        ttft_p50_ms: Median time to first token.
        tokens_per_s: Speed of an answer after its first token.
        mean_answer_tokens: Mean length of its answers.
        cost_per_answer_usd: Mean cost.
        cost_per_million_tokens_usd: Cost by tokens, those of prompt and answer together.
        answers: How many answers speed and cost are made from.
        last_seen: When it answered last, in unix seconds.
        judge: Mean rating by judge models; unknown until there are evaluations.
    """

    model: str
    served: bool
    tags: tuple[str, ...] = ()
    rank: int | None = None
    rating: float | None = None
    low: float | None = None
    high: float | None = None
    votes: int = 0
    pairs: int = 0
    win_rate: float | None = None
    ttft_p50_ms: float | None = None
    tokens_per_s: float | None = None
    mean_answer_tokens: float | None = None
    cost_per_answer_usd: float | None = None
    cost_per_million_tokens_usd: float | None = None
    answers: int = 0
    last_seen: float | None = None
    judge: float | None = None


def board(
    ratings: Iterable[Rating],
    figures: Mapping[str, Figures],
    served: Mapping[str, tuple[str, ...]],
    tag: str | None = None,
) -> list[Row]:
    """Join what is known; the best rated first, then those without a rating by name.

    Args:
        ratings: Of the votes.
        figures: Of the request log, by model.
        served: The models that are served now, with their tags.
        tag: Only models that are served with this tag; `None` for all, also those voted on that are
            served no more. Ratings are those among all models, either way.
    """
    by_model = {rating.model: rating for rating in ratings}
    rows = []
    for model in {*by_model, *served}:
        if tag is not None and tag not in served.get(model, ()):
            continue
        rating = by_model.get(model, Rating(model, 0))
        row = {name: getattr(rating, name) for name in _RATING_FIELDS}
        if model in figures:
            row |= {name: getattr(figures[model], name) for name in _FIGURE_FIELDS}
        rows.append(Row(model, model in served, served.get(model, ()), **row))
    return sorted(rows, key=lambda row: (row.rating is None, -(row.rating or 0.0), row.model))


_RATING_FIELDS: Final = ("rank", "rating", "low", "high", "votes", "pairs", "win_rate")
_FIGURE_FIELDS: Final = tuple(
    field.name
    for field in fields(Row)
    if field.name not in (*_RATING_FIELDS, "model", "served", "tags", "judge")
)


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with a head; what is not known is empty.

    A text that a spreadsheet would compute gets a `'` before it.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([field.name for field in fields(Row)])
    for row in rows:
        values = asdict(row) | {"tags": " ".join(row.tags)}
        writer.writerow([_cell(value) for value in values.values()])
    return text.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def since_of(text: str, now: float) -> float:
    """The unix time of `7d`, `24h`, `5m` or `30s` before now, or of a unix time in seconds.

    Raises:
        InvalidRequest: it is no such thing.
    """
    if not text:
        return 0.0
    found = _PERIOD.fullmatch(text)
    if found is None:
        raise InvalidRequest(
            f"{text[:32]!r} is no period.", hint="Write for example 24h, 7d or 30d.", param="since"
        )
    number = float(found[1])
    return now - number * _UNITS_S[found[2]] if found[2] else number


def choose(
    how: How, rows: Sequence[Row], ready: Collection[str], pick: Callable[[Sequence[str]], str]
) -> tuple[str, str]:
    """Choose a model by what is known of those that can answer now.

    Args:
        how: By what.
        rows: What is known.
        ready: The models to choose among.
        pick: Chooses one of several at random.

    Returns:
        The model, and why, in words.

    Raises:
        InvalidRequest: there is no model to choose, or nothing is known yet by which to choose.
    """
    among = [row for row in rows if row.model in ready]
    if not among:
        raise InvalidRequest("There is no model to choose: none of them is ready.", param="among")
    if how == "random":
        return pick(sorted(row.model for row in among)), f"one of {len(among)} at random"
    if how == "best":
        rated = [(-row.rating, row.model) for row in among if row.rating is not None]
        if rated:
            points, model = min(rated)
            return model, f"rated {-points:.0f}"
    elif how == "fastest":
        timed = [(row.ttft_p50_ms, row.model) for row in among if row.ttft_p50_ms is not None]
        if timed:
            ttft_ms, model = min(timed)
            return model, f"first token after {ttft_ms:.0f} ms (median)"
    else:
        priced = [
            (row.cost_per_answer_usd, row.model)
            for row in among
            if row.cost_per_answer_usd is not None
        ]
        if priced:
            cost_usd, model = min(priced)
            return model, f"{cost_usd:.6f} USD an answer"
    lacking = {"best": "has votes", "fastest": "has streamed an answer"}.get(how, "has a price")
    raise InvalidRequest(
        f"No model that is ready {lacking} yet.", hint="Choose at random.", param="how"
    )
