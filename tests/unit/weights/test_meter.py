from __future__ import annotations

import pytest

from aviary.weights.meter import (
    Cancelled,
    Meter,
    SharedProgress,
    format_bytes,
    format_share,
    within,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_text_says_how_far_and_how_fast():
    told, clock = [], Clock()
    meter = Meter(lambda *args: told.append(args), "downloading", "m.gguf", 98_000_000, clock=clock)
    meter.add(0)
    clock.now += 1
    meter.add(42_000_000)
    assert told[-1] == ("downloading m.gguf 42 of 98 MB, 42 MB/s", pytest.approx(42 / 98))


def test_five_times_a_second_and_always_at_the_end():
    told, clock = [], Clock()
    meter = Meter(lambda *args: told.append(args), "v", "n", 10_000, clock=clock)
    for _ in range(10_000):
        clock.now += 0.0001
        meter.add(1)
    assert 5 <= len(told) <= 7
    assert told[-1][1] == 1.0


def test_resumed_bytes_do_not_count_as_speed():
    told, clock = [], Clock()
    meter = Meter(lambda *args: told.append(args), "v", "n", 2000, done=1000, clock=clock)
    clock.now += 1
    meter.add(500)
    assert told == [("v n 1.5 of 2.0 kB, 500 B/s", 0.75)]


def test_an_unknown_total_has_no_fraction():
    told = []
    Meter(lambda *args: told.append(args), "v", "n").add(1500)
    assert told[0][1] is None
    assert told[0][0].startswith("v n 1.5 kB")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (98.4e6, "98 MB"),
        (1.24e9, "1.2 GB"),
        (3e12, "3.0 TB"),
    ],
)
def test_sizes(count, text):
    assert format_bytes(count) == text


def test_shares():
    assert format_share(42.4e6, 98.3e6) == "42 of 98 MB"
    assert format_share(0.5e9, 4.92e9) == "0.5 of 4.9 GB"
    assert format_share(0, 0) == "0 of 0 B"


def test_shared_progress_is_the_mean_and_can_be_cancelled():
    told = []
    shared = SharedProgress(lambda *args: told.append(args), 2)
    shared.part(0)("a", 0.5)
    shared.part(1)("b", None)
    shared.part(1)("b", 1.0)
    assert told == [
        ("a (part 1 of 2)", 0.25),
        ("b (part 2 of 2)", 0.25),
        ("b (part 2 of 2)", 0.75),
    ]
    shared.cancel()
    with pytest.raises(Cancelled):
        shared.part(0)("a", 0.6)


def test_one_stretch_of_another_progress():
    told = []
    report = within(lambda *args: told.append(args), 0.5, 1)
    report("a", 0.0)
    report("b", 1.0)
    report("c", None)
    assert told == [("a", 0.5), ("b", 1.0), ("c", None)]
