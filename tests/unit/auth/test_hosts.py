"""Which `Host` and `Origin` an Aviary without keys answers."""

import pytest

from aviary.auth.hosts import HostGuard
from aviary.core.errors import Forbidden

OURS = [
    b"127.0.0.1",
    b"127.0.0.1:8000",
    b"localhost:8000",
    b"LOCALHOST",
    b"[::1]:8000",
    b"127.9.9.9",
]
STRANGE = [
    b"evil.example",
    b"127.0.0.1.evil.example",
    b"10.0.0.1:8000",
    b"",
    b"[::2]",
    b"a[b",
    b"\xff",
]


@pytest.mark.parametrize("host", OURS)
def test_this_machine(host: bytes) -> None:
    guard = HostGuard()
    guard.check(host, None)
    guard.check(host, b"http://localhost:3000")
    guard.check(None, None)


@pytest.mark.parametrize("host", STRANGE)
def test_another_machine(host: bytes) -> None:
    guard = HostGuard()
    for _ in range(2):
        with pytest.raises(Forbidden):
            guard.check(host, None)
    with pytest.raises(Forbidden):
        guard.check(b"localhost", b"https://" + host)
    with pytest.raises(Forbidden):
        guard.check(b"localhost", b"null")
