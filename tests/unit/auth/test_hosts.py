"""Which `Host` and `Origin` an Aviary without keys answers."""

import pytest

from aviary.auth.hosts import HostGuard, check_site
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


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (b"aviary.example", None),
        (None, None),
        (b"aviary.example", b"https://aviary.example"),
        (b"aviary.example:443", b"https://Aviary.example"),
        (b"aviary.example:8000", b"http://aviary.example:8000"),
        (b"[2001:db8::1]:8000", b"http://[2001:db8::1]:8000"),
    ],
)
def test_pages_of_this_aviary(host: bytes | None, origin: bytes | None) -> None:
    for site in (None, b"same-origin", b"none", b"same-site"):
        check_site(host, origin, site)
    with pytest.raises(Forbidden, match="another website"):
        check_site(host, origin, b"cross-site")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (b"aviary.example", b"https://evil.example"),
        (b"aviary.example", b"https://aviary.example.evil.example"),
        (b"aviary.example", b"https://aviary.example:8443"),
        (b"aviary.example:8000", b"http://aviary.example"),
        (b"aviary.example", b"null"),
        (b"aviary.example", b""),
        (b"aviary.example", b"https://[::2"),
        (b"aviary.example", b"https://aviary.example:x"),
        (b"a:x", b"https://a"),
        (b"", b"https://"),
        (None, b"https://aviary.example"),
    ],
)
def test_pages_of_strangers(host: bytes | None, origin: bytes) -> None:
    with pytest.raises(Forbidden, match="another website"):
        check_site(host, origin, None)
