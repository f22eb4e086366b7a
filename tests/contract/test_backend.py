"""The contract of a `Backend`, which both backends keep.

Each backend is started once for this module; the tests use models of their own.
"""

import asyncio
import contextlib
import itertools
import os
import secrets
import shutil
import signal
import tempfile
import time
from pathlib import Path

import msgspec
import psutil
import pytest
import pytest_asyncio

from aviary.backends.local import LocalBackend
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import NotAvailable
from aviary.core.states import ReplicaState
from aviary.replica.asking import ask_sleep, ask_wake
from aviary.wire.asgi import TOKEN_HEADER
from aviary.wire.client import Client, Target

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "internal-token-of-the-test"
READY = ReplicaState.READY
SLEEPING = ReplicaState.SLEEPING
FAILED = ReplicaState.FAILED
STARTING = ReplicaState.STARTING


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.timeout(300)])],
)
async def running(request):
    """A backend that has started; at the end nothing of it may be left."""
    folder = Path(tempfile.mkdtemp(prefix="aviary-t-", dir="/tmp"))
    runtime = folder / "r"
    runtime.mkdir()
    settings = Settings(home=folder / "home", cache=folder / "cache", runtime=folder)
    if request.param == "local":
        backend = LocalBackend(settings, token=TOKEN, runtime=runtime)
    else:
        pytest.importorskip("ray")
        from aviary.backends.ray import RayBackend

        backend = RayBackend(settings, token=TOKEN, runtime=runtime)
    before = set(psutil.Process().children(recursive=True))
    backend.kind = request.param
    await backend.start()
    yield backend
    mine = set(psutil.Process().children(recursive=True)) - before
    began = time.monotonic()
    await backend.stop()
    assert time.monotonic() - began < 15
    alive = [p for p in mine if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert alive == []
    assert list(runtime.iterdir()) == []
    shutil.rmtree(folder)


@pytest_asyncio.fixture(loop_scope="module")
async def model(running):
    """A model id of this test's own; its replicas are removed at the end."""
    name = f"m{secrets.token_hex(3)}"
    yield name
    await running.remove(name)
    assert running.replicas(name) == ()


@pytest_asyncio.fixture(loop_scope="module")
async def client():
    made = Client()
    yield made
    await made.close()


def spec(model, engine=None, **more):
    given = {"id": model, "engine": {"kind": "fake", "tokens": 4, **(engine or {})}, **more}
    return ModelSpec.model_validate(given)


async def until(backend, model, good, within_s=60.0):
    """Wait until the model's replicas are as wanted; returns them."""
    deadline = time.monotonic() + within_s
    while True:
        views = backend.replicas(model)
        if good(views):
            return views
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s; now: {views}")
        await asyncio.sleep(0.02)


def all_ready(count):
    return lambda views: len(views) == count and all(v.state is READY for v in views)


async def ask(client, view, token=TOKEN, **body):
    """One generation, asked of a replica directly: status and bytes."""
    given = {"messages": [{"role": "user", "content": "hello"}], **body}
    response = await client.request(
        Target(view.host, view.port, view.socket),
        "POST",
        view.prefix + "/v1/chat/completions",
        [(TOKEN_HEADER, token.encode()), (b"content-type", b"application/json")],
        msgspec.json.encode(given),
    )
    try:
        return response.status, await response.read_all(10_000_000)
    finally:
        response.close()


async def test_deploy_returns_at_once_and_the_replica_answers(running, model, client):
    told = []
    running.subscribe(lambda: told.append(running.replicas(model)))
    began = time.monotonic()
    await running.deploy(spec(model), 1)
    assert time.monotonic() - began < 0.5
    (view,) = await until(running, model, all_ready(1))
    assert view.id.startswith(f"{model}/")
    assert view.reachable
    assert view.host in ("127.0.0.1", "")  # nobody from elsewhere gets there
    assert psutil.pid_exists(view.pid)
    assert view.node
    assert view.restarts == 0
    assert any(views and views[0].state is READY for views in told)
    status, body = await ask(client, view)
    assert status == 200
    assert msgspec.json.decode(body)["choices"][0]["message"]["content"]


async def test_a_replica_answers_only_with_the_token(running, model, client):
    await running.deploy(spec(model), 1)
    (view,) = await until(running, model, all_ready(1))
    status, _ = await ask(client, view, token="wrong")
    assert status == 401


async def test_tokens_come_one_by_one(running, model, client):
    await running.deploy(spec(model, {"tokens": 10, "gap": "50ms"}), 1)
    (view,) = await until(running, model, all_ready(1))
    given = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    response = await client.request(
        Target(view.host, view.port, view.socket),
        "POST",
        view.prefix + "/v1/chat/completions",
        [(TOKEN_HEADER, TOKEN.encode())],
        msgspec.json.encode(given),
    )
    times = []
    while data := await response.read():
        if b'"content"' in data:
            times.append(time.monotonic())
    response.close()
    gaps = sorted(after - before for before, after in itertools.pairwise(times))
    assert len(gaps) >= 8
    assert 0.03 < gaps[len(gaps) // 2] < 0.09


async def test_several_models_start_together(running):
    names = [f"m{secrets.token_hex(3)}" for _ in range(3)]
    for name in names:
        await running.deploy(spec(name), 1)
    for name in names:
        await until(running, name, all_ready(1))
    await asyncio.gather(*(running.remove(name) for name in names))
    assert all(running.replicas(name) == () for name in names)


async def test_scaling_restarts_nothing(running, model):
    await running.deploy(spec(model), 1)
    (first,) = await until(running, model, all_ready(1))
    await running.scale(model, 3)
    grown = await until(running, model, all_ready(3))
    assert first.pid in {view.pid for view in grown}
    assert len({view.id for view in grown}) == 3
    await running.scale(model, 2)
    fewer = await until(running, model, all_ready(2))
    assert {view.pid for view in fewer} < {view.pid for view in grown}


async def test_what_no_replica_depends_on_changes_without_a_restart(running, model):
    await running.deploy(spec(model), 1)
    (first,) = await until(running, model, all_ready(1))
    await running.deploy(spec(model, price={"usd_per_hour": 2}, description="new"), 2)
    both = await until(running, model, all_ready(2))
    assert first.pid in {view.pid for view in both}


async def test_an_update_keeps_the_old_version_until_the_new_one_is_ready(running, model, client):
    await running.deploy(spec(model, {"tokens": 3}), 1)
    (old,) = await until(running, model, all_ready(1))
    await running.deploy(spec(model, {"tokens": 5, "start": "1s"}), 1)
    gaps = []

    def replaced(views):
        if not any(view.state is READY for view in views):
            gaps.append(views)
        return len(views) == 1 and views[0].id != old.id and views[0].state is READY

    (new,) = await until(running, model, replaced)
    assert gaps == []
    _, body = await ask(client, new)
    assert msgspec.json.decode(body)["usage"]["completion_tokens"] == 5


async def test_a_version_that_cannot_start_leaves_the_old_one_serving(running, model, client):
    await running.deploy(spec(model), 1)
    (old,) = await until(running, model, all_ready(1))
    await running.deploy(spec(model, {"fail_start": "no such weights"}), 1)
    await until(running, model, lambda views: any(v.state is FAILED for v in views))
    (still,) = [view for view in running.replicas(model) if view.id == old.id]
    assert still.state is READY
    status, _ = await ask(client, still)
    assert status == 200


async def test_a_version_that_cannot_start_is_taken_back(running, model, client):
    """What the fleet does after two failed starts: the old spec is deployed again."""
    good, bad = spec(model), spec(model, {"fail_start": "no such weights"})
    await running.deploy(good, 1)
    (old,) = await until(running, model, all_ready(1))
    await running.deploy(bad, 1)

    def failed_twice(views):
        assert any(v.id == old.id and v.state is READY for v in views), views
        new = [view for view in views if view.spec_hash == bad.hash]
        return any(v.state is FAILED and v.restarts >= 1 for v in new)

    began = time.monotonic()
    views = await until(running, model, failed_twice, 40.0)
    assert time.monotonic() - began < 20
    (second,) = [v for v in views if v.spec_hash == bad.hash and v.state is FAILED]
    assert "no such weights" in second.detail
    await running.deploy(good, 1)
    (still,) = await until(running, model, all_ready(1))
    assert (still.id, still.pid, still.restarts) == (old.id, old.pid, 0)
    assert (await ask(client, still))[0] == 200


async def test_crash_loops_are_tried_less_and_less(running, model):
    await running.deploy(spec(model, {"fail_start": "no such weights"}), 1)
    failures = {}

    def grown(views):
        for view in views:
            if view.state is FAILED:
                failures.setdefault(view.restarts, time.monotonic())
        times = list(failures.values())
        gaps = [after - before for before, after in itertools.pairwise(times)]
        return bool(gaps) and gaps[-1] > gaps[0] + 3

    await until(running, model, grown, 120.0)


async def test_none_at_all_and_back(running, model, client):
    await running.deploy(spec(model, {"tokens": 20, "gap": "50ms"}), 2)
    views = await until(running, model, all_ready(2))
    answer = asyncio.create_task(ask(client, views[0], stream=True))
    await asyncio.sleep(0.3)
    await running.scale(model, 0)
    assert all(view.state is not READY for view in running.replicas(model))
    seen = []
    await until(running, model, lambda now: seen.extend(now) or now == (), 30.0)
    status, body = await answer
    assert status == 200
    assert body.rstrip().endswith(b"data: [DONE]")
    assert all(view.state is not FAILED and "unplaceable" not in view.detail for view in seen)
    await asyncio.sleep(1.5)
    assert running.replicas(model) == ()
    began = time.monotonic()
    await running.scale(model, 1)
    (view,) = await until(running, model, all_ready(1), 30.0)
    assert (await ask(client, view))[0] == 200
    took_s = time.monotonic() - began
    assert took_s < (15 if running.kind == "ray" else 4)
    assert view.restarts == 0


async def test_a_model_without_replicas_runs_nothing_until_it_is_scaled(running, model):
    await running.deploy(spec(model), 0)
    await asyncio.sleep(1.5)
    assert running.replicas(model) == ()
    newer = spec(model, {"tokens": 5})
    await running.deploy(newer, 0)
    await running.scale(model, 1)
    (view,) = await until(running, model, all_ready(1))
    assert view.spec_hash == newer.hash
    await running.deploy(spec(model, {"tokens": 6}), 0)
    await until(running, model, lambda views: views == ())


async def test_sleep_shows_and_so_does_the_waking(running, model, client):
    await running.deploy(spec(model, {"start": "500ms"}), 1)
    (view,) = await until(running, model, all_ready(1))
    place = Target(view.host, view.port, view.socket), view.prefix, TOKEN.encode()
    assert await ask_sleep(client, *place, 5.0)
    (asleep,) = await until(running, model, lambda views: views[0].state is SLEEPING, 3.0)
    assert (asleep.id, asleep.pid) == (view.id, view.pid)
    await running.deploy(spec(model, {"start": "500ms"}), 1)
    await asyncio.sleep(3.0)
    (asleep,) = running.replicas(model)
    assert asleep.state is SLEEPING
    began = time.monotonic()
    await ask_wake(client, *place, 5.0)
    (awake,) = await until(running, model, all_ready(1), 5.0)
    assert time.monotonic() - began < 1.5
    assert (awake.id, awake.pid, awake.restarts) == (view.id, view.pid, 0)
    assert (await ask(client, awake))[0] == 200


async def test_a_start_that_fails_says_why_and_is_tried_again(running, model):
    await running.deploy(spec(model, {"fail_start": "no such weights"}), 1)
    views = await until(running, model, lambda views: any(v.state is FAILED for v in views))
    assert "no such weights" in views[0].detail
    await until(running, model, lambda views: any(v.restarts > 0 for v in views))


async def test_a_killed_replica_is_replaced(running, model, client):
    await running.deploy(spec(model), 2)
    views = await until(running, model, all_ready(2))
    os.kill(views[0].pid, signal.SIGKILL)
    await until(running, model, lambda now: views[0] not in now, 5.0)
    again = await until(running, model, all_ready(2))
    assert {view.id for view in again} != {view.id for view in views}
    assert max(view.restarts for view in again) == 1
    for view in again:
        assert (await ask(client, view))[0] == 200


async def test_a_model_is_removed_once_its_answers_have_ended(running, model, client):
    await running.deploy(spec(model, {"tokens": 30, "gap": "100ms"}), 1)
    (view,) = await until(running, model, all_ready(1))
    answer = asyncio.create_task(ask(client, view, stream=True))
    await asyncio.sleep(0.5)
    removing = asyncio.create_task(running.remove(model))
    await until(running, model, lambda views: all(v.state is not READY for v in views), 1.0)
    status, body = await answer
    assert status == 200
    assert body.rstrip().endswith(b"data: [DONE]")
    await removing
    assert running.replicas(model) == ()
    assert not psutil.pid_exists(view.pid) or not psutil.Process(view.pid).is_running()


async def test_logs_are_kept_and_followed(running, model):
    await running.deploy(spec(model), 1)
    await until(running, model, all_ready(1))
    deadline = time.monotonic() + 5
    while not any("ready" in line for line in running.logs(model, 50)):
        assert time.monotonic() < deadline, running.logs(model, 50)
        await asyncio.sleep(0.1)
    following = running.follow_logs(model, 50)
    async with asyncio.timeout(5):
        async for line in following:
            if "ready" in line:
                break
    with contextlib.suppress(Exception):
        await following.aclose()


async def test_a_model_nobody_has_declared(running):
    assert running.replicas("nobody") == ()
    assert running.logs("nobody", 10) == []
    await running.scale("nobody", 3)
    await running.remove("nobody")
    assert running.replicas("nobody") == ()


async def test_what_cannot_be_placed_says_so(running, model):
    wanted = spec(model, resources={"gpus": 1000})
    if running.kind == "local":
        with pytest.raises(NotAvailable, match="GPU"):
            await running.deploy(wanted, 1)
        return
    await running.deploy(wanted, 1)
    (view,) = await until(running, model, lambda v: any("unplaceable" in x.detail for x in v), 5.0)
    assert view.state is STARTING
    assert "1000 GPUs" in view.detail
