"""Ratings: what they must be for any votes, and that their intervals hold what they promise."""

import itertools
import math
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aviary.arena.ratings import MEAN, SCALE, Pair, pairs, rate
from aviary.core.preference import Ballot

MODELS = ["a", "b", "c", "d"]


def best(battle: object, winner: str, *losers: str) -> Ballot:
    return Ballot(str(battle), (winner, *losers), "best", 0)


@st.composite
def ballots(draw: st.DrawFn) -> Ballot:
    models = tuple(draw(st.lists(st.sampled_from(MODELS), min_size=2, max_size=4)))
    verdict = draw(st.sampled_from(["best", "tie", "all_bad"]))
    index = draw(st.integers(0, len(models) - 1)) if verdict == "best" else None
    return Ballot(f"b{draw(st.integers(0, 9))}", models, verdict, index)  # type: ignore[arg-type]


votes = st.lists(ballots(), min_size=1, max_size=30)


def test_the_best_of_three_says_nothing_of_the_losers() -> None:
    assert list(pairs(Ballot("x", ("a", "b", "c"), "best", 1))) == [
        Pair("x", "b", "a", 1.0),
        Pair("x", "b", "c", 1.0),
    ]
    assert list(pairs(Ballot("x", ("c", "b", "a"), "tie"))) == [
        Pair("x", "b", "c", 0.5),
        Pair("x", "a", "c", 0.5),
        Pair("x", "a", "b", 0.5),
    ]
    assert list(pairs(Ballot("x", ("a", "b", "c"), "all_bad"))) == []
    assert list(pairs(Ballot("x", ("a", "a", "b"), "best", 0))) == [Pair("x", "a", "b", 1.0)]
    assert list(pairs(Ballot("x", ("a", "a"), "tie"))) == []


def test_nothing_from_nothing() -> None:
    assert rate([]) == []


def test_all_bad_is_counted_and_rates_nobody() -> None:
    found = rate([Ballot("x", ("a", "b"), "all_bad")])
    assert [(r.model, r.votes, r.pairs) for r in found] == [("a", 1, 0), ("b", 1, 0)]
    assert all(r.rating is r.rank is r.low is r.high is r.win_rate is None for r in found)


def test_votes_of_all_bad_move_no_rating() -> None:
    some = [best(n, "a", "b") for n in range(5)]
    more = [*some, *(Ballot(f"x{n}", ("a", "b", "c"), "all_bad") for n in range(9))]
    a, b, c = rate(more)
    assert [(r.model, r.votes) for r in (a, b, c)] == [("a", 14), ("b", 14), ("c", 9)]
    assert [(r.rating, r.low, r.high) for r in (a, b)] == [
        (r.rating, r.low, r.high) for r in rate(some)
    ]
    assert c.rating is None


def test_ten_to_one_is_400_points() -> None:
    some = [best(n, "a", "b") for n in range(10_000)]
    some += [best(f"x{n}", "b", "a") for n in range(1_000)]
    a, b = rate(some)
    assert a.rating is not None
    assert b.rating is not None
    assert a.rating - b.rating == pytest.approx(400, abs=0.5)
    assert a.rating + b.rating == pytest.approx(2 * MEAN)
    # One standard error of the log odds is sqrt(1/wins + 1/losses); each has half of it.
    width = 1.96 * SCALE * math.sqrt(1 / 10_000 + 1 / 1_000) / 2
    assert a.high is not None
    assert a.high - a.rating == pytest.approx(width, rel=0.01)


def test_ranks_are_shared_until_intervals_separate() -> None:
    few = rate([best(1, "a", "b"), best(2, "b", "c")])
    assert [r.rank for r in few] == [1, 1, 1]
    many = rate([best(n, "a", "b") for n in range(200)])
    assert [(r.model, r.rank) for r in many] == [("a", 1), ("b", 2)]
    level = [best(n, *(("b", "c") if n % 2 else ("c", "b"))) for n in range(200)]
    both = [*level, *(best(f"x{n}", "a", "b", "c") for n in range(200))]
    assert [(r.model, r.rank) for r in rate(both)] == [("a", 1), ("b", 2), ("c", 2)]


