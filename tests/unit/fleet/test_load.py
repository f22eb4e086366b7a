"""Rates from counts that were read now and then."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aviary.fleet.load import TokenRates


def test_a_rate_is_that_of_the_last_ten_seconds() -> None:
    rates = TokenRates()
    assert rates.rate("r", 1000, 0.0) is None  # it may have made them at any time
    assert rates.rate("r", 1001, 0.1) is None
    assert rates.rate("r", 1020, 2.0) == 10
    for second in range(3, 30):
        assert rates.rate("r", 1020, float(second)) is not None
    assert rates.rate("r", 1020, 30.0) == 0
    assert rates.rate("r", 1120, 31.0) == 10


def test_after_a_pause_it_begins_anew() -> None:
    rates = TokenRates()
    rates.rate("r", 0, 0.0)
    assert rates.rate("r", 900, 60.0) is None  # nobody looked: not all of it was lately
    assert rates.rate("r", 920, 62.0) == 10


def test_replicas_that_are_gone_are_forgotten() -> None:
    rates = TokenRates()
    rates.rate("a", 0, 0.0)
    rates.rate("b", 0, 0.0)
    rates.keep_only(["b"])
    assert rates.rate("a", 10, 1.0) is None
    assert rates.rate("b", 10, 1.0) == 10


@given(st.lists(st.tuples(st.floats(0.01, 20), st.integers(-50, 500)), min_size=1, max_size=80))
def test_no_rate_is_absurd(steps: list[tuple[float, int]]) -> None:
    rates, now_s, tokens = TokenRates(), 0.0, 1000
    for pause_s, more in steps:
        now_s, tokens = now_s + pause_s, max(0, tokens + more)
        rate = rates.rate("r", tokens, now_s)
        assert rate is None or 0 <= rate <= 500 * len(steps) / 0.5
    assert len(rates._counts["r"]) <= len(steps)
