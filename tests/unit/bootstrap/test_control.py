"""Who may open a door for gateways of other machines, and with which token."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aviary.bootstrap.control import Door, control_door, split_address, token_from
from aviary.config.settings import Settings
from aviary.core.errors import SpecError, StartFailed

LONG = "t" * 32
POSTGRES = "postgresql://db/aviary"


def settings(home: Path, **fields: str) -> Settings:
    return Settings(home=home, **{"database_url": POSTGRES, **fields})


def test_a_token_is_made_once_and_kept(tmp_path: Path) -> None:
    first = control_door("127.0.0.1:7000", "local", settings(tmp_path))
    assert (first.host, first.port) == ("127.0.0.1", 7000)
    assert len(first.token) == 64
    file = tmp_path / "cluster.token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert control_door("127.0.0.1:7001", "local", settings(tmp_path)).token == first.token
    assert list(tmp_path.iterdir()) == [file]
    assert first.token not in repr(first)


def test_the_environment_comes_first(tmp_path: Path) -> None:
    door = control_door("10.0.0.5:7000", "ray", settings(tmp_path, cluster_token=LONG))
    assert door == Door("10.0.0.5", 7000, LONG)
    assert list(tmp_path.iterdir()) == []


def test_beyond_loopback_a_token_is_long(tmp_path: Path) -> None:
    short = settings(tmp_path, cluster_token="t" * 31)
    assert control_door("[::1]:7000", "ray", short).host == "::1"
    with pytest.raises(SpecError, match="at least 32"):
        control_door("10.0.0.5:7000", "ray", short)


def test_local_replicas_are_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--backend ray"):
        control_door("10.0.0.5:7000", "local", settings(tmp_path))


def test_sqlite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"HOST/NAME aviary up --control 127\.0\.0\.1:7000`"):
        control_door("127.0.0.1:7000", "local", Settings(home=tmp_path))


@pytest.mark.parametrize("address", ["", "7000", ":7000", "host:", "host:0", "host:x", "h:65536"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(SpecError, match="--join takes HOST:PORT"):
        split_address(address, "--join")


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(LONG)
    file.chmod(0o640)
    with pytest.raises(StartFailed, match="chmod 600"):
        token_from(file)
    file.chmod(0o600)
    assert token_from(file) == LONG


def test_a_token_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(StartFailed, match="Cannot read"):
        token_from(file)
    os.close(os.open(file, os.O_CREAT, 0o600))
    with pytest.raises(StartFailed, match="no token"):
        token_from(file)
