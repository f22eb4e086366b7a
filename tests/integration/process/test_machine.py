"""Runtime folders of this and other instances; limits of this process."""

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aviary.bootstrap import machine
from aviary.bootstrap.machine import NEW_PREFIX, NEW_S, PREFIX, raise_file_limit, runtime_folder


@pytest.fixture
def parent() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="avt-", dir="/tmp") as folder:
        yield Path(folder)


def test_a_living_ones_folder_stays_and_a_dead_ones_goes(parent: Path) -> None:
    dead = parent / f"{PREFIX}dead"
    dead.mkdir()
    (dead / "control.sock").touch()
    with runtime_folder(parent) as one, runtime_folder(parent) as other:
        assert one != other
        assert one.is_dir()
        assert other.is_dir()
        assert not dead.exists()
    assert list(parent.iterdir()) == []


def test_one_that_starts_now_is_not_swept_away(parent: Path) -> None:
    starting, forgotten = parent / f"{NEW_PREFIX}a", parent / f"{NEW_PREFIX}b"
    starting.mkdir()
    forgotten.mkdir()
    before = time.time() - NEW_S - 1
    os.utime(forgotten, (before, before))
    with runtime_folder(parent):
        assert starting.exists()
        assert not forgotten.exists()


def test_what_others_own_stays(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (parent / f"{PREFIX}x").mkdir()
    elsewhere = parent / "elsewhere"
    elsewhere.mkdir()
    (parent / f"{PREFIX}link").symlink_to(elsewhere)
    uid = os.getuid()
    monkeypatch.setattr(machine.os, "getuid", lambda: uid + 1)
    with runtime_folder(parent):
        assert (parent / f"{PREFIX}x").exists()
    monkeypatch.undo()
    with runtime_folder(parent):
        assert not (parent / f"{PREFIX}x").exists()
        assert list(elsewhere.iterdir()) == []


def test_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 2**20), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
