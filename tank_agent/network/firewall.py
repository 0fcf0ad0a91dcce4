"""The one nftables table: ports that pods publish, what leaves their bridges, and what may not get in.

It is always written whole, in one transaction, from what should be. It is compared at each resync, and
written again where somebody flushed or changed it. Other programs' tables are never touched.
"""

from __future__ import annotations

import ipaddress
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from msgspec import Struct

from tank_agent.linux import fault, nftables

_NAME = "tank"
TABLE = f"inet {_NAME}"
# There is no "delete if it exists" before nft 1.0.8.
_NO_TABLE = f"table {TABLE} {{}}\ndelete table {TABLE}\n"
_NO_SENDERS: Mapping[str, str] = {}
_LOOPBACK4, _LOOPBACK6 = ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_address("::1")


class BridgeNetworks(Struct, frozen=True, kw_only=True):
    """A bridge of ours: its interface, and the networks on it, such as "10.89.0.0/24", one a family."""

    interface: str
    networks: tuple[str, ...]


class Forward(Struct, frozen=True, kw_only=True):
    """What arrives at a port of this machine and goes on to a pod.

    `address` is the machine's, or None for all that it has of `target`'s family; `protocol` is "tcp" or
    "udp"; `count` ports from `port` on go to as many from `target_port` on.
    """

    protocol: str
    address: str | None
    port: int
    target: str
    target_port: int
    count: int = 1

    @property
    def is_ipv6(self) -> bool:
        """Return whether it is a port of IPv6."""
        return ":" in self.target


def script(
    bridges: Collection[BridgeNetworks],
    forwards: Iterable[Forward],
    senders: Mapping[str, str] = _NO_SENDERS,
) -> str:
    """Return the commands of nft(8) that make the table as it should be, whatever it is now.

    Without a bridge there is no table. `senders` are the IPv4 addresses that packets from bridges get where
    they leave by an interface that has none of its own, by its name.
    """
    if not bridges:
        return _NO_TABLE
    maps = _maps(forwards)
    ordered = sorted(bridges, key=lambda bridge: bridge.interface)
    lines = [f"{_NO_TABLE}table {TABLE} {{", *(_map(name, maps[name]) for name in _MAPS)]
    # A bridge takes packets of 127.0.0.0/8, so that a pod could send some as if it were this machine.
    forged = [f'iifname != "lo" ip {end} {_LOOPBACK4} drop' for end in ("daddr", "saddr")]
    lines += _chain("raw", "filter", "prerouting", "raw", [*forged, *_spoofed(ordered)])
    lines += _chain("prerouting", "nat", "prerouting", "dstnat", ["fib daddr type local jump publish"])
    lines += _chain("output", "nat", "output", "-100", ["fib daddr type local jump publish"])
    lines += ["chain publish {", *_PUBLISH, "}"]
    sources = [r for b in ordered for r in (*_sent_from(b, senders), *_masquerade(b))]
    lines += _chain("postrouting", "nat", "postrouting", "srcnat", sources)
    lines += _chain("forward", "filter", "forward", "filter", _admission(ordered))
    return "\n".join([*lines, "}", ""])


# For each family: ports of one address of the machine first, then those of all its addresses.
_MAPS = {
    "at4": ("ipv4_addr . inet_proto . inet_service", "ipv4_addr"),
    "any4": ("inet_proto . inet_service", "ipv4_addr"),
    "at6": ("ipv6_addr . inet_proto . inet_service", "ipv6_addr"),
    "any6": ("inet_proto . inet_service", "ipv6_addr"),
}
# An entry of a map, as nft writes it.
_ENTRY = re.compile(
    r"(?:(?P<address>[0-9a-f.:]+) \. )?(?P<protocol>tcp|udp) \. (?P<port>\d+)"
    r" : (?P<target>[0-9a-f.:]+) \. (?P<target_port>\d+)"
)
_PORTS = "meta l4proto { tcp, udp }"
_PUBLISH = (
    f"{_PORTS} dnat ip to ip daddr . meta l4proto . th dport map @at4",
    f"{_PORTS} dnat ip to meta l4proto . th dport map @any4",
    f"{_PORTS} dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6",
    f"{_PORTS} dnat ip6 to meta l4proto . th dport map @any6",
)


