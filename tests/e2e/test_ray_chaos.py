"""The same chaos as on the local backend, on Ray Serve. `AVIARY_CHAOS_S` makes it longer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chaos import FAKES, REAL, REPLICA_EVERY_S, Chaos, write_specs
from running import Running

CHAOS_S = float(os.environ.get("AVIARY_CHAOS_S", "60"))

pytestmark = [pytest.mark.e2e, pytest.mark.ray]


@pytest.mark.timeout(CHAOS_S + 300)
async def test_nobody_notices_killed_replicas(tmp_path: Path) -> None:
    write_specs(tmp_path / "specs")
    arguments = [str(tmp_path / "specs"), "--workers", "2", "--backend", "ray"]
    with Running(tmp_path / "h", *arguments, start_s=180) as running:
        for name in (*FAKES, REAL):
            running.wait_for(name, 2, 120)
        report = await Chaos(running, CHAOS_S, seed=13).run()
        print(report)
    assert not report.failures, report.failures[:5]
    assert report.replicas_killed >= 0.5 * CHAOS_S / REPLICA_EVERY_S - 1
    assert report.workers_killed >= 1
    assert set(report.answers) == {*FAKES, REAL}
    assert report.answers.total() > CHAOS_S
