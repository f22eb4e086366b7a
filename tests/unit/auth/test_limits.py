"""Limits: how often a session and an address may do something."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.auth import limits
from aviary.auth.limits import Limit, Limits
from aviary.core.errors import BudgetExceeded


def granted(limit: Limit, times_s: list[float], name: str = "x") -> int:
    count = 0
    for now_s in times_s:
        try:
            limit.take(name, now_s)
            count += 1
        except BudgetExceeded:
            pass
    return count


def test_all_at_once_then_one_by_one() -> None:
    limit = Limit(6, "things")
    assert granted(limit, [0.0] * 20) == 6
    assert granted(limit, [9.9]) == 0
    assert granted(limit, [10.0]) == 1
    assert granted(limit, [3600.0] * 20) == 6


def test_a_promise_to_who_is_refused_holds() -> None:
    limit = Limit(6, "things")
    granted(limit, [0.0] * 6)
    with pytest.raises(BudgetExceeded, match="More than 6 things a minute") as caught:
        limit.take("x", 3.0)
    assert caught.value.retry_after_s == pytest.approx(7.0)
    limit.take("x", 10.0)


@given(st.lists(st.floats(0, 600), min_size=1, max_size=200), st.integers(1, 50))
def test_never_more_than_the_limit(times_s: list[float], per_minute: int) -> None:
    times_s.sort()
    count = granted(Limit(per_minute, "things"), times_s)
    most = per_minute + (times_s[-1] - times_s[0]) * per_minute / 60
    assert 1 <= count <= most + 1e-6


def test_names_are_apart_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_NAMES", 3)
    limit = Limit(1, "things")
    for number in range(100):
        limit.take(f"n{number}", 0.0)
    assert granted(limit, [0.0], "n99") == 0
    assert granted(limit, [0.0], "n0") == 1  # forgotten


def test_many_sessions_of_one_address_are_bounded() -> None:
    both = Limits(5, 12, "votes")
    granted_to = 0
    for number in range(100):
        try:
            both.take(f"s{number}", "203.0.113.7", 0.0)
            granted_to += 1
        except BudgetExceeded:
            pass
    assert granted_to == 12
    both.take("s0", "203.0.113.8", 0.0)
    for number in range(100):  # this machine is a reverse proxy's address, too
        both.take(f"t{number}", "127.0.0.1", 0.0)
        both.take("", "", 0.0)
    for _ in range(5):
        both.take("one", "::1", 0.0)
    with pytest.raises(BudgetExceeded, match="session"):
        both.take("one", "::1", 0.0)
