import pytest

from aviary.auth.bind import check_bind, is_loopback
from aviary.core.errors import SpecError

LOOPBACK = ["127.0.0.1", "127.255.255.254", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST"]
REACHABLE = [
    "0.0.0.0",
    "::",
    "[::]",
    "",
    "*",
    "10.0.0.1",
    "192.168.1.5",
    "128.0.0.1",
    "fe80::1%eth0",
    "::ffff:127.0.0.1",
    "localhost.example.com",
    "myhost",
    "127.0.0.1.example.com",
    "0127.0.0.1",
    "127.1",
    " 127.0.0.1",
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    check_bind(host, has_admin_key=False, insecure=False)


@pytest.mark.parametrize("host", REACHABLE)
def test_reachable(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(SpecError, match=r"aviary keys create NAME --role admin.*--insecure"):
        check_bind(host, has_admin_key=False, insecure=False)
    check_bind(host, has_admin_key=True, insecure=False)
    check_bind(host, has_admin_key=False, insecure=True)
