import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.routing.balancer import (
    EJECT_FIRST_S,
    EJECT_MOST_S,
    Endpoint,
    choose,
    eject,
    restore,
    take_report,
)

NOW = 1000.0
ENDPOINTS = st.lists(
    st.builds(
        lambda slots, outstanding, reported, back, ejected: Endpoint(
            "",
            "h",
            1,
            slots=slots,
            outstanding=outstanding,
            reported=reported,
            reported_outstanding=back,
            ejected_until=ejected,
        ),
        st.integers(1, 8),
        st.integers(0, 20),
        st.integers(0, 20),
        st.integers(0, 20),
        st.sampled_from([0.0, NOW, NOW + 0.001, NOW + 9]),
    ),
    max_size=6,
)
DRAW = st.floats(0, 1, exclude_max=True)


@given(ENDPOINTS, st.sets(st.integers(0, 5)), DRAW, DRAW)
def test_choice(endpoints: list[Endpoint], excluded: set[int], one: float, two: float) -> None:
    for number, endpoint in enumerate(endpoints):
        endpoint.id = str(number)
    draws = iter([one, two])
    drawn = choose(endpoints, NOW, lambda: next(draws), {str(number) for number in excluded})
    usable = [
        endpoint
        for number, endpoint in enumerate(endpoints)
        if number not in excluded and endpoint.ejected_until <= NOW
    ]
    assert (drawn is None) == (not usable)
    assert drawn is None or drawn in usable
    if len(usable) > 1 and drawn is not None:
        first = usable[int(one * len(usable))]
        others = [endpoint for endpoint in usable if endpoint is not first]
        second = others[int(two * len(others))]
        assert drawn.load == min(first.load, second.load)
        assert drawn is first or drawn is second


def test_load_is_shared_by_choice() -> None:
    chance = random.Random(1)
    endpoints = [Endpoint(str(number), "h", 1, slots=4) for number in range(5)]
    for _ in range(1000):
        drawn = choose(endpoints, NOW, chance.random)
        assert drawn is not None
        drawn.outstanding += 1
    counts = [endpoint.outstanding for endpoint in endpoints]
    assert sum(counts) == 1000
    assert max(counts) - min(counts) <= 5  # random choice alone would give about 30


def test_eject_and_restore() -> None:
    endpoint = Endpoint("a", "h", 1)
    now = NOW
    pauses = []
    for _ in range(9):
        eject(endpoint, now)
        pauses.append(endpoint.ejected_until - now)
        assert choose([endpoint], endpoint.ejected_until - 0.001, random.random) is None
        now = endpoint.ejected_until
        assert choose([endpoint], now, random.random) is endpoint
    assert pauses[:5] == [0.5, 1, 2, 4, 8]
    assert pauses[5:] == [EJECT_MOST_S] * 4
    restore(endpoint)
    assert choose([endpoint], 0.0, random.random) is endpoint
    eject(endpoint, now)
    assert endpoint.ejected_until == now + EJECT_FIRST_S


def test_failures_of_one_moment_count_once() -> None:
    """Sixty requests hit the same dead replica: that is one failure and no reason for 15 s."""
    endpoint = Endpoint("a", "h", 1)
    for number in range(60):
        eject(endpoint, NOW + number / 1000)
    assert endpoint.ejected_until == NOW + EJECT_FIRST_S
    eject(endpoint, NOW + EJECT_FIRST_S)
    assert endpoint.ejected_until == NOW + EJECT_FIRST_S + 2 * EJECT_FIRST_S


def test_a_replica_may_stay_dead() -> None:
    endpoint = Endpoint("a", "h", 1)
    now = NOW
    for _ in range(3000):
        eject(endpoint, now)
        assert endpoint.ejected_until - now <= EJECT_MOST_S
        now = endpoint.ejected_until


@pytest.mark.parametrize(
    "nonsense",
    [b"", b",,", b"1,2", b"1,2,3,4", b"a,b,c", b"-1,2,3", b"1.5,2,3", b" 1,2,3", b"1,2,\xb2",
     b"9" * 5000 + b",1,1"],
)  # fmt: skip
def test_nonsense_reports_are_ignored(nonsense: bytes) -> None:
    endpoint = Endpoint("a", "h", 1, slots=3, outstanding=2, reported=4, reported_outstanding=1)
    take_report(endpoint, nonsense)
    assert (endpoint.slots, endpoint.reported, endpoint.reported_outstanding) == (3, 4, 1)


def test_reports() -> None:
    endpoint = Endpoint("a", "h", 1, slots=1, outstanding=3)
    take_report(endpoint, b"5,2,4")
    assert endpoint.load == 7 / 4  # four of other workers, three of ours
    endpoint.outstanding = 1  # two of ours have ended since
    assert endpoint.load == 5 / 4
    take_report(endpoint, b"0,0,0")
    assert endpoint.slots == 1
    assert endpoint.load == 1
