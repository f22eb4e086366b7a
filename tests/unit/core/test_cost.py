from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.core.cost import answer_cost_usd
from aviary.core.states import ModelState, ModelView, ReplicaState, ReplicaView

FREE = ModelView("m")
PRICE = st.floats(0, 100)
TOKENS = st.none() | st.integers(0, 10**6)


def cost(view: ModelView, prompt: int | None, completion: int | None, busy_s: float, sharing: int):
    return answer_cost_usd(
        view, prompt_tokens=prompt, completion_tokens=completion, busy_s=busy_s, sharing=sharing
    )


@given(PRICE, TOKENS, TOKENS, st.floats(0, 1e5), st.integers(0, 100))
def test_by_time(price: float, prompt: int, completion: int, busy_s: float, sharing: int) -> None:
    view = replace(FREE, usd_per_hour=price)
    one = cost(view, prompt, completion, busy_s, sharing)
    assert one is not None
    assert one >= 0
    assert cost(view, None, None, 2 * busy_s, sharing) == pytest.approx(2 * one)
    assert one * max(1, sharing) == pytest.approx(price * busy_s / 3600)


@given(PRICE, PRICE, TOKENS, TOKENS, st.floats(0, 1e5))
def test_by_token(
    given: float, made: float, prompt: int | None, completion: int | None, busy_s: float
) -> None:
    view = replace(FREE, usd_per_million_input_tokens=given, usd_per_million_output_tokens=made)
    one = cost(view, prompt, completion, busy_s, 3)
    assert one is not None
    assert one >= 0
    assert one == pytest.approx(((prompt or 0) * given + (completion or 0) * made) / 1e6)


def test_no_price_no_cost() -> None:
    assert cost(FREE, 5, 5, 5, 1) is None
    assert cost(replace(FREE, usd_per_million_input_tokens=1.0), 5, 5, 5, 1) is None


@pytest.mark.parametrize(
    ("states", "desired", "expected"),
    [
        ("", 1, "starting"),
        ("", 0, "stopped"),
        ("starting", 1, "starting"),
        ("failed", 1, "failed"),
        ("failed starting", 1, "starting"),
        ("failed starting ready", 1, "ready"),
        ("sleeping", 1, "starting"),  # not put to rest by the fleet: on its way
        ("stopping", 0, "stopped"),
    ],
)
def test_state_of_a_model(states: str, desired: int, expected: str) -> None:
    replicas = tuple(ReplicaView(s, state=ReplicaState(s)) for s in states.split())
    view = ModelView("m", replicas=replicas, desired_replicas=desired)
    assert view.state is ModelState(expected)
