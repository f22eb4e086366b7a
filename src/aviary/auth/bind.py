"""Which addresses may be bound without an admin key."""

from __future__ import annotations

import ipaddress

from aviary.core.errors import SpecError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address: 127.0.0.0/8, ::1 and `localhost`.

    Other names count as reachable whatever they resolve to, and so does an empty host.
    """
    if host.lower() == "localhost":
        return True
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_loopback
    return address == ipaddress.IPv6Address("::1")


def check_bind(host: str, has_admin_key: bool, insecure: bool) -> None:
    """Refuse to open Aviary to a network without an admin key.

    Args:
        host: The address to bind.
        has_admin_key: Whether at least one admin key is good.
        insecure: Whether the user said `--insecure`.

    Raises:
        SpecError: It is refused; says which command to run.
    """
    if insecure or has_admin_key or is_loopback(host):
        return
    raise SpecError(
        f"Binding {host or 'all addresses'!r} without an admin key is refused: anybody who reaches "
        "this machine could use and administer it.",
        hint="Run `aviary keys create NAME --role admin` first, or add `--insecure`.",
        param="host",
    )
