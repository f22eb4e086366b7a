"""Sketches: parts added up are the whole, and percentiles are within the promised error."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.store.requests import percentile
from aviary.store.sketches import (
    BINS,
    RELATIVE_ERROR,
    Names,
    add,
    bins_of,
    doublings,
    pack,
    pack_values,
    percentiles,
    unpack,
)

VALUES = st.lists(st.floats(min_value=0.02, max_value=1e12), min_size=1, max_size=200)
PERCENTS = (1, 50, 95, 99, 100)


def packed(values: list[float]) -> bytes:
    return pack_values(np.asarray(values, np.float64))


def test_the_error_is_below_one_percent() -> None:
    assert RELATIVE_ERROR < 0.01


@given(VALUES)
def test_percentiles_are_within_the_error(values: list[float]) -> None:
    found = percentiles(unpack([packed(values)], [0], 1), PERCENTS)[0]
    for percent, value in zip(PERCENTS, found, strict=True):
        true = percentile(sorted(values), percent)
        assert value is not None
        assert true is not None
        assert math.isclose(value, true, rel_tol=RELATIVE_ERROR * (1 + 1e-9))


@given(st.lists(st.lists(st.floats(min_value=0, max_value=1e12), max_size=50), max_size=8))
def test_parts_added_up_are_the_whole(parts: list[list[float]]) -> None:
    whole = packed([value for part in parts for value in part])
    assert add([packed(part) for part in parts]) == whole


def test_counts_above_what_a_pair_holds() -> None:
    bins, counts = np.array([3, 7, 9]), np.array([65_535, 1_000_000, 65_536])
    stored = pack(bins, counts)
    again = unpack([stored, stored], [0, 1], 2)
    for row in again:
        assert row[bins].tolist() == counts.tolist()
        assert row.sum() == counts.sum()


def test_rows_are_apart_and_an_empty_one_has_no_percentile() -> None:
    counts = unpack([packed([1.0]), packed([100.0]), b""], [0, 2, 2], 3)
    assert counts.shape == (3, BINS)
    low, none, high = percentiles(counts, (50,))
    assert low[0] == pytest.approx(1, rel=0.01)
    assert none == [None]
    assert high[0] == pytest.approx(100, rel=0.01)
    assert unpack([], [], 2).sum() == 0


def test_nothing_and_next_to_nothing_are_nothing() -> None:
    assert bins_of(np.array([0.0, 1e-9])).tolist() == [0, 0]
    assert percentiles(unpack([packed([0.0])], [0], 1), (50,)) == [[0.0]]


@given(st.lists(st.integers(min_value=0, max_value=2**31 - 1), max_size=100))
def test_lengths_are_counted_exactly_between_powers_of_two(lengths: list[int]) -> None:
    spans = doublings(unpack([packed([float(n) for n in lengths])], [0], 1)[0])
    assert sum(count for _, _, count in spans) == len(lengths)
    for first, last, count in spans:
        assert count == sum(first <= length <= last for length in lengths)
    for before, after in itertools.pairwise(spans):
        assert after[0] == before[1] + 1


@given(st.lists(st.sets(st.integers(0, 500)), max_size=5))
def test_names_are_counted_once_however_they_are_merged(parts: list[set[int]]) -> None:
    whole = Names()
    for part in parts:
        names = Names()
        for number in part:
            names.add(f"ak_{number}")
        whole.merge(names.pack())
    true = len(set().union(*parts))
    assert abs(whole.count() - true) <= max(0.1 * true, 0)


def test_many_names() -> None:
    names = Names()
    random.seed(5)
    for number in range(50_000):
        names.add(f"user {number}")
    assert names.count() == pytest.approx(50_000, rel=0.08)
    assert len(names.pack()) < 1_400
    assert Names().pack() == b""
    assert Names().count() == 0
