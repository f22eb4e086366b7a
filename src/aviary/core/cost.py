"""What an answer costs. Version 1: replica time at the spec's price, or token prices."""

from __future__ import annotations

from aviary.core.states import ModelView


def answer_cost_usd(
    view: ModelView,
    *,
    prompt_tokens: int | None,
    completion_tokens: int | None,
    busy_s: float,
    sharing: int,
) -> float | None:
    """Cost of one answer in US dollars; `None` when the spec has no price.

    Priced by time, an answer pays for the seconds its replica was busy with it, divided among the
    requests that ran there together; idle time is nobody's yet.

    Args:
        view: The model, with its prices.
        prompt_tokens: As reported by the engine.
        completion_tokens: Likewise.
        busy_s: Seconds from request sent to last byte.
        sharing: Requests that ran on the replica at the same time, this one included.
    """
    if view.usd_per_hour is not None:
        return view.usd_per_hour / 3600.0 * busy_s / max(1, sharing)
    input_price = view.usd_per_million_input_tokens
    output_price = view.usd_per_million_output_tokens
    if input_price is None or output_price is None:
        return None
    return ((prompt_tokens or 0) * input_price + (completion_tokens or 0) * output_price) / 1e6