def _maps(forwards: Iterable[Forward]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {name: {} for name in _MAPS}
    for each in forwards:
        name = f"{'any' if each.address is None else 'at'}{6 if each.is_ipv6 else 4}"
        address = "" if each.address is None else f"{each.address} . "
        for number in range(each.count):
            key = f"{address}{each.protocol} . {each.port + number}"
            found[name][key] = f"{each.target} . {each.target_port + number}"
    return found


def _map(name: str, elements: Mapping[str, str]) -> str:
    key, address = _MAPS[name]
    listed = ", ".join(f"{key} : {target}" for key, target in sorted(elements.items()))
    content = f" elements = {{ {listed} }};" if listed else ""
    return f"map {name} {{ type {key} : {address} . inet_service;{content} }}"


def _chain(name: str, kind: str, hook: str, priority: str, rules: Iterable[str]) -> list[str]:
    return [f"chain {name} {{ type {kind} hook {hook} priority {priority};", *rules, "}"]


def _sent_from(bridge: BridgeNetworks, senders: Mapping[str, str]) -> list[str]:
    # There the kernel's masquerade takes the first address of the machine, of whatever interface.
    return [
        f'ip saddr {network} oifname "{interface}" snat ip to {address}'
        for network in bridge.networks
        for interface, address in sorted(senders.items())
        if ":" not in network
    ]


def _spoofed(bridges: Collection[BridgeNetworks]) -> Iterator[str]:
    """Keep those who are not in a bridge from sending as if they were, be it the LAN or another bridge.

    The kernel looks, not only at the bridge: a machine may come to a LAN that has a bridge's network, too.
    """
    networks = sorted(network for bridge in bridges for network in bridge.networks)
    for family, own in (
        ("ip", [each for each in networks if ":" not in each]),
        ("ip6", [each for each in networks if ":" in each]),
    ):
        if own:
            yield f"{family} saddr {{ {', '.join(own)} }} fib saddr . iif oif missing drop"


def _masquerade(bridge: BridgeNetworks) -> list[str]:
    rules = [
        # From 127.0.0.1 and ::1 of this machine no answer would find back.
        f'oifname "{bridge.interface}" ip saddr {_LOOPBACK4} masquerade',
        f'oifname "{bridge.interface}" ip6 saddr {_LOOPBACK6} masquerade',
    ]
    for network in bridge.networks:
        family = "ip6" if ":" in network else "ip"
        # To a published port of a neighbour or its own: else the answer would not pass here.
        rules.append(f"{family} saddr {network} {family} daddr {network} ct status dnat masquerade")
        rules.append(f'{family} saddr {network} oifname != "{bridge.interface}" masquerade')
    return rules


def _admission(bridges: Collection[BridgeNetworks]) -> list[str]:
    """Let into a bridge what was published, what answers, and its own; nothing that is only routed there."""
    ours = ", ".join(f'"{bridge.interface}"' for bridge in bridges)
    return [
        # Not whatever is established: while somebody had removed this table, anybody could begin a flow.
        "ct direction reply accept",
        "ct status dnat accept",
        *(f'iifname "{bridge.interface}" oifname "{bridge.interface}" accept' for bridge in bridges),
        f"oifname {{ {ours} }} drop",
    ]


class Firewall:
    """Keeps the table as it should be. Any thread may call it; writers that come together write once.

    Args:
        wanted: return the `script` of the table as it should be.
    """

    def __init__(self, wanted: Callable[[], str]) -> None:
        self._script = wanted
        self._lock = threading.Lock()
        self._nft: nftables.PacketFilter | None = None
        self._wanted: str | None = None
        self._listed: str | None = None
        self._generation: int | None = None

    def write(self) -> bool:
        """Make the table as it should be, and return whether somebody else had changed it.

        Raises:
            Retry, Stalled: as `PacketFilter.run`; the table is then as it was.
        """
        with self._lock:
            # Not before: an older one would then be written after a newer one.
            wanted = self._script()
            nft = self._nft = self._nft or nftables.PacketFilter()
            was_right = wanted == self._wanted
            if was_right and not self._differs(nft):
                return False
            if wanted != _NO_TABLE or nft.has_table(_NAME):
                nft.run(wanted)
                fault.point("network:rules-written")
            self._wanted, self._listed = wanted, _listing(nft)
            self._generation = nft.generation()
        return was_right

    def read(self) -> tuple[Forward, ...]:
        """Return the ports that the table has now, one by one; errors as in `write`."""
        with self._lock:
            nft = self._nft = self._nft or nftables.PacketFilter()
            listed = _listing(nft) or ""
        return tuple(
            Forward(
                protocol=found["protocol"],
                address=found["address"],
                port=int(found["port"]),
                target=found["target"],
                target_port=int(found["target_port"]),
            )
            for found in _ENTRY.finditer(listed)
        )

    def close(self) -> None:
        """Close the sockets to the kernel; the table stays."""
        with self._lock:
            if self._nft is not None:
                self._nft.close()
                self._nft = None

    def _differs(self, nft: nftables.PacketFilter) -> bool:
        """Return whether somebody changed the table since it was written; quick if no rule changed."""
        generation = nft.generation()
        if generation is not None and generation == self._generation:
            return False
        if _listing(nft) != self._listed:
            return True
        self._generation = generation
        return False


def _listing(nft: nftables.PacketFilter) -> str | None:
    """Return the table as the kernel has it; None if there is none."""
    return nft.run(f"list table {TABLE}") if nft.has_table(_NAME) else None
