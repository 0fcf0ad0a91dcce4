"""[network] of agent.toml: the bridges of this machine, and what of its network the agent may change."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from msgspec import Struct

from tank_agent.settings.declaration import count
from tank_agent.spec.findings import show
from tank_agent.spec.keys import declare

# A /16 has room for 256 bridges of 253 pods.
_SMALLEST_PREFIX, _LARGEST_PREFIX = 16, 29


def _network4(value: str) -> str:
    try:
        network = ipaddress.IPv4Network(value)
    except ValueError:
        message = f'{show(value)} is not an IPv4 network; write one such as "10.89.0.0/16"'
        raise ValueError(message) from None
    if not network.is_private or network.prefixlen > _LARGEST_PREFIX:
        raise ValueError(f"{show(value)} is not a private network with room for pods; see RFC 1918")
    return str(network)


def _network6(value: str) -> str:
    try:
        network = ipaddress.IPv6Network(value)
    except ValueError:
        message = f'{show(value)} is not an IPv6 network; write one such as "fd12:3456:789a::/48"'
        raise ValueError(message) from None
    if not network.is_private or network.prefixlen > 64:
        raise ValueError(f"{show(value)} is not a private network of /64 or larger; see RFC 4193")
    return str(network)


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(
            f'{show(value)} is not an address; write one of this machine, or "0.0.0.0"'
        ) from None


# A key reads as one sentence, which the formatter would spread over a dozen lines.
# fmt: off
class BridgeSettings(Struct, frozen=True, kw_only=True):
    """Where the addresses of pods in bridges come from, and where their ports are published."""

    pool: Annotated[str, declare(
        "The IPv4 network that bridges get theirs from; it overlaps none of the machine's.", "10.88.0.0/16",
        check=_network4)] = "10.89.0.0/16"
    prefix: Annotated[int, count(
        "The prefix length of one bridge's network, 16 to 29.", 22, _SMALLEST_PREFIX, _LARGEST_PREFIX
    )] = 24
    ipv6: Annotated[str | None, declare(
        "The IPv6 network that bridges get a /64 each from. Not given: no IPv6 in bridges.",
        "fd12:3456:789a::/48", check=_network6)] = None
    publish: Annotated[str, declare(
        "The address of this machine where a port without an address is published; \"0.0.0.0\": all of them, "
        "of IPv6 too.", "127.0.0.1", check=_address)] = "0.0.0.0"  # noqa: S104


class AgentNetworkSettings(Struct, frozen=True, kw_only=True):
    """The bridges of this machine, and its way to its own pods on the LAN."""

    host_access: Annotated[bool, declare(
        "The machine and its pods with an address on the LAN reach each other, by an interface `tank2`.",
        True)] = False
    bridge: Annotated[BridgeSettings, declare("Bridges and published ports.", live=False)] = BridgeSettings()
# fmt: on
