import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.process.child import Backoff


@given(st.lists(st.floats(0, 29.9), min_size=1, max_size=60), st.floats(0.01, 5), st.floats(5, 100))
def test_none_at_first_then_doubling_then_bounded(
    lives: list[float], first_s: float, most_s: float
) -> None:
    backoff = Backoff(first_s, most_s, healthy_s=30)
    delays = [backoff.next_delay_s(life) for life in lives]
    assert delays[0] == 0
    assert delays == sorted(delays)
    for index, delay in enumerate(delays[1:]):
        assert delay == pytest.approx(min(most_s, first_s * 2**index))


@given(st.lists(st.floats(0, 100), max_size=60))
def test_a_healthy_life_starts_the_series_anew(lives: list[float]) -> None:
    backoff = Backoff(0.5, 30, healthy_s=30)
    failures = 0
    for life in lives:
        failures = 1 if life >= 30 else failures + 1
        expected = 0 if failures == 1 else min(30, 0.5 * 2 ** (failures - 2))
        assert backoff.next_delay_s(life) == pytest.approx(expected)


def test_it_never_tires() -> None:
    """A replica that cannot start fails thousands of times in a night."""
    backoff = Backoff(0.5, 30)
    assert [backoff.next_delay_s(0.0) for _ in range(3000)][-1] == 30
