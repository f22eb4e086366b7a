"""Who is asked for: what gateway workers report of their requests. Pure bookkeeping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STALE_S = 10.0
"""A worker that has not reported for so long has ended, and its requests with it."""


@dataclass(frozen=True, slots=True)
class Use:
    """One worker's requests for one model.

    Attributes:
        in_flight: Requests it serves.
        held: Of those, requests that wait for a replica.
        age_s: Seconds since its last request began or ended.
    """

    in_flight: int = 0
    held: int = 0
    age_s: float = 0.0


@dataclass(slots=True)
class Activity:
    """When each model was last used, and what runs now, over all workers."""

    _reports: dict[str, tuple[float, Mapping[str, Use]]] = field(default_factory=dict)
    _last_used_s: dict[str, float] = field(default_factory=dict)

    def report(self, worker: str, uses: Mapping[str, Use], now_s: float) -> None:
        """Take a worker's report: all models with requests, or used since its last one."""
        self._reports[worker] = (now_s, uses)
        for model, use in uses.items():
            used_s = now_s if use.in_flight else now_s - use.age_s
            self._last_used_s[model] = max(used_s, self._last_used_s.get(model, used_s))

    def forget_stale(self, now_s: float) -> None:
        """Drop reports of workers that have ended."""
        stale = [name for name, (at_s, _) in self._reports.items() if now_s - at_s > STALE_S]
        for name in stale:
            del self._reports[name]

    def in_flight(self, model: str) -> int:
        """Requests for the model, over all workers."""
        return sum(u.in_flight for _, uses in self._reports.values() if (u := uses.get(model)))

    def held(self, model: str) -> int:
        """Requests that wait for a replica of the model."""
        return sum(u.held for _, uses in self._reports.values() if (u := uses.get(model)))

    def wanted(self) -> list[str]:
        """Models for which requests wait."""
        return sorted(
            {m for _, uses in self._reports.values() for m, use in uses.items() if use.held}
        )

    def last_used_s(self, model: str, since_s: float) -> float:
        """Clock time of the model's last request, or `since_s` when it had none later."""
        return max(self._last_used_s.get(model, since_s), since_s)
