"""The fleet's pure parts: differences, judgement of rollouts, activity, room in memory."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aviary.config.spec import ModelSpec
from aviary.core.states import ReplicaState, ReplicaView
from aviary.fleet.activity import STALE_S, Activity, Use
from aviary.fleet.diff import compare, field_changes
from aviary.fleet.memory import SETTLED_S, Resident, make_room
from aviary.fleet.rollout import crash_loop, judge, start_failures


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

    def verdict(*replicas: ReplicaView, wanted: int = 1, failures: int = 0) -> str:
        return judge(replicas, "new", wanted, failures, "no such file").verdict

    assert verdict(old) == "rolling"
    assert verdict(old, replica(starting)) == "rolling"
    assert verdict(old, replica(ready)) == "ready"
    assert verdict(old, replica(ready), wanted=2) == "rolling"
    assert verdict(wanted=0) == "ready"
    assert verdict(old, replica(failed), failures=1) == "rolling"
    assert verdict(old, replica(failed), failures=2) == "failed"
    assert verdict(replica(ready), failures=2) == "ready"
    # How often a place was filled before says nothing of this rollout.
    assert verdict(replica(ready, restarts=9), replica(starting), wanted=2) == "rolling"
    assert verdict(replica(ReplicaState.STOPPING, detail="unplaceable: x")) == "rolling"
    assert verdict(old, replica(starting, detail="unplaceable: no GPU")) == "failed"
    assert judge([old, replica(failed)], "new", 1, 2, "no such file").cause == "no such file"


def test_failed_starts_are_counted_once() -> None:
    def view(name: str, state: ReplicaState, version: str = "new") -> ReplicaView:
        return ReplicaView(name, state=state, spec_hash=version, detail=f"{name} failed")

    starting, failed, ready = ReplicaState.STARTING, ReplicaState.FAILED, ReplicaState.READY
    before = {"a": view("a", starting), "b": view("b", ready), "c": view("c", starting)}
    now = [view("a", failed), view("b", failed), view("c", starting)]
    assert start_failures(before, now, "new") == ["a failed"]  # b had started
    assert start_failures({r.id: r for r in now}, now, "new") == []
    assert (
        start_failures(before, [view("b", ready)], "new")
        == ["its process ended while it started"] * 2
    )
    assert start_failures({}, [view("x", failed)], "new") == ["x failed"]
    assert start_failures({}, [view("x", failed, "old")], "new") == []
    gone = {"a": view("a", ReplicaState.STOPPING), "b": view("b", failed)}
    assert start_failures(gone, [], "new") == []


def test_crash_loops() -> None:
    down, up = [replica(ReplicaState.FAILED)], [replica(ReplicaState.READY)]
    assert crash_loop(down, [990, 995, 999], 1000) == 3
    assert crash_loop(up, [990, 995, 999], 1000) == 0
    assert crash_loop(down, [995, 999], 1000) == 0
    assert crash_loop(down, [1, 2, 3, 999], 1000) == 0  # long ago


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


@st.composite
def resident(draw: st.DrawFn) -> Resident:
    memory = draw(st.integers(0, 100))
    return Resident(
        model=draw(st.uuids().map(str)),
        memory_bytes=memory,
        frees_bytes=draw(st.integers(0, memory)),
        last_used_s=float(draw(st.integers(0, 50))),
        awake_since_s=float(draw(st.integers(0, 100))),
        busy=draw(st.booleans()),
        asleep=draw(st.booleans()),
    )


@given(st.lists(resident(), max_size=8), st.integers(1, 300), st.integers(0, 120))
def test_room_is_made_by_the_idle_only(found: list[Resident], budget: int, need: int) -> None:
    now = 100.0
    victims = make_room(budget, found, need, now)
    by_name = {one.model: one for one in found}
    used = sum(one.memory_bytes for one in found)
    movable = [
        r
        for r in found
        if not r.busy and r.frees_bytes and (r.asleep or now - r.awake_since_s >= SETTLED_S)
    ]
    if victims is None:
        assert used - sum(r.frees_bytes for r in movable) + need > budget
        assert any(not r.asleep for r in found)
        return
    assert all(by_name[name] in movable for name in victims)
    left = used - sum(by_name[name].frees_bytes for name in victims)
    if left + need > budget:  # it is too large, and nothing else that is awake stays
        assert all(r.asleep or not r.memory_bytes or r.model in victims for r in found)
        return
    for name in victims:  # nobody rests for nothing
        assert left + by_name[name].frees_bytes + need > budget


def test_the_least_recently_used_rests_first() -> None:
    def awake(model: str, used: float, *, busy: bool = False) -> Resident:
        return Resident(model, 40, 40, used, 0, busy=busy)

    found = [awake("old", 1), awake("older but busy", 0, busy=True), awake("new", 9)]
    assert make_room(120, found, 40, 100) == ["old"]
    assert make_room(160, found, 40, 100) == []
    assert make_room(80, found, 40, 100) == ["old", "new"]
    assert make_room(70, found, 40, 100) is None
    assert make_room(10, [], 40, 100) == []  # alone, even one that is too large may run


def test_those_asleep_go_last_and_never_block() -> None:
    sleepers = [Resident(f"s{n}", 7, 7, n, 0, busy=False, asleep=True) for n in range(3)]
    idle = Resident("idle", 40, 33, 50, 0, busy=False)
    assert make_room(61, [*sleepers, idle], 28, 100) == ["idle"]
    assert make_room(61, [*sleepers, idle], 40, 100) == ["idle", "s0"]
    assert make_room(50, sleepers, 60, 100) == ["s0", "s1", "s2"]  # too large, but alone
