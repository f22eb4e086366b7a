"""One suite over every database the store runs on: a SQLite file and a real PostgreSQL."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from aviary.core.errors import InvalidRequest, StoreError
from aviary.core.ports import FleetStore, RequestRecord, StoredDeployment, StoredEvent
from aviary.store import (
    FleetEventLog,
    RecordWriter,
    SqlFleet,
    SqlKeys,
    SqlRequestLog,
    clean,
    open_database,
)
from aviary.store.records import MAX_COUNT, MAX_REAL
from aviary.store.schema import METADATA


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


@pytest.fixture
def fleet(url: str) -> Iterator[SqlFleet]:
    fleet = SqlFleet.open(url)
    yield fleet
    fleet.close()


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


def deployment(model: str, **changes: object) -> StoredDeployment:
    values = {"model": model, "position": 0, "spec": {"id": model}}
    return StoredDeployment(**(values | changes))  # type: ignore[arg-type]


def event(number: int, model: str = "m") -> StoredEvent:
    return StoredEvent(time=1000.0 + number, model=model, kind="ready", detail=str(number))


class TestFleet:
    def test_gives_back_every_field(self, fleet: SqlFleet) -> None:
        store: FleetStore = fleet
        full = StoredDeployment(
            model="qwen/2.5",
            position=1,
            spec={"id": "qwen/2.5", "tags": ["ä", "🐦", "\0", "\ud800"], "engine": {"slots": 4}},
            previous={"id": "qwen/2.5", "engine": {"slots": 2, "price": None, "rate": 0.1}},
            created=1_790_000_000.123456,
            changed=1_790_000_001.5,
            changed_by="ak_000000000001",
            memory_bytes=3 * 2**40,
            wake_s=1.25,
        )
        bare = deployment("bare", position=2)
        happened = StoredEvent(
            time=1_790_000_000.5,
            model="qwen/2.5",
            kind="crashed",
            replica="qwen/2.5/ab12cd",
            detail="Killed by signal 9. 🐦\nlast line",
            changed_by="ak_000000000001",
        )
        store.save([bare, full], [], [happened])
        assert store.deployments() == [full, bare]
        (found,) = store.events(10)
        assert found.seq > 0
        assert found == StoredEvent(
            happened.time,
            happened.model,
            happened.kind,
            happened.replica,
            happened.detail,
            happened.changed_by,
            found.seq,
        )

    def test_save_replaces_whole_rows_and_deletes(self, fleet: SqlFleet) -> None:
        fleet.save([deployment("a", previous={"id": "a"}, wake_s=1.0), deployment("b")], [], [])
        fleet.save([deployment("a", position=3, spec={"id": "a", "x": 1})], ["b", "never"], [])
        assert fleet.deployments() == [deployment("a", position=3, spec={"id": "a", "x": 1})]

    def test_what_is_deleted_and_put_at_once_is_there(self, fleet: SqlFleet) -> None:
        fleet.save([deployment("a", wake_s=1.0)], [], [])
        fleet.save([deployment("a")], ["a"], [])
        assert fleet.deployments() == [deployment("a")]

    def test_an_emptied_fleet_is_not_a_new_one(self, fleet: SqlFleet, url: str) -> None:
        assert not fleet.ever_saved()
        fleet.append_events([event(1)])
        assert not fleet.ever_saved()
        fleet.save([deployment("a")], [], [])
        fleet.save([], ["a"], [event(2)])
        fleet.prune_events(0)
        other = SqlFleet.open(url)
        assert other.deployments() == []
        assert other.ever_saved()
        other.close()

    def test_measured_changes_what_is_known_of_what_is_there(self, fleet: SqlFleet) -> None:
        fleet.save([deployment("a"), deployment("b")], [], [])
        fleet.measured("a", memory_bytes=5, wake_s=0.5)
        fleet.measured("a", wake_s=0.75)
        fleet.measured("a", memory_bytes=7)
        fleet.measured("a")
        fleet.measured("gone", memory_bytes=5)
        assert fleet.deployments() == [
            deployment("a", memory_bytes=7, wake_s=0.75),
            deployment("b"),
        ]

    @pytest.mark.parametrize("spec", [{"rate": math.nan}, {"path": Path("/")}])
    def test_what_is_no_json_is_refused(self, fleet: SqlFleet, spec: dict[str, object]) -> None:
        fleet.save([deployment("a")], [], [])
        with pytest.raises(StoreError, match="spec of 'b' cannot be stored"):
            fleet.save([deployment("b", spec=spec)], ["a"], [event(1)])
        assert fleet.deployments() == [deployment("a")]
        assert fleet.events(5) == []

    def test_a_spec_that_something_else_broke(self, fleet: SqlFleet, url: str) -> None:
        fleet.save([deployment("a")], [], [])
        with open_database(url, "state") as database, database.write() as connection:
            connection.execute(text("UPDATE deployments SET spec = '{'"))
        with pytest.raises(StoreError, match="stored spec of 'a' cannot be read"):
            fleet.deployments()

    def test_a_failed_save_leaves_nothing(self, fleet: SqlFleet, url: str) -> None:
        fleet.save([deployment("a")], [], [event(1)])
        with open_database(url, "state") as database, database.write() as connection:
            connection.execute(text("ALTER TABLE fleet_events RENAME COLUMN detail TO hidden"))
        with pytest.raises(StoreError) as caught:
            fleet.save([deployment("b")], ["a"], [event(2)])
        assert "INSERT" not in str(caught.value)
        with open_database(url, "state") as database, database.write() as connection:
            connection.execute(text("ALTER TABLE fleet_events RENAME COLUMN hidden TO detail"))
        assert fleet.deployments() == [deployment("a")]
        assert [found.detail for found in fleet.events(5)] == ["1"]

    def test_newest_events_oldest_first(self, fleet: SqlFleet) -> None:
        assert fleet.events(5) == []
        fleet.append_events([])
        fleet.append_events([event(1), event(2, "other"), event(3)])
        fleet.save([], [], [event(0, "other"), event(4)])  # in order of arrival, not of time
        assert [found.detail for found in fleet.events(4)] == ["2", "3", "0", "4"]
        assert [found.detail for found in fleet.events(2, model="m")] == ["3", "4"]
        assert fleet.events(5, model="none") == []
        seqs = [found.seq for found in fleet.events(5)]
        assert seqs == sorted(set(seqs))
        assert [found.detail for found in fleet.events(9, after_seq=seqs[2])] == ["0", "4"]
        assert [found.detail for found in fleet.events(1, after_seq=seqs[2])] == ["4"]
        assert fleet.events(9, after_seq=seqs[-1]) == []
        for limit in (0, -1):
            assert fleet.events(limit) == []

    def test_prune_keeps_the_newest_and_numbers_go_on(
        self, fleet: SqlFleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aviary.store.fleet.PRUNE_EVENTS", 3)
        assert fleet.prune_events(2) == 0
        fleet.append_events([event(number) for number in range(10)])
        assert fleet.prune_events(10) == 0
        assert fleet.prune_events(2) == 8
        assert [found.detail for found in fleet.events(99)] == ["8", "9"]
        last = fleet.events(1)[0].seq
        assert fleet.prune_events(-1) == 2
        fleet.append_events([event(10)])
        assert fleet.events(9)[0].seq > last  # followers that know `last` see it
        assert fleet.events(9, after_seq=last) == fleet.events(9)

    def test_extremes_are_cleaned(self, fleet: SqlFleet) -> None:
        fleet.save(
            [
                deployment(
                    "a\0",
                    position=-1,
                    created=math.inf,
                    changed=math.nan,
                    changed_by="k" * 65,
                    memory_bytes=2**80,
                    wake_s=-1.0,
                )
            ],
            [],
            [StoredEvent(math.inf, "m" * 257, "k" * 33, "\ud800", "d" * 4001 + "\0", "b" * 65)],
        )
        assert fleet.deployments() == [
            deployment(
                "a\ufffd",
                spec={"id": "a\0"},
                created=MAX_REAL,
                changed_by="k" * 64,
                memory_bytes=2**63 - 1,
                wake_s=0.0,
            )
        ]
        (found,) = fleet.events(1)
        assert (found.time, found.model, found.kind) == (MAX_REAL, "m" * 256, "k" * 32)
        assert (found.replica, found.detail, found.changed_by) == ("?", "d" * 4000, "b" * 64)
        fleet.measured("a\0", wake_s=2.0)
        fleet.save([], [], [])
        assert fleet.deployments()[0].wake_s == 2.0
        fleet.save([], ["a\0"], [])
        assert fleet.deployments() == []

    def test_many_save_at_once(self, fleet: SqlFleet, url: str) -> None:
        """No deadlock, nothing half done, and who follows the events misses none."""
        errors: list[BaseException] = []
        followed: list[int] = []
        done = threading.Event()

        def save(thread: int) -> None:
            mine = SqlFleet.open(url)
            try:
                for turn in range(10):
                    number = thread * 100 + turn
                    models = [f"m{index}" for index in range(6)]
                    order = models if (thread + turn) % 2 else models[::-1]
                    rows = [deployment(model, position=number) for model in order[:4]]
                    mine.save(rows, order[4:], [event(number), event(number)])
                    mine.append_events([event(number)])
                    mine.measured(order[0], wake_s=float(turn))
            except BaseException as error:
                errors.append(error)
            finally:
                mine.close()

        def follow() -> None:
            mine = SqlFleet.open(url)
            last = 0
            while True:
                ending = done.is_set()
                for found in mine.events(1000, after_seq=last):
                    followed.append(found.seq)
                    last = found.seq
                if ending:
                    break
            mine.close()

        follower = threading.Thread(target=follow)
        follower.start()
        threads = [threading.Thread(target=save, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        follower.join()
        assert errors == []
        assert len({row.position for row in fleet.deployments()}) == 1  # all of the last save
        assert len(fleet.deployments()) == 4
        assert followed == [found.seq for found in fleet.events(1000)]
        assert len(followed) == 120

    @pytest.mark.parametrize("after_s", [0.1, 0.23])
    def test_kill_9_leaves_all_of_a_save_or_nothing(self, url: str, after_s: float) -> None:
        SqlFleet.open(url).close()
        child = subprocess.Popen(
            [sys.executable, "-c", _SAVER, url], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        lines = [child.stdout.readline()]
        time.sleep(after_s)
        os.kill(child.pid, signal.SIGKILL)
        lines += child.stdout.read().splitlines()
        child.stdout.close()
        child.wait()
        whole = [line for line in lines if line.strip()]
        acknowledged = int(whole[-1])
        assert acknowledged > 1, "killed before it did anything"
        fleet = SqlFleet.open(url)
        fleet.save([], [], [])  # waits for what the server still does for the dead
        versions = {row.spec["version"] for row in fleet.deployments()}
        assert len(fleet.deployments()) == 20
        assert len(versions) == 1
        version = versions.pop()
        assert version in (acknowledged, acknowledged + 1)  # durable once it had returned
        details = [json.loads(found.detail) for found in fleet.events(9999)]
        assert details == [number for number in range(1, version + 1) for _ in range(5)]
        fleet.save([deployment("new")], [], [])
        fleet.close()

    def test_events_through_a_writer(self, fleet: SqlFleet, url: str) -> None:
        writer: RecordWriter[StoredEvent] = RecordWriter(
            lambda: FleetEventLog.open(url), name="fleet events"
        )
        for number in range(100):
            writer.put(event(number))
        writer.close()
        assert (writer.written, writer.dropped) == (100, 0)
        assert [found.detail for found in fleet.events(999)] == [str(n) for n in range(100)]


_SAVER = """
import itertools, sys
from aviary.core.ports import StoredDeployment, StoredEvent
from aviary.store import SqlFleet
fleet = SqlFleet.open(sys.argv[1])
for number in itertools.count(1):
    spec = {"version": number, "filler": "x" * 2000}
    fleet.save(
        [StoredDeployment(f"m{(index + number) % 30}", index, spec) for index in range(20)],
        [f"m{(index + number) % 30}" for index in range(20, 30)],
        [StoredEvent(1.0, "m", "changed", detail=str(number))] * 5,
    )
    print(number, flush=True)
"""


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

    def test_keys_of_before_there_was_a_fleet_stay(self, url: str) -> None:
        with open_database(url, "state") as database:
            SqlKeys(database).create(name="one", role="user", hash="a" * 64, id="ak_1")
            before = SqlKeys(database).list()
            with database.write() as connection:
                for table in reversed(METADATA["state"].sorted_tables):
                    if table.name != "api_keys":
                        table.drop(connection)
                connection.execute(
                    text("UPDATE aviary_state_revision SET version_num = '0001_api_keys'")
                )
        with open_database(url, "state") as database:
            assert SqlKeys(database).list() == before
            fleet = SqlFleet(database)
            assert not fleet.ever_saved()
            fleet.save([deployment("a")], [], [event(1)])
            assert fleet.deployments() == [deployment("a")]

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
