"""Numbers in specs: finite, bounded, and the same after a trip through JSON."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from aviary.config.spec import MAX_DURATION_S, ModelSpec, format_duration, parse_duration

BASE: dict[str, Any] = {"id": "a", "engine": {"kind": "fake"}}
PLACES = [
    ("limits", "wait"),
    ("limits", "timeout"),
    ("engine", "gap"),
    ("engine", "start"),
    ("scaling", "look_back"),
    ("generation", "temperature"),
    ("generation", "repeat_penalty"),
    ("resources", "cpus"),
    ("resources", "memory_gb"),
    ("price", "usd_per_hour"),
]


@pytest.mark.parametrize(("group", "name"), PLACES)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_number_is_infinite(group: str, name: str, value: float) -> None:
    with pytest.raises(ValidationError):
        ModelSpec.model_validate({**BASE, group: {**BASE.get(group, {}), name: value}})


@pytest.mark.parametrize(
    "value", [MAX_DURATION_S + 1, "366d", "9" * 400 + "s", "1" * 100_000, 10**400, -(10**400)]
)
def test_durations_are_bounded(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelSpec.model_validate({**BASE, "limits": {"wait": value}})
    assert len(caught.value.errors()[0]["msg"]) < 1000
    assert ModelSpec.model_validate({**BASE, "limits": {"wait": "365d"}}).limits.wait > 0


@given(st.floats(0, MAX_DURATION_S) | st.integers(0, 10**7).map(lambda ms: ms / 1000))
@example(1234567.0)
@example(100.12345678)
@example(5e-324)
@example(-0.0)
@example(0.1)
def test_durations_come_back_exactly(seconds: float) -> None:
    spec = ModelSpec.model_validate({**BASE, "limits": {"wait": seconds}})
    text = spec.model_dump_json()
    assert json.loads(text)["limits"]["wait"] == format_duration(seconds)
    again = ModelSpec.model_validate_json(text)
    assert again.limits.wait == seconds == parse_duration(format_duration(seconds))
    assert again.hash == spec.hash


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.5, "500ms"), (0.002, "2ms"), (1.5, "1.5s"), (90, "90s"), (600, "10m"),
     (5400, "90m"), (7200, "2h"), (86400, "1d"), (1234567, "1234567s"), (0.1, "100ms")],
)  # fmt: skip
def test_durations_are_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
