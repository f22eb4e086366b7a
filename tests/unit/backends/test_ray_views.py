"""What is shown of what Ray and the replicas say."""

import time

import pytest

from aviary.backends.ray_logs import LogReader
from aviary.backends.ray_views import App, last_words, unplaceable
from aviary.config.spec import ModelSpec
from aviary.core.states import ReplicaState


def spec(**resources):
    return ModelSpec.model_validate({"id": "m", "engine": {"kind": "fake"}, "resources": resources})


def app(replicas=1):
    return App("m@x-1", spec(), replicas)


def replica(key="r1", state="RUNNING", port=30000, pid=7):
    host = "127.0.0.1" if port else ""
    return {
        "id": key,
        "state": state,
        "pid": pid,
        "node": "n",
        "address": "127.0.0.1",
        "host": host,
        "port": port,
        "log": "",
        "worker": "",
    }


def seen(*replicas, status="DEPLOYING", message=""):
    return {"status": status, "message": message, "replicas": list(replicas)}


READY = {"state": "ready", "detail": "started"}


def test_from_no_process_to_ready():
    one = app()
    one.take(seen(replica(state="STARTING", port=0, pid=0)), {})
    assert one.views["r1"].state is ReplicaState.STARTING
    assert one.views["r1"].port == 0
    one.take(seen(replica()), {"r1": {"state": "starting", "detail": "loads", "progress": 0.5}})
    assert (one.views["r1"].detail, one.views["r1"].progress) == ("loads", 0.5)
    assert not one.ready
    one.take(seen(replica()), {"r1": READY})
    assert one.ready
    assert one.views["r1"].prefix == "/m@x-1"
    assert one.views["r1"].id == "m/r1"


def test_no_news_changes_nothing():
    one = app()
    one.take(seen(replica()), {"r1": READY})
    before = one.views["r1"]
    one.take(seen(replica()), {"r1": None})
    assert one.views["r1"] == before


def test_a_successor_counts_and_names_the_cause():
    one = app()
    one.take(seen(replica()), {"r1": READY})
    one.take(seen(replica(), replica("r2", "STARTING", 0, 0)), {"r1": "gone"})
    assert one.views["r1"].state is ReplicaState.FAILED
    one.take(seen(replica(), replica("r2", "STARTING", 0, 0)), {"r1": "gone"})
    one.take(seen(replica("r2", "STARTING", 0, 0)), {})
    one.take(seen(replica("r2", port=30001)), {"r2": READY})
    assert one.views["r2"].restarts == 1
    assert one.ready


def test_a_failure_is_remembered_for_the_one_after():
    one = app()
    one.take(seen(replica()), {"r1": {"state": "failed", "detail": "no weights"}})
    one.take(seen(replica(state="STOPPING")), {})
    assert one.views["r1"].detail == "no weights"
    one.take(seen(replica("r2", "STARTING", 0, 0)), {})
    assert "no weights" in one.views["r2"].detail
    assert one.views["r2"].restarts == 1


@pytest.mark.parametrize("still_listed", [True, False])
def test_a_successor_that_comes_in_the_same_moment_counts(still_listed):
    one = app()
    one.take(seen(replica()), {"r1": READY})
    now = [replica("r2", "STARTING", 0, 0), *([replica()] if still_listed else [])]
    one.take(seen(*now), {"r1": "gone"})
    assert one.views["r2"].restarts == 1


def test_drained_replicas_are_no_failures():
    one = app(2)
    one.take(seen(replica(), replica("r2", port=30001)), {"r1": READY, "r2": READY})
    one.take(seen(replica(), replica("r2", "STOPPING", 30001)), {"r1": READY, "r2": READY})
    assert one.views["r2"].state is ReplicaState.STOPPING
    one.take(seen(replica()), {"r1": READY})
    one.take(seen(replica(), replica("r3", "STARTING", 0, 0)), {"r1": READY})
    assert one.views["r3"].restarts == 0


def test_what_serve_gave_up_is_shown_as_failed():
    one = app()
    one.take(seen(status="DEPLOY_FAILED", message="Traceback\n  x\nImportError: no aviary"), {})
    (view,) = one.views.values()
    assert view.state is ReplicaState.FAILED
    assert view.detail == "ImportError: no aviary"


