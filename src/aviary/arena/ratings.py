"""Bradley-Terry ratings with intervals, from votes.

How a vote counts. The best of N answers beats each of the others; of the losers among themselves
nothing is known. A tie is a tie of each pair, which is half a win for both. "All bad" says nothing
of who is better, and is counted only. Two answers of the same model are no pair.

What is fitted. Model i beats j with probability 1 / (1 + exp(b_j - b_i)). evalica finds the most
likely b, with one tie of each model against an invisible average player: a model that has won or
lost everything then has a finite rating, and models that never met are comparable (Whelan, "Prior
Distributions for the Bradley-Terry Model of Paired Comparisons", arXiv:1712.05311). Shown is
1000 + 400 / ln 10 · (b_i - mean b), so that 400 points are odds of ten to one, as in Elo's scale.

How sure that is. The intervals are Wald's, 1.96 standard errors to both sides, of the larger of two
variances: that of the model, H⁻¹ with the information H, and the sandwich H⁻¹ G H⁻¹, with G summed
over battles, since the pairs of one battle are not independent (Huber 1967; for arenas: Chiang et
al., "Chatbot Arena", arXiv:2403.04132, section 5).

Ranks. A model's rank is 1 plus the number of models whose interval lies wholly above its own, so
models that the votes do not tell apart share a rank (as there).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aviary.core.preference import Ballot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals = NDArray[np.float64]

MEAN: Final = 1000.0
"""Mean rating of all models that have one."""
SCALE: Final = 400.0 / math.log(10.0)
"""Points a unit of log odds."""
Z_95: Final = 1.959964
"""Standard errors to each side that hold 95 % of a normal distribution."""
_AVERAGE: Final = ""
"""The invisible average player; no model has an empty name."""
_TOLERANCE: Final = 1e-10
_MOST_ROUNDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Pair:
    """What one vote says of two models.

    Attributes:
        battle: The battle's id.
        one: A model.
        other: Another one.
        score: 1.0 when `one` is better, 0.5 for a tie.
    """

    battle: str
    one: str
    other: str
    score: float


@dataclass(frozen=True, slots=True)
class Rating:
    """What the votes say of a model.

    Attributes:
        model: Its name.
        votes: Votes on battles in which it answered, those that found all bad included.
        pairs: In how many pairs it stood.
        win_rate: Share of its pairs that it won, a tie counting half; `None` without pairs.
        rating: On the scale above; `None` without pairs.
        low: Lower end of the rating's 95 % interval.
        high: Upper end.
        rank: From 1; shared by models that the votes do not tell apart.
    """

    model: str
    votes: int
    pairs: int = 0
    win_rate: float | None = None
    rating: float | None = None
    low: float | None = None
    high: float | None = None
    rank: int | None = None


@dataclass(slots=True)
class _Count:
    votes: int = 0
    pairs: int = 0
    won: float = 0.0


@dataclass(frozen=True, slots=True)
class _Fit:
    """Ratings and the half widths of their intervals, by model."""

    points: dict[str, float] = field(default_factory=dict)
    widths: dict[str, float] = field(default_factory=dict)


def pairs(ballot: Ballot) -> Iterator[Pair]:
    """What a vote says of each two models."""
    models = ballot.models
    if ballot.verdict == "best" and ballot.best is not None:
        best = models[ballot.best]
        for model in models:
            if model != best:
                yield Pair(ballot.battle, best, model, 1.0)
    elif ballot.verdict == "tie":
        for index, one in enumerate(models):
            for other in models[index + 1 :]:
                if one != other:
                    yield Pair(ballot.battle, min(one, other), max(one, other), 0.5)


def rate(ballots: Iterable[Ballot]) -> list[Rating]:
    """Rate all models that stood in a battle; the best first, those without a rating last.

    The order of the votes does not matter.
    """
    counts: dict[str, _Count] = {}
    said: list[Pair] = []
    for ballot in ballots:
        for model in set(ballot.models):
            counts.setdefault(model, _Count()).votes += 1
        said.extend(pairs(ballot))
    for pair in said:
        for model, score in ((pair.one, pair.score), (pair.other, 1.0 - pair.score)):
            counts[model].pairs += 1
            counts[model].won += score
    fit = _fit(said) if said else _Fit()
    ratings = [_rating(model, count, fit) for model, count in counts.items()]
    return sorted(ratings, key=lambda r: (r.rating is None, -(r.rating or 0.0), r.model))


def _rating(model: str, count: _Count, fit: _Fit) -> Rating:
    points = fit.points.get(model)
    if points is None:
        return Rating(model, count.votes)
    width = fit.widths[model]
    above = sum(
        fit.points[other] - fit.widths[other] > points + width
        for other in fit.points
        if other != model
    )
    return Rating(
        model=model,
        votes=count.votes,
        pairs=count.pairs,
        win_rate=count.won / count.pairs,
        rating=points,
        low=points - width,
        high=points + width,
        rank=1 + above,
    )


def _fit(said: Sequence[Pair]) -> _Fit:
    """The most likely strengths, and how sure they are."""
    import numpy as np

    # Sorted throughout: sums of floating point numbers then are the same in any order of votes.
    said = sorted(said, key=lambda pair: (pair.battle, pair.one, pair.other, pair.score))
    models = sorted({pair.one for pair in said} | {pair.other for pair in said})
    place = {model: index for index, model in enumerate(models)}
    one = np.array([place[pair.one] for pair in said])
    other = np.array([place[pair.other] for pair in said])
    score = np.array([pair.score for pair in said])
    strength = _strengths(said, models)
    chance = 1.0 / (1.0 + np.exp(strength[other] - strength[one]))

    information = _information(one, other, chance, strength)
    battles = {battle: index for index, battle in enumerate(sorted({p.battle for p in said}))}
    battle = np.array([battles[pair.battle] for pair in said])
    slopes = np.zeros((len(battles), len(strength)))
    np.add.at(slopes, (battle, one), score - chance)
    np.add.at(slopes, (battle, other), chance - score)

    inverse = np.linalg.pinv(information, hermitian=True)
    count = len(models)
    # Shown are differences to the models' mean; the average player, last, is in none of them.
    contrast = np.hstack([np.eye(count) - 1.0 / count, np.zeros((count, 1))])
    spread = contrast @ inverse
    plain = np.einsum("ij,ij->i", spread, contrast)
    robust = (np.square(slopes @ spread.T)).sum(axis=0)
    errors = np.sqrt(np.maximum(np.maximum(plain, robust), 0.0))
    points = MEAN + SCALE * (strength[:count] - strength[:count].mean())
    return _Fit(
        {model: float(points[index]) for model, index in place.items()},
        {model: float(Z_95 * SCALE * errors[index]) for model, index in place.items()},
    )


def _strengths(said: Sequence[Pair], models: Sequence[str]) -> Reals:
    """Log strengths of the models, and of the average player as the last one."""
    import evalica
    import numpy as np

    weights: dict[tuple[str, str, float], float] = {}
    for pair in said:
        key = (pair.one, pair.other, pair.score)
        weights[key] = weights.get(key, 0.0) + 1.0
    for model in models:
        weights[model, _AVERAGE, 0.5] = 1.0
    rows = sorted(weights)
    result = evalica.bradley_terry(
        [row[0] for row in rows],
        [row[1] for row in rows],
        [evalica.Winner.X if row[2] == 1.0 else evalica.Winner.Draw for row in rows],
        weights=[weights[row] for row in rows],
        tolerance=_TOLERANCE,
        limit=_MOST_ROUNDS,
    )
    scores = result.scores
    strengths = [math.log(float(scores[model])) for model in (*models, _AVERAGE)]
    return np.array(strengths, dtype=np.float64)


def _information(
    one: NDArray[np.int_], other: NDArray[np.int_], chance: Reals, strength: Reals
) -> Reals:
    """The information matrix: what the pairs and the ties with the average player tell."""
    import numpy as np

    average = len(strength) - 1
    models = np.arange(average)
    prior = 1.0 / (1.0 + np.exp(strength[average] - strength[:average]))
    left = np.concatenate([one, models])
    right = np.concatenate([other, np.full(average, average)])
    weight = np.concatenate([chance * (1.0 - chance), prior * (1.0 - prior)])
    matrix = np.zeros((len(strength), len(strength)))
    np.add.at(matrix, (left, left), weight)
    np.add.at(matrix, (right, right), weight)
    np.add.at(matrix, (left, right), -weight)
    np.add.at(matrix, (right, left), -weight)
    return matrix
