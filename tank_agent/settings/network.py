"""[network] of agent.toml: the bridges of this machine, and what of its network the agent may change."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated

from msgspec import Struct

from tank_agent.settings.declaration import count
from tank_agent.spec.findings import show
from tank_agent.spec.keys import declare
from tank_agent.spec.network_values import refuse_special

# A /16 has room for 256 bridges of 253 pods.
_SMALLEST_PREFIX, _LARGEST_PREFIX = 16, 29
# A link has 64 bits for hosts (RFC 4291, section 2.5.1); a site has a /48 (RFC 4193, section 3.1).
_LINK6, _SITE6 = 64, 48
# RFC 1918, RFC 6598 and RFC 4193.
_PRIVATE4 = tuple(
    map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
)
_PRIVATE6 = ipaddress.IPv6Network("fc00::/7")
_EXAMPLE4, _EXAMPLE6 = "10.89.0.0/16", "fd12:3456:789a::/48"


def _network4(value: str) -> str:
    network = _network(value, 4, _EXAMPLE4)
    assert isinstance(network, ipaddress.IPv4Network)
    if network.prefixlen > _LARGEST_PREFIX:
        raise ValueError(f"{show(value)} has no room for pods; write one such as {show(_EXAMPLE4)}")
    if not any(network.subnet_of(private) for private in _PRIVATE4):
        right = f"write one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16, such as {show(_EXAMPLE4)}"
        raise ValueError(f"{show(value)} is not a private network; {right}")
    return str(network)


def _network6(value: str) -> str:
    network = _network(value, 6, _EXAMPLE6)
    assert isinstance(network, ipaddress.IPv6Network)
    if not network.subnet_of(_PRIVATE6):
        right = f"write one of fd00::/8 with a number of your own, such as {show(_EXAMPLE6)}"
        raise ValueError(f"{show(value)} is not a private network; {right}")
    if not _SITE6 <= network.prefixlen <= _LINK6:
        right = f"a /{_SITE6} has a /{_LINK6} for each of {1 << (_LINK6 - _SITE6)} bridges"
        raise ValueError(f"{show(value)} must be a /{_SITE6} to /{_LINK6}; {right}")
    return str(network)


def _network(value: str, version: int, example: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    right = f"write one such as {show(example)}"
    try:
        interface = ipaddress.ip_interface(value)
    except ValueError:
        raise ValueError(f"{show(value)} is not an IPv{version} network; {right}") from None
    if interface.version != version:
        key = "ipv6" if version == 4 else "pool"
        raise ValueError(f"{show(value)} is of IPv{interface.version}, for which the key is {key}")
    if "/" not in value:
        raise ValueError(f"{show(value)} has no prefix length; {right}")
    if interface.ip != interface.network.network_address:
        raise ValueError(f"{show(value)} is an address in a network; write {show(str(interface.network))}")
    return interface.network


def _address(value: str) -> str:
    right = 'write one of this machine, such as "127.0.0.1", or "0.0.0.0" for all'
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise ValueError(f"{show(value)} is not an address; {right}") from None
    if not address.is_unspecified:
        refuse_special(address)
    return str(address)


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


def problems(settings: AgentNetworkSettings) -> Iterator[tuple[str, str]]:
    """Yield what contradicts each other in [network], as a key and a sentence."""
    bridge = settings.bridge
    size = ipaddress.ip_network(bridge.pool).prefixlen
    if bridge.prefix < size:
        message = f"a bridge's /{bridge.prefix} does not fit into pool, a /{size}"
        yield "bridge.prefix", f"{message}; write at least {size}, or a larger pool"
    if ":" in bridge.publish and bridge.ipv6 is None:
        yield (
            "bridge.publish",
            "is of IPv6, which bridges have only with ipv6; add it, or write one of IPv4",
        )
