"""Upkeep of the request log: old records go, totals stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from aviary.core.ports import RequestRecord
from aviary.store import SqlRequestLog
from aviary.store.requests import PRUNE_RECORDS


def _record(number: int, **fields: object) -> RequestRecord:
    given = {"id": f"r{number}", "time": float(number), "route": "/v1/x", "model": "m", **fields}
    return RequestRecord(**given)  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> SqlRequestLog:
    return SqlRequestLog.open(f"sqlite:///{tmp_path / 'requests.db'}")


def test_old_records_go_totals_stay(log: SqlRequestLog) -> None:
    many = PRUNE_RECORDS * 2 + 10
    log.append([_record(number) for number in range(many)])
    assert log.prune(before=many - 5) == many - 5
    assert [record.id for record in log.recent(100)] == [f"r{many - n}" for n in range(1, 6)]
    assert log.totals()["m"]["requests"] == many
    assert log.prune(before=many - 5) == 0
    log.close()


def test_when_a_key_was_used_last(log: SqlRequestLog) -> None:
    log.append([_record(1, key="a"), _record(5, key="a"), _record(3, key="b"), _record(9)])
    assert log.keys_used(since=2) == {"a": 5.0, "b": 3.0}
    log.close()


def test_names_of_models_that_do_not_exist_fill_no_table(log: SqlRequestLog) -> None:
    log.append(
        [_record(n, model=f"guess-{n}", status=404, error="model_not_found") for n in range(50)]
    )
    assert set(log.totals()) == {"(unknown)"}
    assert log.totals()["(unknown)"]["errors"] == 50
    log.close()
