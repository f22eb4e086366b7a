"""Summaries that can be added up: of values (for percentiles) and of names (to count them).

Values go into a histogram of logarithmic bins, by the scheme of DDSketch (Masson, Rim, Lee, VLDB
2019, arXiv:1908.10693): with a growth g, bin *i* holds values above g^(i-1) and up to g^i, so that
its middle is off by at most (g-1)/(g+1) of any of them. Adding two histograms gives exactly that of
all their values. The growth is the 36th root of 2, an error of 0.97 %; powers of two are edges.

A stored histogram is pairs of 16-bit numbers, bin and count, little-endian, each bin in one pair
or, above 65,535, in several. So stored histograms are added by joining their bytes.

Names are counted with the HyperLogLog sketches of Apache DataSketches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from datasketches import hll_sketch, hll_union, tgt_hll_type

BINS_PER_DOUBLING: Final = 36
_LOWEST_EXPONENT: Final = -6  # up to 2^-6 (ms: 16 µs) counts as nothing
_HIGHEST_EXPONENT: Final = 40  # 1.1e12, above `records.MAX_REAL`
BINS: Final = (_HIGHEST_EXPONENT - _LOWEST_EXPONENT) * BINS_PER_DOUBLING + 1
_GROWTH: Final = 2 ** (1 / BINS_PER_DOUBLING)
RELATIVE_ERROR: Final = (_GROWTH - 1) / (_GROWTH + 1)
"""Most that a percentile is off, as a part of the true value."""
_PAIR_COUNT: Final = 65_535
_LG_K: Final = 11
"""Logarithm of a name sketch's registers: a standard error of about 2 %, at most 1.1 kB."""

Values = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.uint16]


def bins_of(values: Values) -> Numbers:
    """The bin of each value; values are 0 or more."""
    with np.errstate(divide="ignore"):
        exponents = np.log2(values)
    bins = np.ceil((exponents - _LOWEST_EXPONENT) * BINS_PER_DOUBLING)
    numbers: Numbers = np.clip(bins, 0, BINS - 1).astype(np.int64)
    return numbers


def bin_of_power(exponent: int) -> int:
    """The bin that ends at a power of two."""
    return (exponent - _LOWEST_EXPONENT) * BINS_PER_DOUBLING


_MIDDLES: Final[Values] = (
    2.0 ** (np.arange(BINS) / BINS_PER_DOUBLING + _LOWEST_EXPONENT) * 2 / (1 + _GROWTH)
)
_MIDDLES[0] = 0.0


def pack(bins: Numbers, counts: Numbers) -> bytes:
    """A histogram to store; each bin once."""
    kept = counts > 0
    bins, counts = bins[kept], counts[kept]
    if counts.size and counts.max() > _PAIR_COUNT:
        parts = -(-counts // _PAIR_COUNT)
        last = np.cumsum(parts) - 1
        rest = counts - (parts - 1) * _PAIR_COUNT
        bins = np.repeat(bins, parts)
        counts = np.full(bins.size, _PAIR_COUNT, np.int64)
        counts[last] = rest
    return np.column_stack((bins, counts)).astype("<u2").tobytes()


def pack_values(values: Values) -> bytes:
    """A histogram of values, to store."""
    bins, counts = np.unique(bins_of(values), return_counts=True)
    return pack(bins, counts)


def add(histograms: Iterable[bytes]) -> bytes:
    """The histogram of all the values in several."""
    counts = unpack([b"".join(histograms)], [0], 1)[0]
    bins = np.flatnonzero(counts)
    return pack(bins, counts[bins])


def unpack(histograms: Sequence[bytes], rows: Sequence[int], size: int) -> Numbers:
    """Add stored histograms up, by rows: an array of `size` rows with the counts of all bins.

    Args:
        histograms: Any number.
        rows: The row to which each belongs.
        size: How many rows there are.
    """
    pairs = np.frombuffer(b"".join(histograms), "<u2").reshape(-1, 2)
    lengths = np.fromiter((len(histogram) // 4 for histogram in histograms), np.int64)
    places = np.repeat(np.asarray(rows, np.int64) * BINS, lengths) + pairs[:, 0]
    flat = np.bincount(places, weights=pairs[:, 1], minlength=size * BINS)
    return flat.astype(np.int64).reshape(size, BINS)


def percentiles(counts: Numbers, percents: Sequence[float]) -> list[list[float | None]]:
    """Nearest-rank percentiles of each row of counts; `None` where a row is empty."""
    sums = np.cumsum(counts, axis=1)
    found: list[list[float | None]] = []
    for row in sums:
        total = int(row[-1])
        if total == 0:
            found.append([None] * len(percents))
            continue
        ranks = np.maximum(np.ceil(np.asarray(percents) / 100 * total), 1)
        found.append([float(_MIDDLES[place]) for place in np.searchsorted(row, ranks)])
    return found


def doublings(counts: Numbers) -> list[tuple[int, int, int]]:
    """How many whole numbers lie in 0, 1, 2, 3-4, 5-8, …: (first, last, count), up to the last."""
    ends = [0, *(bin_of_power(exponent) + 1 for exponent in range(_HIGHEST_EXPONENT))]
    nothing = int(counts[0])
    in_each = [int(counts[max(start, 1) : end].sum()) for start, end in itertools.pairwise(ends)]
    found = [(0, 0, nothing)]
    for exponent, count in enumerate(in_each):
        found.append((2 ** (exponent - 1) + 1 if exponent > 0 else 1, 2**exponent, count))
    while found and found[-1][2] == 0:
        found.pop()
    return found


class Names:
    """Counts different names, without keeping them."""

    def __init__(self) -> None:
        self._union = hll_union(_LG_K)

    def add(self, name: str) -> None:
        """Take one name."""
        self._union.update(name)

    def merge(self, stored: bytes) -> None:
        """Take the names of a stored sketch."""
        if stored:
            self._union.update(hll_sketch.deserialize(stored))

    def pack(self) -> bytes:
        """The sketch, to store; empty for no name."""
        sketch = self._union.get_result(tgt_hll_type.HLL_4)
        return b"" if sketch.is_empty() else bytes(sketch.serialize_compact())

    def count(self) -> int:
        """How many different names there were, about."""
        return round(float(self._union.get_estimate()))
