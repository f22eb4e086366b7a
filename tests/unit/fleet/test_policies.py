"""The fleet's pure parts: differences, judgement of rollouts, activity, room in memory."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aviary.config.spec import ModelSpec
from aviary.core.states import ReplicaState, ReplicaView
from aviary.fleet.activity import STALE_S, Activity, Use
from aviary.fleet.diff import compare, field_changes
from aviary.fleet.memory import SETTLED_S, Resident, make_room
from aviary.fleet.rollout import crash_loop, judge


def spec_of(name: str = "m", **fields: Any) -> ModelSpec:
    return ModelSpec.model_validate({"id": name, "engine": {"kind": "fake"}, **fields})


def test_field_changes_name_every_difference() -> None:
    before = spec_of(chat={"stop": ["a", "b"]}, price={"usd_per_hour": 1})
    after = spec_of(
        chat={"stop": ["a", "c", "d"]},
        engine={"kind": "fake", "slots": 2},
        limits={"wait": "5s"},
    )
    assert [(c.field, c.before, c.after) for c in field_changes(before, after)] == [
        ("engine.slots", 8, 2),
        ("chat.stop[1]", "b", "c"),
        ("chat.stop[2]", None, "d"),
        ("limits.wait", "1m", "5s"),
        ("price.usd_per_hour", 1.0, None),
    ]
    assert field_changes(before, before) == []


def test_an_engine_of_another_kind() -> None:
    before = spec_of(source={"uri": "file:/x"})
    after = ModelSpec.model_validate(
        {"id": "m", "engine": {"kind": "llamacpp"}, "source": {"uri": "file:/x"}}
    )
    fields = {change.field for change in field_changes(before, after)}
    assert {"engine.kind", "engine.gap", "engine.prompt_cache_mb"} <= fields


def test_what_restarts() -> None:
    served = {"m": spec_of()}
    for fields, restarts in [
        ({"price": {"usd_per_hour": 1}}, False),
        ({"scaling": {"min_replicas": 2}}, False),
        ({"continue_streams": False}, False),
        ({"limits": {"queue": 1}}, True),
        ({"generation": {"temperature": 0}}, True),
    ]:
        [change] = compare(served, [spec_of(**fields)], prune=False)
        assert (change.action, change.restarts) == ("changed", restarts), fields


def replica(state: ReplicaState, version: str = "new", **fields: Any) -> ReplicaView:
    return ReplicaView(f"m/{id(fields)}", state=state, spec_hash=version, **fields)


def test_a_rollout_is_judged_by_its_own_replicas() -> None:
    ready, starting, failed = ReplicaState.READY, ReplicaState.STARTING, ReplicaState.FAILED
    old = replica(ready, "old")
    assert judge([old], "new", 1).verdict == "rolling"
    assert judge([old, replica(starting)], "new", 1).verdict == "rolling"
    assert judge([old, replica(ready)], "new", 1).verdict == "ready"
    assert judge([old, replica(ready)], "new", 2).verdict == "rolling"
    assert judge([], "new", 0).verdict == "ready"
    once = replica(failed, detail="bad luck")
    assert judge([old, once], "new", 1).verdict == "rolling"
    twice = replica(failed, detail="no such file", restarts=1)
    judgement = judge([old, twice], "new", 1)
    assert (judgement.verdict, judgement.cause) == ("failed", "no such file")
    assert judge([replica(failed, "old", restarts=9), replica(ready)], "new", 1).verdict == "ready"
    placeless = replica(starting, detail="unplaceable: no GPU")
    assert judge([old, placeless], "new", 1).verdict == "failed"


def test_crash_loops() -> None:
    assert crash_loop([replica(ReplicaState.READY, restarts=9)]) == 0
    assert crash_loop([replica(ReplicaState.STARTING, restarts=2)]) == 0
    assert crash_loop([replica(ReplicaState.STARTING, restarts=3)]) == 3
    assert crash_loop([replica(ReplicaState.FAILED, restarts=2)]) == 3


def test_activity_of_several_workers() -> None:
    activity = Activity()
    activity.report("w1", {"a": Use(in_flight=2, held=1), "b": Use(age_s=3)}, 100)
    activity.report("w2", {"a": Use(in_flight=1)}, 101)
    assert (activity.in_flight("a"), activity.held("a"), activity.wanted()) == (3, 1, ["a"])
    assert activity.last_used_s("a", 0) == 101
    assert activity.last_used_s("b", 0) == 97
    assert activity.last_used_s("never", 42) == 42
    activity.report("w1", {}, 102)
    assert (activity.in_flight("a"), activity.wanted()) == (1, [])
    activity.forget_stale(101 + STALE_S + 0.1)
    assert activity.in_flight("a") == 0  # w2 died with its request
    assert activity.last_used_s("a", 0) == 101


residents = st.lists(
    st.builds(
        Resident,
        model=st.uuids().map(str),
        memory_bytes=st.integers(0, 100),
        last_used_s=st.integers(0, 50).map(float),
        awake_since_s=st.integers(0, 100).map(float),
        busy=st.booleans(),
    ),
    max_size=8,
)


@given(residents, st.integers(1, 300), st.integers(0, 120))
def test_room_is_made_by_the_idle_only(found: list[Resident], budget: int, need: int) -> None:
    now = 100.0
    victims = make_room(budget, found, need, now)
    by_name = {resident.model: resident for resident in found}
    movable = [r for r in found if not r.busy and now - r.awake_since_s >= SETTLED_S]
    fixed = sum(r.memory_bytes for r in found if r not in movable)
    if victims is None:
        assert fixed + need > budget
        assert fixed > 0
        return
    assert all(by_name[name] in movable for name in victims)
    left = sum(r.memory_bytes for r in found) - sum(by_name[v].memory_bytes for v in victims)
    assert left + need <= budget or left == 0
    if left + need <= budget:  # nobody rests for nothing
        for name in victims:
            assert left + by_name[name].memory_bytes + need > budget


def test_the_least_recently_used_rests_first() -> None:
    found = [
        Resident("old", 40, 1, 0, busy=False),
        Resident("older but busy", 40, 0, 0, busy=True),
        Resident("new", 40, 9, 0, busy=False),
    ]
    assert make_room(120, found, 40, 100) == ["old"]
    assert make_room(160, found, 40, 100) == []
    assert make_room(80, found, 40, 100) == ["old", "new"]
    assert make_room(70, found, 40, 100) is None
    assert make_room(10, [], 40, 100) == []  # alone, even one that is too large may run
