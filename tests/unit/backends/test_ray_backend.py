"""What the Ray backend notes and forgets, without a Ray."""

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the Ray backend is an extra")

from aviary.backends.ray import RayBackend
from aviary.backends.ray_logs import Books, LogReader
from aviary.backends.ray_session import Session
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import NotAvailable
from aviary.core.states import ReplicaState, ReplicaView


def spec_of(**resources):
    return ModelSpec.model_validate({"id": "m", "engine": {"kind": "fake"}, "resources": resources})


@pytest.fixture
def backend(tmp_path: Path) -> RayBackend:
    settings = Settings(home=tmp_path, cache=tmp_path, runtime=tmp_path)
    return RayBackend(settings, token="secret", runtime=tmp_path)


async def test_deployed_anew_while_it_is_removed(backend):
    await backend.deploy(spec_of(), 1)
    [first] = backend._apps["m"]
    first.told = 1  # so that it drains
    removing = asyncio.create_task(backend.remove("m"))
    await asyncio.sleep(0)
    await backend.deploy(spec_of(), 1)
    assert not removing.done()
    backend._gone(first)
    await removing
    [second] = backend._apps["m"]
    assert second is not first
    assert not second.leaving
    backend._books.open("m").add("m/r", "a line")
    assert backend.logs("m", 9) == ["[r] a line"]
    await backend.remove("m")
    assert ("m" in backend._apps, backend.logs("m", 9)) == (False, [])


async def test_several_nodes(backend):
    with pytest.raises(NotAvailable, match="nodes"):
        await backend.deploy(spec_of(nodes=2), 1)


async def test_log_lines_of_a_removed_model_bring_nothing_back(tmp_path, monkeypatch):
    books = Books(tmp_path)
    books.open("m")

    def removed_meanwhile(*_):
        books.drop("m")
        return ["late"]

    monkeypatch.setattr(books._reader, "read", removed_meanwhile)
    await books.read(str(tmp_path), "n", [("m", {"id": "r"})])
    assert books.last("m", 9) == []
    assert not (tmp_path / "m.log").exists()


async def test_only_the_version_deployed_last_can_make_the_others_leave(backend):
    """Taken back in the very moment in which the new version becomes ready after all."""
    old, new = spec_of(), spec_of(gpus=1)
    await backend.deploy(old, 1)
    [first] = backend._apps["m"]
    first.told = 1
    first.views = {"a": ReplicaView("m/a", state=ReplicaState.READY)}
    await backend.deploy(new, 1)
    [_, second] = backend._apps["m"]
    second.told = 1
    second.views = {"b": ReplicaView("m/b", state=ReplicaState.READY)}
    await backend.deploy(old, 1)
    assert (first.leaving, second.leaving) == (False, True)


@pytest.mark.parametrize(
    "error", [OSError("no memory"), KeyError("logs"), asyncio.CancelledError()]
)
async def test_a_session_that_did_not_start_is_lost(tmp_path, monkeypatch, error):
    session = Session(folder=tmp_path, address=None, on_line=print)

    async def fail():
        raise error

    monkeypatch.setattr(session, "_start", fail)
    with pytest.raises(type(error)):
        await session.start()
    assert session.lost.is_set()


def test_replicas_that_are_gone_are_forgotten(tmp_path):
    reader = LogReader()
    for key in ("a", "b"):
        (tmp_path / f"worker-{key}-01-7.out").write_text("hello\nhalf")
        replica = {"id": key, "pid": 7, "worker": key, "node": "n"}
        assert reader.read(tmp_path, "n", replica) == ["hello"]
    reader.forget_all_but({"b"})
    assert list(reader._files) == ["b"]
    assert [path.name for path in (*reader._at, *reader._rest)] == ["worker-b-01-7.out"] * 2
