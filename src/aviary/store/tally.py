"""Adds request records up per step of time and model: rows of the table `traffic`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import Select, select

from aviary.store.records import is_error
from aviary.store.requests import UNKNOWN_MODEL
from aviary.store.schema import request_log
from aviary.store.sketches import Names, Numbers, add, bins_of, pack

ALL_MODELS: Final = ""
"""The model of rows that stand for all models together; they have a peak only."""
COUNTS: Final = ("requests", "errors", "prompt_tokens", "completion_tokens", "cost_usd")
HISTOGRAMS: Final = ("ttft_ms", "latency_ms", "prompt_lengths", "completion_lengths")

Second = tuple[str, int]
"""A model and a unix second."""


@dataclass(slots=True)
class Tally:
    """What the requests of one model that began within one step add up to.

    Attributes:
        start: When the step begins, in unix seconds.
        model: The model; `ALL_MODELS`: all of them.
        requests: How many.
        errors: Those of them that failed.
        prompt_tokens: As the engines reported.
        completion_tokens: Likewise.
        cost_usd: Of those with a price.
        peak: Most requests that began within one second.
        ttft_ms: Histogram of the times to the first token, of answers without error.
        latency_ms: Histogram of the latencies, of answers without error.
        prompt_lengths: Histogram of the prompts' tokens.
        completion_lengths: Histogram of the answers' tokens.
        users: Sketch of who asked.
    """

    start: int
    model: str
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    peak: int = 0
    ttft_ms: bytes = b""
    latency_ms: bytes = b""
    prompt_lengths: bytes = b""
    completion_lengths: bytes = b""
    users: bytes = b""

    def merge(self, other: Tally) -> None:
        """Add another's requests, which are not among these; its peak is of the same seconds."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.peak = max(self.peak, other.peak)
        for name in HISTOGRAMS:
            mine, more = getattr(self, name), getattr(other, name)
            if more:
                setattr(self, name, add((mine, more)) if mine else more)
        if other.users and other.users != self.users:
            names = Names()
            names.merge(self.users)
            names.merge(other.users)
            self.users = names.pack()


def tallied_columns() -> Select[Any]:
    """Select of the request log with the columns that a batch is made from."""
    log = request_log.c
    return select(
        log.seq,
        log.time,
        log.model,
        log.error,
        log.status,
        log.key,
        log.client,
        log.time_to_first_token_ms,
        log.latency_ms,
        log.prompt_tokens,
        log.completion_tokens,
        log.cost_usd,
    )


def tallied_model(model: str, error: str) -> str:
    """Under which name a request is counted: those of models that do not exist are one."""
    return UNKNOWN_MODEL if error == "model_not_found" or not model else model


