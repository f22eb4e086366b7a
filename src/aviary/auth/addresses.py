"""Network addresses as names of who votes and asks: how to count by them, and how to keep them."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import Final

from aviary.auth.bind import is_loopback

IPV6_PREFIX_BITS: Final = 64
"""Who has one address of an IPv6 network usually has them all."""
HASH_CHARACTERS: Final = 32


def network_of(address: str) -> str:
    """What an address is counted under; empty for this machine's own, and for what is none.

    Behind a reverse proxy this machine's own address is everybody's.
    """
    if not address or is_loopback(address):
        return ""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return network_of(str(parsed.ipv4_mapped))
    return str(ipaddress.ip_network((int(parsed), IPV6_PREFIX_BITS), strict=False))


def hash_address(address: str, secret: bytes) -> str:
    """A network's name, which tells the address only to who knows the secret and tries them all."""
    network = network_of(address)
    if not network:
        return ""
    return hmac.new(secret, network.encode(), hashlib.sha256).hexdigest()[:HASH_CHARACTERS]
