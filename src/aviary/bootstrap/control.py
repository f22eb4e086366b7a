"""The control process' door for gateways on other machines, and the token that opens it.

Plain HTTP, for private networks: whoever knows the token may do everything.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from aviary.auth.bind import is_loopback
from aviary.config.settings import Settings
from aviary.core.errors import SpecError, StartFailed

log = structlog.get_logger()

TOKEN_FILE = "cluster.token"  # noqa: S105 - the name of a file
LEAST_TOKEN_CHARACTERS = 32
MOST_TOKEN_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Door:
    """Where gateways of other machines come in.

    Attributes:
        host: Address to bind.
        port: Its port.
        token: What they must know.
    """

    host: str
    port: int
    token: str = field(repr=False)


def control_door(address: str, backend: str, settings: Settings) -> Door:
    """Check what `--control` asks for, and find or make the token.

    Args:
        address: `HOST:PORT`.
        backend: `local` or `ray`.
        settings: This installation's settings.

    Raises:
        SpecError: the address is none, or the token too short for it; or gateways elsewhere could
            not reach the replicas.
        StartFailed: the store is not one that several machines can use, or the token's file cannot
            be read or written.
    """
    host, port = split_address(address, "--control")
    settings.require_shared_store(
        "Gateways on other machines need a store that they can reach",
        f"aviary up --control {address}",
    )
    if backend == "local" and not is_loopback(host):
        raise SpecError(
            "Replicas of the local backend listen on loopback: gateways elsewhere cannot reach "
            "them.",
            hint="Use --backend ray, or a --control address on loopback.",
        )
    token = settings.cluster_token or _kept_token(settings.home / TOKEN_FILE)
    if not is_loopback(host):
        if len(token) < LEAST_TOKEN_CHARACTERS:
            raise SpecError(
                f"The cluster token has {len(token)} characters; beyond loopback at least "
                f"{LEAST_TOKEN_CHARACTERS} are needed.",
                hint="Set AVIARY_CLUSTER_TOKEN to a longer one: openssl rand -hex 32.",
            )
        log.warning("--control is plain HTTP: use it in a private network only", address=address)
    return Door(host, port, token)


def split_address(address: str, option: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; an IPv6 host may stand in brackets.

    Raises:
        SpecError: it is no such thing.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SpecError(f"{option} takes HOST:PORT, not {address[:100]!r}.")
    return host, int(port)


def token_from(path: Path) -> str:
    """The token in a file that only its owner may read.

    Raises:
        StartFailed: it cannot be read, is empty, or others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(MOST_TOKEN_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise StartFailed(f"Cannot read the cluster token {path}: {error.strerror}.") from error
    if stat.S_IMODE(mode) & 0o077:
        raise StartFailed(
            f"Others may read the cluster token {path}.", hint=f"Run `chmod 600 {path}`."
        )
    if not token or not token.isprintable():
        raise StartFailed(f"There is no token in {path}.", hint="Write one: openssl rand -hex 32.")
    return token


def _kept_token(path: Path) -> str:
    """The token of this home, made at the first start, so that gateways know the next one, too."""
    try:
        # Whole or not at all: a start that is killed here must not leave half a token.
        new = path.with_name(f".{path.name}.{os.getpid()}")
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(new)
        finally:
            new.unlink()
    except OSError as error:
        raise StartFailed(f"Cannot write the cluster token {path}: {error.strerror}.") from error
    return token_from(path)


@contextlib.contextmanager
def listen_control(door: Door) -> Iterator[socket.socket]:
    """The door's listening socket.

    Raises:
        StartFailed: it cannot be bound.
    """
    family = socket.AF_INET6 if ":" in door.host else socket.AF_INET
    try:
        listener = socket.create_server((door.host, door.port), family=family, backlog=512)
    except OSError as error:
        raise StartFailed(
            f"Cannot listen on {door.host}:{door.port}: {error.strerror or error}.",
            hint="Choose another address with --control.",
        ) from error
    with listener:
        yield listener