class Batch:
    """Some records, ready to be added up in steps of any length.

    Args:
        rows: As `tallied_columns` selects them.
    """

    def __init__(self, rows: Sequence[Sequence[Any]]) -> None:
        columns = list(zip(*rows, strict=True)) if rows else [()] * 12
        _, times, models, errors, statuses, keys, clients, ttft, latency, prompts, answers, cost = (
            columns
        )
        self._size = len(rows)
        self._time = np.asarray(times, np.float64)
        self._models: list[str] = []
        self._model = _codes(map(tallied_model, models, errors), self._models)
        self._error = np.fromiter(map(is_error, statuses, errors), bool, self._size)
        fine = np.fromiter(
            (status < 400 and not error for status, error in zip(statuses, errors, strict=True)),
            bool,
            self._size,
        )
        self._users: list[str] = []
        # A key's id begins with `ak_`, a hash does not: the two are never taken for each other.
        self._user = _codes(
            (key or client for key, client in zip(keys, clients, strict=True)), self._users
        )
        ttft_ms, latency_ms = _numbers(ttft), _numbers(latency)
        prompt_tokens, completion_tokens = _numbers(prompts), _numbers(answers)
        self._sums = {
            "prompt_tokens": np.nan_to_num(prompt_tokens),
            "completion_tokens": np.nan_to_num(completion_tokens),
            "cost_usd": np.nan_to_num(_numbers(cost)),
        }
        self._bins = {
            "ttft_ms": _known_bins(ttft_ms, fine),
            "latency_ms": _known_bins(latency_ms, fine),
            "prompt_lengths": _known_bins(prompt_tokens, None),
            "completion_lengths": _known_bins(completion_tokens, None),
        }

    @property
    def newest(self) -> float:
        """When the newest began, in unix seconds."""
        return float(self._time.max(initial=0.0))

    def seconds(self) -> dict[Second, int]:
        """How many requests began within each second, per model and of all models."""
        counts: dict[Second, int] = {}
        for model, second in zip(
            self._model.tolist(), np.floor(self._time).astype(np.int64).tolist(), strict=True
        ):
            for name in (self._models[model], ALL_MODELS):
                counts[name, second] = counts.get((name, second), 0) + 1
        return counts

    def tallies(self, step_s: int, seconds: Mapping[Second, int], since: float) -> list[Tally]:
        """The sums for steps of some length.

        Args:
            step_s: The length in seconds.
            seconds: How many requests began within each second, those before this batch included.
            since: Steps that begin before this unix time are left out.
        """
        starts = np.floor(self._time / step_s).astype(np.int64) * step_s
        width = max(len(self._models), 1)
        groups = starts * width + self._model
        order = np.argsort(groups, kind="stable")
        order = order[starts[order] >= since]
        if not order.size:
            return []
        edges = np.flatnonzero(np.diff(groups[order])) + 1
        found = {}
        for members in np.split(order, edges):
            start, model = int(starts[members[0]]), self._models[self._model[members[0]]]
            found[start, model] = self._tally(start, model, members)
        for start in {start for start, _ in found}:
            found[start, ALL_MODELS] = Tally(start, ALL_MODELS)
        for (model, second), count in seconds.items():
            tally = found.get((second // step_s * step_s, model))
            if tally is not None and count > tally.peak:
                tally.peak = count
        return list(found.values())

    def _tally(self, start: int, model: str, members: npt.NDArray[np.int64]) -> Tally:
        users = Names()
        for user in np.unique(self._user[members]).tolist():
            if self._users[user]:
                users.add(self._users[user])
        return Tally(
            start=start,
            model=model,
            requests=len(members),
            errors=int(self._error[members].sum()),
            prompt_tokens=int(self._sums["prompt_tokens"][members].sum()),
            completion_tokens=int(self._sums["completion_tokens"][members].sum()),
            cost_usd=float(self._sums["cost_usd"][members].sum()),
            users=users.pack(),
            ttft_ms=_histogram(self._bins["ttft_ms"][members]),
            latency_ms=_histogram(self._bins["latency_ms"][members]),
            prompt_lengths=_histogram(self._bins["prompt_lengths"][members]),
            completion_lengths=_histogram(self._bins["completion_lengths"][members]),
        )


def _codes(names: Iterable[str], found: list[str]) -> Numbers:
    """A number for each name; `found` gets the names by number."""
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(name, len(numbers)) for name in names]
    found.extend(numbers)
    return np.asarray(codes, np.int64)


def _numbers(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    return np.asarray(values, np.float64)  # None becomes NaN


def _known_bins(values: npt.NDArray[np.float64], which: npt.NDArray[np.bool_] | None) -> Numbers:
    """The values' bins; -1 for what is unknown or left out."""
    known = ~np.isnan(values)
    if which is not None:
        known &= which
    bins = np.full(values.shape, -1, np.int64)
    bins[known] = bins_of(values[known])
    return bins


def _histogram(bins: Numbers) -> bytes:
    found, counts = np.unique(bins[bins >= 0], return_counts=True)
    return pack(found, counts)


def in_parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """A sequence in parts: databases bound the parameters of a statement."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
