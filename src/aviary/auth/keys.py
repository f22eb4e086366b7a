"""API keys: issuing them, and telling from a request's headers who asks.

A key is shown once and stored as its SHA-256. That suffices, without salt and slow hashing, because
the secret is 256 random bits and no password.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from aviary.core.errors import Forbidden, InvalidRequest, NotAuthorized
from aviary.core.states import KeyView

Role = Literal["admin", "user"]
ROLES: Final[tuple[str, ...]] = get_args(Role)
_RANKS: Final = {"visitor": 0, "user": 1, "admin": 2}

SECRET_PREFIX: Final = "sk-aviary-"  # noqa: S105 - not a secret
ID_PREFIX: Final = "ak_"
MAX_HEADER_BYTES: Final = 512
MAX_NAME_CHARS: Final = 100

LOCKED: Final = KeyView(id="ak_locked", hash="", role="user")
"""A key that no secret fits, since no SHA-256 is empty."""
VISITOR: Final = KeyView(id="", hash="", role="visitor")
"""Who sends no key though keys are needed, where visitors are welcome. No key of anybody's."""

_ID_ALPHABET: Final = string.ascii_lowercase + string.digits
_HINT: Final = "Send `Authorization: Bearer sk-aviary-…` or `x-api-key: sk-aviary-…`."


@dataclass(frozen=True, slots=True)
class NewKey:
    """What is stored of a key that was just issued: the arguments of `SqlKeys.create`."""

    name: str
    role: str
    hash: str
    id: str


def issue(name: str, role: str) -> tuple[str, NewKey]:
    """Make a key.

    Args:
        name: What it is for, in a person's words.
        role: `admin` or `user`.

    Returns:
        The secret, to be shown once and forgotten, and what to store.

    Raises:
        InvalidRequest: The name is empty or too long, or the role unknown.
    """
    name = name.strip()
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise InvalidRequest(
            f"A key's name is 1 to {MAX_NAME_CHARS} printable characters.", param="name"
        )
    if role not in ROLES:
        raise InvalidRequest(
            f"There is no role {role[:32]!r}; roles are: {', '.join(ROLES)}.", param="role"
        )
    secret = SECRET_PREFIX + secrets.token_urlsafe(32)  # 43 characters
    id_ = ID_PREFIX + "".join(secrets.choice(_ID_ALPHABET) for _ in range(12))
    return secret, NewKey(name=name, role=role, hash=hash_secret(secret.encode()), id=id_)


def hash_secret(secret: bytes) -> str:
    """SHA-256 of a secret, hex."""
    return hashlib.sha256(secret).hexdigest()


def keys_to_publish(keys: tuple[KeyView, ...], *, open_without_keys: bool) -> tuple[KeyView, ...]:
    """What a snapshot's `keys` should be.

    A snapshot without keys lets everybody in. That is meant for a fresh Aviary on loopback; where
    it is not meant (another address, without `--insecure`), the revocation of the last key must
    shut the door instead of opening it.
    """
    return keys if keys or open_without_keys else (LOCKED,)


class KeyRing:
    """The keys that are good now, indexed for the hot path. Immutable: make a new one on a change.

    Args:
        keys: The keys; none at all means that no key is needed.
    """

    __slots__ = ("_by_hash",)

    def __init__(self, keys: Iterable[KeyView] = ()) -> None:
        self._by_hash = {key.hash.lower(): key for key in keys}

    @property
    def is_open(self) -> bool:
        """Whether everybody may come in, since there are no keys."""
        return not self._by_hash

    @property
    def is_locked(self) -> bool:
        """Whether nobody may come in, since the last key was revoked."""
        return set(self._by_hash) == {LOCKED.hash}

    def identify(self, authorization: bytes | None, x_api_key: bytes | None) -> KeyView | None:
        """Tell whose request this is.

        Both headers may be present (a proxy may add an `Authorization` of its own): one good key
        is enough, `Authorization` is looked at first.

        Args:
            authorization: Value of the `Authorization` header.
            x_api_key: Value of the `x-api-key` header.

        Returns:
            The key, or `None` when there are no keys and none is needed.

        Raises:
            NotAuthorized: No good key was sent.
        """
        if not self._by_hash:
            return None
        if authorization is not None:
            key = self._find(_bearer(authorization))
            if key is not None:
                return key
        if x_api_key is not None and len(x_api_key) <= MAX_HEADER_BYTES:
            key = self._find(x_api_key.strip())
            if key is not None:
                return key
        if authorization or x_api_key:
            raise NotAuthorized("The API key is wrong or was revoked.", hint=_HINT)
        raise NotAuthorized("An API key is needed and none was sent.", hint=_HINT)

    def _find(self, secret: bytes) -> KeyView | None:
        """The key with this secret.

        The time this takes depends on the digest of what was sent, of which a guesser can choose
        no part at will, and not on how much of a secret was guessed.
        """
        if not secret:
            return None
        digest = hashlib.sha256(secret).hexdigest()
        key = self._by_hash.get(digest)
        if key is not None and hmac.compare_digest(digest, key.hash.lower()):
            return key
        return None


def require(key: KeyView | None, role: Role | Literal["visitor"]) -> None:
    """Check that a key's role suffices; an admin may do all that users may, those all of visitors.

    Args:
        key: As `KeyRing.identify` returned it, or `VISITOR`; `None` (no key is needed here) may do
            everything.
        role: The least role.

    Raises:
        Forbidden: It does not suffice.
        NotAuthorized: A visitor asks for more than visitors may.
    """
    if key is None or _RANKS.get(key.role, 0) >= _RANKS[role]:
        return
    if key is VISITOR:
        raise NotAuthorized("An API key is needed and none was sent.", hint=_HINT)
    raise Forbidden(
        f"The key {key.id} has the role {key.role!r}; this needs {role!r}.",
        hint="Make one with `aviary keys create NAME --role admin`." if role == "admin" else "",
    )


def _bearer(header: bytes) -> bytes:
    """The token of a Bearer header; empty when it is another scheme, or absurdly long."""
    if len(header) > MAX_HEADER_BYTES:
        return b""
    words = header.split(None, 1)
    if len(words) == 2 and words[0].lower() == b"bearer":
        return words[1].rstrip()
    return b""
