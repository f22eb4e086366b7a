"""The fair line and the forecast: pure, so for all histories that hypothesis finds."""

from collections import Counter
from itertools import islice, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aviary.replica.line import FairLine, Place, ServiceTimes, turns_s

CLIENTS = "abcde"


def drain(line: FairLine[int], slots: int) -> list[Place[int]]:
    """Serve everybody, each as soon as its slots are free, all for the same time."""
    served: list[Place[int]] = []
    running: list[Place[int]] = []
    free = slots
    while True:
        place = line.take(free)
        if place is not None:
            served.append(place)
            running.append(place)
            free -= place.weight
        elif running:
            free += running.pop(0).weight
        else:
            return served


def clients(places: list[Place[int]]) -> str:
    return "".join(place.client for place in places)


def test_clients_take_turns() -> None:
    line: FairLine[int] = FairLine()
    for number, client in enumerate("aaaabbcaa"):
        line.add(client, 1, number)
    served = drain(line, 1)
    assert clients(served) == "abcabaaaa"
    assert [place.item for place in served if place.client == "a"] == [0, 1, 2, 3, 7, 8]


def test_a_newcomer_stands_before_who_was_served_last() -> None:
    line: FairLine[int] = FairLine()
    for number in range(500):
        line.add("hog", 1, number)
    assert line.take(1) is not None
    line.add("new", 1, 0)
    line.add("other", 1, 0)
    assert clients([place for _ in range(4) if (place := line.take(1))]) == "newotherhoghog"


def test_newcomers_in_any_number_do_not_keep_the_others_out() -> None:
    """Each comes once, with another name: the line is a line for them, too."""
    line: FairLine[int] = FairLine()
    for number in range(10):
        line.add("old", 1, number)
    for number in range(100):
        line.add(f"new {number}", 1, number)
        line.add(f"newer {number}", 1, number)
        assert line.take(1) is not None
    assert sum(1 for place in line.order() if place.client == "old") <= 9


def test_a_turn_is_a_slot() -> None:
    line: FairLine[int] = FairLine()
    for number in range(12):
        line.add("a", 4, number)
        for _ in range(4):
            line.add("b", 1, number)
    slots = Counter[str]()
    for place in drain(line, 4)[:30]:
        slots[place.client] += place.weight
        assert abs(slots["a"] - slots["b"]) <= 4


def test_debts_end_with_the_line() -> None:
    line: FairLine[int] = FairLine()
    for client in "ac":
        line.add(client, 4, 0)
    assert clients(drain(line, 4)) == "ac"
    line.add("a", 1, 1)
    line.add("b", 1, 2)
    assert clients(drain(line, 4)) == "ab"


def test_ahead_of_all() -> None:
    line: FairLine[int] = FairLine()
    line.add("a", 1, 0)
    line.add("b", 3, 1, ahead=True)
    line.add("a", 1, 2, ahead=True)
    assert line.take(2) is None  # nobody overtakes
    assert [place.item for place in line.order()] == [1, 2, 0]
    assert [place.item for place in drain(line, 3)] == [1, 2, 0]


def test_a_full_line_is_shared() -> None:
    line: FairLine[int] = FairLine()
    for number in range(6):
        line.add("hog", 1, number)
    assert line.crowded_out_by("hog") is None
    newest = line.crowded_out_by("a")
    assert newest is not None
    assert (newest.client, newest.item) == ("hog", 5)
    for client in "aab":
        victim = line.crowded_out_by(client)
        assert victim is not None
        assert victim.client == "hog"
        assert line.remove(victim)
        line.add(client, 1, 0)
    assert Counter(place.client for place in line.oldest()) == {"hog": 3, "a": 2, "b": 1}
    assert line.crowded_out_by("a") is None  # it would have as many as the hog
    assert line.crowded_out_by("b") is not None


adds = st.tuples(st.just("add"), st.sampled_from(CLIENTS), st.integers(1, 4), st.booleans())
leaves = st.tuples(st.just("remove"), st.integers(0, 30))
takes = st.tuples(st.just("take"), st.integers(0, 4))
histories = st.lists(st.one_of(adds, adds, leaves, takes), max_size=60)


