"""kill -9 of replicas and gateway workers under load, on the local backend: no request fails.

`AVIARY_CHAOS_S` makes the run longer than a minute.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chaos import FAKES, REAL, REPLICA_EVERY_S, Chaos, write_specs
from running import Running

CHAOS_S = float(os.environ.get("AVIARY_CHAOS_S", "60"))


@pytest.mark.timeout(CHAOS_S + 180)
async def test_nobody_notices_killed_replicas(tmp_path: Path) -> None:
    write_specs(tmp_path / "specs")
    with Running(tmp_path / "h", str(tmp_path / "specs"), "--workers", "2") as running:
        for name in (*FAKES, REAL):
            running.wait_for(name, 2, 60)
        report = await Chaos(running, CHAOS_S, seed=11).run()
        print(report)
    assert not report.failures, report.failures[:5]
    assert report.replicas_killed >= 0.8 * CHAOS_S / REPLICA_EVERY_S - 1
    assert report.workers_killed >= 1
    assert set(report.answers) == {*FAKES, REAL}
    assert report.answers.total() > 2 * CHAOS_S
