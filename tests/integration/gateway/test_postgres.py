"""The whole of Aviary with its state in a real PostgreSQL server."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from postgres import postgres
from running import Running, chat


@pytest.fixture
def database() -> Iterator[str]:
    """A server of our own, out of a wheel; not below pytest's folder, see `test_store`."""
    with postgres() as url:
        yield url


def test_log_and_keys_are_in_postgres(database: str, tmp_path: Path) -> None:
    spec = tmp_path / "a.yaml"
    spec.write_text("id: a\nengine: {kind: fake, tokens: 8}\n")
    with Running(tmp_path / "h", str(spec), AVIARY_DATABASE_URL=database) as running:
        with running.client() as client:
            for _ in range(20):
                assert client.post("/v1/chat/completions", json=chat("a", "x")).status_code == 200
            made = client.post("/api/keys", json={"name": "boss", "role": "admin"})
            assert made.status_code == 201
        rows: list[tuple[str, int]] = []
        deadline = time.monotonic() + 10
        while len(rows) < 20 and time.monotonic() < deadline:
            time.sleep(0.1)
            # The log's table is made by the first worker that opens it, in the background.
            with (
                contextlib.suppress(psycopg.errors.UndefinedTable),
                psycopg.connect(database) as connection,
            ):
                rows = connection.execute("select model, status from request_log").fetchall()
        with psycopg.connect(database) as connection:
            keys = connection.execute("select name from api_keys").fetchall()
        assert rows == [("a", 200)] * 20
        assert keys == [("boss",)]
        assert not list(running.home.glob("*.db")), "SQLite files beside PostgreSQL"


def test_without_its_driver_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from aviary.store import SqlKeys\n"
        "SqlKeys.open('postgresql://127.0.0.1:1/x')\n"
    )
    failed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert failed.returncode == 1
    assert "aviary-llm[postgres]" in failed.stderr