@settings(max_examples=400, deadline=None)
@given(histories)
def test_any_history(history: list[tuple[str, int | str, int, bool]]) -> None:
    """Nobody is lost or served twice; a client's own come in order; the forecast is right."""
    line: FairLine[int] = FairLine()
    waiting: dict[int, Place[int]] = {}
    served: list[Place[int]] = []
    for number, step in enumerate(history):
        if step[0] == "add":
            _, client, weight, often = step
            ahead = often and number % 7 == 0
            place = line.add(str(client), weight, number, ahead=ahead)
            waiting[number] = place
        elif step[0] == "remove":
            victim = next(islice(waiting.values(), int(step[1]), None), None)
            if victim is not None:
                assert line.remove(victim)
                assert not line.remove(victim)
                del waiting[victim.item]
        else:
            expected = next(line.order(), None)
            taken = line.take(int(step[1]))
            if taken is None:
                assert expected is None or expected.weight > int(step[1])
            else:
                assert taken is expected
                assert waiting.pop(taken.item) is taken
                served.append(taken)
        assert len(line) == len(waiting)
        assert list(line.oldest()) == list(waiting.values())
    order = list(line.order())
    rest = drain(line, 4)
    assert order == rest
    assert {place.item for place in rest} == set(waiting)
    assert len(line) == 0
    assert line.take(4) is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(CLIENTS), st.integers(1, 4)), min_size=1, max_size=60),
    st.integers(4, 8),
)
def test_who_waits_gets_as_much_as_anybody(asked: list[tuple[str, int]], slots: int) -> None:
    """While two clients both wait, what they have got differs by no more than one request."""
    line: FairLine[int] = FairLine()
    left = Counter[str]()
    for number, (client, weight) in enumerate(asked):
        line.add(client, weight, number)
        left[client] += 1
    got = Counter[str]()
    for place in drain(line, slots):
        assert left[place.client] > 0
        left[place.client] -= 1
        got[place.client] += place.weight
        still = [got[client] for client in CLIENTS if left[client]]
        assert not still or max(still) - min(still) <= 4


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nobody_starves(data: st.DataObject) -> None:
    """However the others come, a request is served once those before it had their turns."""
    line: FairLine[str] = FairLine()
    slots = data.draw(st.integers(1, 4))
    for _ in range(data.draw(st.integers(0, 8))):
        line.add(data.draw(st.sampled_from(CLIENTS)), data.draw(st.integers(1, slots)), "before")
    line.add("victim", slots, "victim")
    ahead = len(list(line.order()))
    newcomers = 0
    for turn in range(400):
        if data.draw(st.booleans()):
            name = f"one-time {turn}" if data.draw(st.booleans()) else "hog"
            line.add(name, 1, "later")
            newcomers += 1
        place = line.take(slots)
        assert place is not None
        if place.item == "victim":
            return
        assert turn <= ahead + 4 * slots + 2
    raise AssertionError("it was never served")


def test_turns_by_hand() -> None:
    running = [(1, 4.0), (2, 1.0)]
    turns = turns_s(4, running, [1, 2, 4, 1], 10.0)
    # A slot is free; 2 are at 1 s; all 4 when both have ended at 11 s; then one of them is left.
    assert list(turns) == [0.0, 1.0, 11.0, 21.0]


@given(
    st.integers(1, 8),
    st.lists(st.floats(0, 100), max_size=8),
    st.floats(0.01, 100),
    st.integers(0, 50),
)
def test_turns_never_go_back(
    slots: int, remaining: list[float], service_s: float, ask: int
) -> None:
    running = [(1, left_s) for left_s in remaining[:slots]]
    turns = list(islice(turns_s(slots, running, repeat(1), service_s), ask))
    assert turns == sorted(turns)
    assert sum(turn == 0 for turn in turns) >= min(ask, slots - len(running))


def test_service_times_follow_what_ended() -> None:
    times = ServiceTimes()
    for _ in range(30):
        times.ended(10.0)
    assert times.expected_s([]) == pytest.approx(10.0, rel=0.02)
    assert times.remaining_s(4.0) == pytest.approx(6.0, rel=0.02)
    assert times.remaining_s(20.0) == pytest.approx(10.0)  # overdue: who knows
    assert times.expected_s([2.0, 3.0]) == pytest.approx(10.0, rel=0.02)
    assert times.expected_s([40.0] * 8) > 30.0  # times have changed
    for _ in range(30):
        times.ended(1.0)
    assert times.expected_s([]) == pytest.approx(1.0, rel=0.2)


def test_uneven_times_are_expected_longer_than_their_mean() -> None:
    times = ServiceTimes()
    for number in range(100):
        times.ended(1.0 if number % 2 else 9.0)
    assert 7.0 < times.expected_s([]) < 11.0
