"""The leaderboard's table, and the choice of a model by it."""

import csv
import io
import random

import pytest

from aviary.arena.leaderboard import How, Row, board, choose, since_of, to_csv
from aviary.arena.ratings import rate
from aviary.core.errors import InvalidRequest
from aviary.core.preference import Ballot
from aviary.store.figures import Figures

VOTES = [Ballot(f"b{n}", ("a", "gone"), "best", 0) for n in range(3)]
FIGURES = {"a": Figures(5, 90.0, 50.0, 12.0, 0.002, 80.0, 99.0), "b": Figures()}
SERVED = {"a": ("chat", "small"), "b": ("code",)}


def test_everything_that_is_known_of_a_model_is_in_its_row() -> None:
    a, gone, b = board(rate(VOTES), FIGURES, SERVED)
    assert (a.model, a.served, a.tags, a.rank, a.votes, a.win_rate) == (
        "a", True, ("chat", "small"), 1, 3, 1.0,
    )  # fmt: skip
    assert (a.ttft_p50_ms, a.tokens_per_s, a.mean_answer_tokens) == (90.0, 50.0, 12.0)
    assert (a.cost_per_answer_usd, a.cost_per_million_tokens_usd) == (0.002, 80.0)
    assert (a.answers, a.last_seen) == (5, 99.0)
    assert (gone.model, gone.served, gone.votes, gone.answers) == ("gone", False, 3, 0)
    assert b == Row("b", True, ("code",))


def test_a_tag_shows_fewer_and_changes_no_rating() -> None:
    everything = board(rate(VOTES), FIGURES, SERVED)
    assert board(rate(VOTES), FIGURES, SERVED, tag="small") == everything[:1]
    assert board(rate(VOTES), FIGURES, SERVED, tag="none") == []


def test_csv() -> None:
    rows = [Row("=HYPERLINK(1)", True, ("a", "b"), rating=1000.5), Row('x,"y"\n', False)]
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [row["model"] for row in table] == ["'=HYPERLINK(1)", 'x,"y"\n']
    assert (table[0]["tags"], table[0]["rating"], table[0]["low"]) == ("a b", "1000.5", "")


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("", 0.0),
        ("30s", 999_970),
        ("5m", 999_700),
        ("24h", 913_600),
        ("1.5d", 870_400),
        ("7", 7),
        ("1763978400", 1763978400),
    ],
)
def test_periods(text: str, since: float) -> None:
    assert since_of(text, 1_000_000.0) == since


@pytest.mark.parametrize("text", ["soon", "-1d", "7w", "1e9", "7d ", "\u0663d", "9" * 40])
def test_what_is_no_period(text: str) -> None:
    with pytest.raises(InvalidRequest):
        since_of(text, 0.0)


def choice(how: How, *ready: str) -> str:
    rows = [
        Row("a", True, rating=1100.0, ttft_p50_ms=300.0, cost_per_answer_usd=0.5),
        Row("b", True, rating=1200.0, ttft_p50_ms=100.0),
        Row("c", True, ttft_p50_ms=50.0, cost_per_answer_usd=0.1),
        Row("d", True),
    ]
    model, why = choose(how, rows, ready or ("a", "b", "c", "d"), random.Random(1).choice)
    assert why
    return model


def test_choices() -> None:
    assert choice("best") == "b"
    assert choice("fastest") == "c"
    assert choice("cheapest") == "c"
    assert choice("fastest", "a", "b") == "b"
    assert choice("cheapest", "a", "b", "d") == "a"
    assert choice("random", "d") == "d"


@pytest.mark.parametrize("how", ["best", "fastest", "cheapest"])
def test_no_choice_without_figures(how: How) -> None:
    with pytest.raises(InvalidRequest, match="No model that is ready"):
        choice(how, "d")
    with pytest.raises(InvalidRequest, match="none of them is ready"):
        choice(how, "x")