def test_leaving_shows_at_once():
    one = app()
    one.take(seen(replica()), {"r1": READY})
    one.stopping()
    assert one.views["r1"].state is ReplicaState.STOPPING
    one.take(seen(replica()), {"r1": READY})
    assert one.views["r1"].state is ReplicaState.STOPPING


def test_last_words_of_nothing():
    assert last_words(" \n")


@pytest.mark.parametrize(
    ("resources", "nodes", "pending_s", "why"),
    [
        ({}, [{"CPU": 1}], 100, ""),
        ({"gpus": 1}, [{"CPU": 1}], 0, "asks for 1 GPU; no node"),
        ({"gpus": 2}, [{"GPU": 1}, {"GPU": 1}], 0, "asks for 2 GPUs; no node"),
        ({"gpus": 1}, [{"GPU": 1}], 0, ""),
        ({"gpus": 1}, [{"GPU": 1}], 10, "waits until"),
        ({"gpus": 1, "accelerator": "H100"}, [{"GPU": 1}], 0, "of type H100; no node"),
        ({"gpus": 0.5, "accelerator": "L4"}, [{"GPU": 1, "accelerator_type:L4": 1}], 0, ""),
        ({"gpus": 1}, [], 0, "no node"),
    ],
)
def test_why_a_replica_is_not_placed(resources, nodes, pending_s, why):
    listed = [{"address": "a", "resources": node} for node in nodes]
    said = unplaceable(spec(**resources), listed, pending_s)
    assert why in said
    assert bool(why) == bool(said)


def test_log_lines_come_once_and_whole(tmp_path):
    reader = LogReader()
    one = {**replica(), "worker": "abc"}
    file = tmp_path / "worker-abc-01-7.err"
    file.write_bytes(b":job_id:01\nfirst\nsec")
    assert reader.read(tmp_path, "n", one) == ["first"]
    with file.open("ab") as opened:
        opened.write(b"ond\n\n")
    assert reader.read(tmp_path, "n", one) == ["second"]
    assert reader.read(tmp_path, "n", one) == []
    elsewhere = reader.read(tmp_path, "other", {**one, "id": "r2", "log": "/serve/x.log"})
    assert elsewhere == ["runs on node 127.0.0.1; its log is there: /serve/x.log"]
    assert reader.read(tmp_path, "other", {**one, "id": "r2"}) == []


def test_whoever_leaves_because_fewer_are_wanted_has_no_successor():
    one = app(replicas=2)
    one.take(seen(replica("r1"), replica("r2")), {"r1": READY, "r2": READY})
    one.scale(1)
    one.take(seen(replica("r1")), {"r1": READY})
    one.scale(2)
    one.take(seen(replica("r1"), replica("r3")), {"r1": READY, "r3": READY})
    assert [view.restarts for view in one.views.values()] == [0, 0]


def test_at_zero_nothing_is_ready_nor_failed():
    one = app()
    one.take(seen(replica("r1")), {"r1": READY})
    one.scale(0)
    assert one.views["r1"].state is ReplicaState.STOPPING
    one.take(seen(replica("r1")), {"r1": READY})
    assert one.views["r1"].state is ReplicaState.STOPPING
    assert (one.ready, one.steady) == (True, False)
    one.take(seen(status="DEPLOY_FAILED", message="gave up"), {})
    assert one.views == {}
    assert one.steady
    one.scale(1)
    one.take(seen(replica("r2")), {"r2": READY})
    assert one.views["r2"].restarts == 0


def test_a_version_that_was_refused_may_be_scaled_to_nothing():
    one = app()
    one.given_up = True
    one.refused("no")
    one.scale(0)
    assert (one.views, one.given_up) == ({}, False)


def test_one_that_sleeps_is_ready_and_steady():
    one = app()
    one.take(seen(replica("r1")), {"r1": {"state": "sleeping", "detail": "asleep"}})
    assert one.views["r1"].state is ReplicaState.SLEEPING
    assert (one.ready, one.steady, one.in_motion("r1")) == (True, True, True)


def test_repeated_failures_postpone_the_next_start():
    one = app()
    pauses = []
    for key in ("r1", "r2", "r3", "r4"):
        one.take(seen(replica(key)), {key: {"state": "failed", "detail": "no weights"}})
        pauses.append(one.not_before - time.time())
        one.take(seen(), {})
    assert pauses == pytest.approx([0, 0.5, 1, 2], abs=0.3)
