import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.auth.keys import (
    LOCKED,
    MAX_HEADER_BYTES,
    KeyRing,
    hash_secret,
    issue,
    keys_to_publish,
    require,
)
from aviary.core.errors import Forbidden, InvalidRequest, NotAuthorized
from aviary.core.states import KeyView

SECRET = b"sk-aviary-" + b"a" * 43
OTHER = b"sk-aviary-" + b"b" * 43
KEY = KeyView("ak_1", hash_secret(SECRET), "user")
RING = KeyRing([KEY, KeyView("ak_2", hash_secret(OTHER), "admin")])


class TestIssue:
    def test_formats(self) -> None:
        secret, new = issue("  my app ", "user")
        assert re.fullmatch(r"sk-aviary-[A-Za-z0-9_-]{43}", secret)
        assert re.fullmatch(r"ak_[a-z0-9]{12}", new.id)
        assert (new.name, new.role, new.hash) == ("my app", "user", hash_secret(secret.encode()))
        assert secret not in repr(new)

    def test_no_two_are_alike(self) -> None:
        assert (
            len({part for _ in range(50) for part in (lambda s, n: (s, n.id))(*issue("a", "user"))})
            == 100
        )

    @pytest.mark.parametrize(
        ("name", "role"),
        [("", "user"), ("  ", "user"), ("x" * 101, "user"), ("a\nb", "user"), ("a", "root")],
    )
    def test_refuses(self, name: str, role: str) -> None:
        with pytest.raises(InvalidRequest):
            issue(name, role)


class TestIdentify:
    def test_open_without_keys(self) -> None:
        assert KeyRing().is_open
        assert KeyRing().identify(None, None) is None
        assert KeyRing().identify(b"Bearer whatever", b"whatever") is None

    @pytest.mark.parametrize(
        "header",
        [
            b"Bearer " + SECRET,
            b"bearer " + SECRET,
            b"BEARER   " + SECRET + b"  ",
            b" bEaReR\t" + SECRET,
        ],
    )
    def test_bearer(self, header: bytes) -> None:
        assert RING.identify(header, None) == KEY

    def test_x_api_key(self) -> None:
        assert RING.identify(None, SECRET) == KEY
        assert RING.identify(None, b" " + SECRET + b" ") == KEY

    def test_either_header_may_be_a_proxys(self) -> None:
        assert RING.identify(b"Basic abc", SECRET) == KEY
        assert RING.identify(b"Bearer wrong", SECRET) == KEY
        assert RING.identify(b"Bearer " + SECRET, b"wrong") == KEY

    @pytest.mark.parametrize(
        ("authorization", "x_api_key"),
        [
            (None, None),
            (b"", b""),
            (b"Bearer", None),
            (b"Bearer ", None),
            (b"Basic " + SECRET, None),
            (SECRET, None),
            (b"Bearer" + SECRET, None),
            (b"Bearer Bearer " + SECRET, None),
            (b"Bearer " + SECRET + b", Bearer " + SECRET, None),
            (b"Bearer " + SECRET[:-1], None),
            (b"Bearer " + SECRET + b"a", None),
            (b"Bearer " + SECRET.upper(), None),
            (b"Bearer " + KEY.hash.encode(), None),
            (b"Bearer \xff\xfe\x00" + SECRET, None),
            (b"Bearer " + SECRET + b" " * 600, None),
            (None, b"x" * 10_000_000),
            (None, b"Bearer " + SECRET),
            (None, b" "),
        ],
    )
    def test_wrong(self, authorization: bytes | None, x_api_key: bytes | None) -> None:
        with pytest.raises(NotAuthorized) as caught:
            RING.identify(authorization, x_api_key)
        assert caught.value.status == 401
        assert "aaaa" not in str(caught.value)

    def test_missing_and_wrong_are_told_apart(self) -> None:
        with pytest.raises(NotAuthorized, match="none was sent"):
            RING.identify(None, None)
        with pytest.raises(NotAuthorized, match="wrong or was revoked"):
            RING.identify(b"Bearer x", None)

    @given(st.binary(max_size=700), st.none() | st.binary(max_size=700))
    def test_hostile_bytes_never_do_more_than_be_refused(
        self, authorization: bytes, x_api_key: bytes | None
    ) -> None:
        for header in (authorization, b"Bearer " + authorization):
            with pytest.raises(NotAuthorized):
                RING.identify(header, x_api_key)

    def test_locked_ring_lets_nobody_in(self) -> None:
        ring = KeyRing(keys_to_publish((), open_without_keys=False))
        assert not ring.is_open
        for secret in (b"", b"x", LOCKED.id.encode(), b"\0"):
            with pytest.raises(NotAuthorized):
                ring.identify(b"Bearer " + secret, secret)

    def test_keys_to_publish(self) -> None:
        assert keys_to_publish((KEY,), open_without_keys=False) == (KEY,)
        assert keys_to_publish((), open_without_keys=True) == ()

    @pytest.mark.parametrize(
        "header", [b"Bearer " + SECRET, b"Bearer " + b"x" * 505, b"x" * 10_000_000]
    )
    def test_is_quick(self, header: bytes) -> None:
        assert len(header) <= MAX_HEADER_BYTES or len(header) == 10_000_000
        ring = KeyRing([KeyView(f"ak_{i}", hash_secret(b"%d" % i), "user") for i in range(10_000)])
        best_s = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(200):
                with contextlib.suppress(NotAuthorized):
                    ring.identify(header, None)
            best_s = min(best_s, (time.perf_counter() - start) / 200)
        assert best_s < 50e-6


class TestRequire:
    def test_table(self) -> None:
        user, admin, odd = (
            KeyView("u", "", "user"),
            KeyView("a", "", "admin"),
            KeyView("o", "", "x"),
        )
        require(None, "admin")
        require(admin, "admin")
        require(admin, "user")
        require(user, "user")
        for key, role in [(user, "admin"), (odd, "admin"), (odd, "user")]:
            with pytest.raises(Forbidden) as caught:
                require(key, role)  # type: ignore[arg-type]
            assert caught.value.status == 403