@given(votes, st.randoms())
@settings(max_examples=150, deadline=None)
def test_order_does_not_matter(some: list[Ballot], dice: random.Random) -> None:
    shuffled = list(some)
    dice.shuffle(shuffled)
    assert rate(shuffled) == rate(some)


@given(votes)
@settings(max_examples=150, deadline=None)
def test_names_do_not_matter(some: list[Ballot]) -> None:
    names = dict(zip(MODELS, ["d", "c", "b", "a"], strict=True))
    renamed = [Ballot(b.battle, tuple(names[m] for m in b.models), b.verdict, b.best) for b in some]
    found = {r.model: r for r in rate(renamed)}
    for rating in rate(some):
        other = found[names[rating.model]]
        assert (other.votes, other.pairs, other.rank) == (rating.votes, rating.pairs, rating.rank)
        for one, two in zip(
            (rating.rating, rating.low, rating.high),
            (other.rating, other.low, other.high),
            strict=True,
        ):
            assert one == pytest.approx(two, abs=1e-3)


@given(st.lists(ballots().filter(lambda b: len(b.models) == 2), min_size=1, max_size=20))
@settings(max_examples=150, deadline=None)
def test_turning_all_votes_round_mirrors_ratings(some: list[Ballot]) -> None:
    turned = [
        Ballot(b.battle, b.models, b.verdict, None if b.best is None else 1 - b.best) for b in some
    ]
    found = {r.model: r for r in rate(turned)}
    for rating in rate(some):
        if rating.rating is not None:
            mirrored = found[rating.model].rating
            assert mirrored == pytest.approx(2 * MEAN - rating.rating, abs=1e-3)


@given(votes)
@settings(max_examples=150, deadline=None)
def test_everything_is_finite_and_fits_together(some: list[Ballot]) -> None:
    found = rate(some)
    assert {r.model for r in found} == {m for b in some for m in b.models}
    rated = [r for r in found if r.rating is not None]
    assert sum(r.rating or 0 for r in rated) == pytest.approx(MEAN * len(rated))
    for r in rated:
        assert r.low is not None
        assert r.high is not None
        assert r.win_rate is not None
        assert math.isfinite(r.high)
        assert r.low < (r.rating or 0) < r.high
        assert 0 <= r.win_rate <= 1
    for one, two in itertools.pairwise(rated):
        assert (one.rating or 0) >= (two.rating or 0)
        assert (one.rank or 0) <= len(rated)
    for one, two in itertools.combinations(rated, 2):
        if (one.rank or 0) < (two.rank or 0) and (two.high or 0) >= (one.low or 0):
            # They overlap, yet some third model lies between the one's reach and the other's.
            assert any((third.low or 0) > (two.high or 0) for third in rated)


@given(votes, st.integers(1, 30))
@settings(max_examples=150, deadline=None)
def test_who_always_wins_is_first(some: list[Ballot], battles: int) -> None:
    assume(any(pair for ballot in some for pair in pairs(ballot)))
    more = [*some, *(best(f"w{n}", "winner", *MODELS) for n in range(battles))]
    first = rate(more)[0]
    assert (first.model, first.rank, first.win_rate) == ("winner", 1, 1.0)


@pytest.mark.parametrize(("answers", "votes"), [(2, 400), (3, 250), (5, 150)])
def test_known_strengths_lie_in_their_intervals(answers: int, votes: int) -> None:
    """Voters who choose by Luce's rule, 60 arenas of them: 95 % of all intervals hold."""
    dice = random.Random(answers)
    held = total = 0
    for _ in range(60):
        names = [f"m{n}" for n in range(6)]
        strength = {name: dice.gauss(0, 0.8) for name in names}
        mean = sum(strength.values()) / len(names)
        some = []
        for number in range(votes):
            shown = dice.sample(names, answers)
            winner = dice.choices(shown, [math.exp(strength[name]) for name in shown])[0]
            some.append(Ballot(f"b{number}", tuple(shown), "best", shown.index(winner)))
        for r in rate(some):
            true = MEAN + SCALE * (strength[r.model] - mean)
            assert r.low is not None
            assert r.high is not None
            held += r.low <= true <= r.high
            total += 1
    print(f"{held / total:.3f}")
    assert total == 360
    assert 0.92 <= held / total <= 0.985
