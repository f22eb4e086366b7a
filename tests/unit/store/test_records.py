import math
import random
import statistics

from hypothesis import given
from hypothesis import strategies as st

from aviary.core.ports import RequestRecord
from aviary.store import clean
from aviary.store.records import MAX_COUNT, MAX_REAL, clean_text, is_error
from aviary.store.requests import percentile


def test_an_ordinary_record_stays_as_it_is() -> None:
    record = RequestRecord(
        id="req-1",
        time=1_790_000_000.5,
        route="/v1/chat/completions",
        model="smöllm 🐦",
        time_to_first_token_ms=0.1,
        completion_tokens=MAX_COUNT,
        cost_usd=0.0,
    )
    assert clean(record) == record


def test_extremes() -> None:
    record = clean(
        RequestRecord(
            id="x" * 129,
            time=math.nan,
            route="a\0b",
            model="\ud800",
            status=-5,
            latency_ms=math.inf,
            overhead_ms=math.nan,
            time_to_first_token_ms=-0.5,
            prompt_tokens=10**400,
            completion_tokens=-1,
            cost_usd="dear",  # type: ignore[arg-type]
        )
    )
    assert record == RequestRecord(
        id="x" * 128,
        time=0.0,
        route="a\ufffdb",
        model="?",
        status=0,
        latency_ms=MAX_REAL,
        overhead_ms=None,
        time_to_first_token_ms=0.0,
        prompt_tokens=MAX_COUNT,
        completion_tokens=0,
        cost_usd=None,
    )


@given(st.text(alphabet=st.characters()), st.integers(1, 20))
def test_clean_text(text: str, size: int) -> None:
    cleaned = clean_text(text, size)
    assert len(cleaned) <= size
    assert "\0" not in cleaned
    cleaned.encode()
    assert clean_text(cleaned, size) == cleaned


def test_what_counts_as_an_error() -> None:
    assert not is_error(200, "")
    assert is_error(200, "replica_crashed")
    assert is_error(404, "")
    assert not is_error(499, "client_left")


@given(st.lists(st.floats(0, 1e9), min_size=1))
def test_percentile_is_a_value_of_the_sample(values: list[float]) -> None:
    values.sort()
    assert percentile(values, 0) == values[0]
    assert percentile(values, 100) == values[-1]
    assert percentile(values, 50) == statistics.median_low(values)


def test_percentile_of_nothing_and_of_many() -> None:
    assert percentile([], 50) is None
    uniform = random.Random(1)
    values = sorted(uniform.random() for _ in range(10_000))
    assert abs((percentile(values, 95) or 0) - 0.95) < 0.01
