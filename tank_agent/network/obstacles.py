"""Obstacles on this machine to packets of pods in bridges, outside of what the agent made, with remedies.

A `drop` of another table is final, whatever ours accepts: nft(8), "Chains". So it is found and said, never
changed. `tank doctor` and the status of pods in bridges show it.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from tank_agent.errors import Retry, TankError, one_line
from tank_agent.linux import nftables, process
from tank_agent.linux.namespaces import read_network_sysctl
from tank_agent.linux.nftables import PacketFilter
from tank_agent.network import rtnetlink
from tank_agent.network.bridges import is_ours
from tank_agent.network.filter_rules import Packet, Rules, from_legacy
from tank_agent.network.firewall import TABLE, BridgeNetworks

# A bridge that no pod has made yet.
_FIRST = BridgeNetworks(interface="tank-default", networks=())
_DEADLINE = 5.0
# Seconds between two looks at rules whose changes the kernel does not count.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 60.0
_LEGACY_FILTERS = {4: "ip_tables_names", 6: "ip6_tables_names"}
_OWN_NET = Path("/proc/thread-self/net")
_FILE = "/etc/sysctl.d/90-tank.conf"
_FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
_FORWARD_HOOK = re.compile(r"type filter hook forward ")
_PROGRAMS = {4: "iptables", 6: "ip6tables"}


class Obstacle(Struct, frozen=True, kw_only=True):
    """What does not work and why, the line to type, and the bridges concerned.

    `at_loopback`: it is only about ports at ::1.
    """

    problem: str
    remedy: str
    interfaces: frozenset[str]
    at_loopback: bool = False

    def __str__(self) -> str:
        """Return it as one sentence."""
        return f"{self.problem}; type: {self.remedy}"


class Seen(NamedTuple):
    """What may meet an obstacle.

    `uplink` is this machine's interface to other machines, empty for none; `at_loopback`: a port is published
    at ::1.
    """

    bridges: tuple[BridgeNetworks, ...]
    uplink: str
    at_loopback: bool

    @property
    def interfaces(self) -> frozenset[str]:
        """Return the interfaces of the bridges."""
        return frozenset(bridge.interface for bridge in self.bridges)

    @property
    def versions(self) -> tuple[int, ...]:
        """Return the versions of IP that the bridges have."""
        six = any(":" in network for bridge in self.bridges for network in bridge.networks)
        return (4, 6) if six else (4,)


class Obstacles:
    """Looks for obstacles; while no rule and no setting changes, that takes a tenth of a millisecond.

    Args:
        uplink: returns this machine's interface to other machines.
        clock: returns seconds.
    """

    def __init__(self, uplink: Callable[[], str | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._uplink, self._clock = uplink, clock
        self._nft = PacketFilter()
        self._lock = threading.Lock()
        self._key: object = None
        self._by_rules: tuple[Obstacle, ...] = ()
        self._legacy: tuple[Obstacle, ...] = ()
        self._legacy_key: object = None
        self._legacy_due, self._pause = 0.0, 0.0
        self.found: tuple[Obstacle, ...] = ()
        self.looked_at: frozenset[str] = frozenset()

    def close(self) -> None:
        """Close the socket to nftables."""
        self._nft.close()

    def look(self, bridges: Collection[BridgeNetworks], *, at_loopback: bool = False) -> tuple[Obstacle, ...]:
        """Return and keep in `found` what is in the way of the interfaces in `looked_at`.

        While another thread looks, that is what was found before.

        Args:
            bridges: those that pods are in.
            at_loopback: one of them publishes a port at ::1.
        """
        if not bridges:
            self.found, self.looked_at = (), frozenset()
        elif self._lock.acquire(blocking=False):
            try:
                self.found = self._look(bridges, at_loopback=at_loopback)
                self.looked_at = frozenset(bridge.interface for bridge in bridges)
            finally:
                self._lock.release()
        return self.found

    def _look(self, bridges: Collection[BridgeNetworks], *, at_loopback: bool) -> tuple[Obstacle, ...]:
        uplink = ""
        with suppress(TankError):
            uplink = self._uplink() or ""
        seen = Seen(tuple(sorted(bridges, key=lambda each: each.interface)), uplink, at_loopback)
        settings = _Settings.read(uplink, seen.versions)
        # Without an answer they are as before, and looked at again.
        with suppress(TankError, OSError):
            generation = self._nft.generation()
            if self._key != (seen, settings, generation):
                self._by_rules = () if generation is None else tuple(_of_tables(self._nft, seen, settings))
                self._key = (seen, settings, generation)
        return _joined([*_of_settings(seen, settings), *self._by_rules, *self._of_legacy(seen, settings)])

    def _of_legacy(self, seen: Seen, settings: _Settings) -> tuple[Obstacle, ...]:
        loaded = tuple(version for version in seen.versions if _has_legacy_filter(version))
        key, now = (seen, settings, loaded), self._clock()
        # While there is one, its end is to be seen soon.
        if key != self._legacy_key or self._legacy or now >= self._legacy_due:
            with suppress(TankError):
                self._legacy = tuple(o for each in loaded for o in _of_legacy_filter(each, seen, settings))
            # Soon again where it has just come: its owner may still be writing it.
            first = key != self._legacy_key
            self._pause = _FIRST_PAUSE if first else min(2 * self._pause, _LONGEST_PAUSE)
            self._legacy_key, self._legacy_due = key, now + self._pause
        return self._legacy


class _Settings(NamedTuple):
    """Settings of the kernel, each "1" where it is on; empty where this kernel has it not."""

    forwarding: str
    uplink_forwarding: str
    forwarding6: str
    router_advertisements: str
    filters_bridges: Mapping[int, str]

    @classmethod
    def read(cls, uplink: str, versions: Sequence[int]) -> _Settings:
        forwarding6 = forced = advertisements = ""
        if 6 in versions:
            forwarding6 = _setting("ipv6/conf/all/forwarding")
            if uplink:
                forced = _setting(f"ipv6/conf/{uplink}/force_forwarding")
                advertisements = _setting(f"ipv6/conf/{uplink}/accept_ra")
        return cls(
            forwarding=_setting("ipv4/ip_forward"),
            uplink_forwarding=_setting(f"ipv4/conf/{uplink}/forwarding") if uplink else "",
            forwarding6=forwarding6 if forced != "1" else forced,
            router_advertisements=advertisements,
            filters_bridges={
                version: _setting(f"bridge/bridge-nf-call-{_PROGRAMS[version]}") for version in versions
            },
        )


def _setting(name: str) -> str:
    with suppress(OSError):
        return read_network_sysctl(name)
    return ""


def _typed(*settings: str) -> str:
    lines = "; ".join(f"echo {setting} >>{_FILE}" for setting in settings)
    return f"{lines}; sysctl -p {_FILE}"


def on_this_machine(uplink: str | None) -> tuple[Obstacle, ...]:
    """Return the obstacles of the bridges that this machine has, or, without one, of the first to come."""
    with rtnetlink.open_socket() as netlink:
        links = {link.index: link.name for link in rtnetlink.read_links(netlink) if is_ours(link)}
        addresses = [each for each in rtnetlink.read_addresses(netlink) if each.index in links]
    networks: dict[str, list[str]] = {name: [] for name in links.values()}
    for address in addresses:
        network = ipaddress.ip_interface(str(address)).network
        if not network.is_link_local:
            networks[links[address.index]].append(str(network))
    found = [BridgeNetworks(interface=name, networks=tuple(each)) for name, each in networks.items()]
    with closing(Obstacles(lambda: uplink)) as looker:
        return looker.look(found or [_FIRST], at_loopback=bool(found) and _publishes_at_loopback())


def _publishes_at_loopback() -> bool:
    with suppress(TankError, OSError):
        return bool(re.search(r"[{,\s]::1 \. \w+ \. ", nftables.run(f"list table {TABLE}")))
    return False


def _of_settings(seen: Seen, settings: _Settings) -> Iterator[Obstacle]:
    effect = "other machines reach no port of pods in bridges, and these reach no other machine"
    uplink, all_of_them = seen.uplink, seen.interfaces
    if settings.uplink_forwarding == "0" or (not uplink and settings.forwarding == "0"):
        # The first sets the second, but not again where it is so already.
        by_uplink = settings.forwarding == "1"
        where = f"what comes in by {uplink}" if by_uplink else "packets"
        setting = f"net/ipv4/conf/{uplink}/forwarding=1" if by_uplink else "net.ipv4.ip_forward=1"
        yield Obstacle(
            problem=f"this machine does not forward {where}: {effect}",
            remedy=_typed(setting),
            interfaces=all_of_them,
        )
    if settings.forwarding6 == "0":
        # A machine that forwards no longer takes its own address and route from its router, unless told to.
        still = [f"net/ipv6/conf/{uplink}/accept_ra=2"] if settings.router_advertisements == "1" else []
        yield Obstacle(
            problem=f"this machine does not forward packets of IPv6: {effect} by it",
            remedy=_typed(*still, "net.ipv6.conf.all.forwarding=1"),
            interfaces=frozenset(
                bridge.interface for bridge in seen.bridges if any(":" in each for each in bridge.networks)
            ),
        )
    if seen.at_loopback and settings.filters_bridges.get(6) == "1":
        yield Obstacle(
            problem="br_netfilter drops the answers to ::1, so ports that are published there do not answer",
            remedy=_typed("net.bridge.bridge-nf-call-ip6tables=0"),
            interfaces=all_of_them,
            at_loopback=True,
        )


def _of_tables(nft: PacketFilter, seen: Seen, settings: _Settings) -> Iterator[Obstacle]:
    """Yield what tables of nftables drop, those of iptables-nft among them."""
    for part in re.split(r"^table ", nft.run("list chains"), flags=re.MULTILINE)[1:]:
        heading = part.partition(" {")[0]
        family = heading.partition(" ")[0]
        versions = [each for each in _FAMILIES.get(family, ()) if each in seen.versions]
        if heading.startswith(TABLE) or not versions or not _FORWARD_HOOK.search(part):
            continue
        # Meanwhile somebody may have removed it.
        with suppress(TankError, OSError):
            table = _Table(heading, nft.run(f"list table {heading}"), versions)
            yield from _dropped(table, seen, settings)


def _has_legacy_filter(version: int) -> bool:
    try:
        return "filter" in (_OWN_NET / _LEGACY_FILTERS[version]).read_text().split()
    except OSError:
        return False


def _of_legacy_filter(version: int, seen: Seen, settings: _Settings) -> Iterator[Obstacle]:
    """Yield what rules of the kernel's older filter drop, which nftables does not list."""
    # It waits for another that changes them.
    done = process.run([f"{_PROGRAMS[version]}-legacy", "-w", "2", "-S"], timeout=_DEADLINE)
    if done.code:
        raise Retry(f"{_PROGRAMS[version]}-legacy does not list its rules: {one_line(done.stderr)}")
    heading = f"{'ip' if version == 4 else 'ip6'} filter"
    table = _Table(heading, from_legacy(done.stdout), [version], kind="legacy")
    yield from _dropped(table, seen, settings)


class _Table(NamedTuple):
    """A table of another program, and the versions of IP that it is looked at for."""

    heading: str
    listed: str
    versions: Sequence[int]
    kind: str = "nft"

    def has(self, chain: str) -> bool:
        return f"chain {chain} {{" in self.listed

    @property
    def owner(self) -> str:
        """Return the program that made it, as people know it; empty for any other."""
        if self.heading.endswith(" firewalld"):
            return "firewalld"
        if self.has("DOCKER-USER"):
            return "Docker"
        return "ufw" if self.has("ufw-user-forward") or self.has("ufw6-user-forward") else ""


def _dropped(table: _Table, seen: Seen, settings: _Settings) -> Iterator[Obstacle]:
    rules = Rules(table.listed)
    filters_bridges = any(settings.filters_bridges.get(version) == "1" for version in table.versions)
    for chain in rules.forwarding():
        effects: dict[tuple[str, ...], set[str]] = {}
        for bridge in seen.bridges:
            effect = tuple(_effects(rules, chain, bridge, seen.uplink, filters_bridges=filters_bridges))
            if effect:
                effects.setdefault(effect, set()).add(bridge.interface)
        for effect, interfaces in effects.items():
            name = f"{table.heading} {chain}" + (" of iptables-legacy" if table.kind == "legacy" else "")
            by = f"{table.owner} ({name})" if table.owner else f"the firewall ({name})"
            version = " by IPv6" if table.versions == [6] else ""
            yield Obstacle(
                problem=f"{by} drops packets of {', '.join(sorted(interfaces))}: {_listed(effect)}{version}",
                remedy=_remedy(table, chain),
                interfaces=frozenset(interfaces),
            )


def _effects(
    rules: Rules, chain: str, bridge: BridgeNetworks, uplink: str, *, filters_bridges: bool
) -> Iterator[str]:
    """Yield what does not work in a bridge, because a chain drops the first packet or the answer to it."""
    own = bridge.interface

    def works(came_by: str, goes_by: str, *, is_published: bool) -> bool:
        there = Packet(came_by, goes_by, own, is_published=is_published, networks=bridge.networks)
        back = there._replace(came_by=goes_by, goes_by=came_by, is_answer=True)
        return rules.lets_through(chain, there) and rules.lets_through(chain, back)

    if not works(uplink, own, is_published=True):
        yield "other machines do not reach their pods' ports"
    if not works(own, uplink, is_published=False):
        yield "their pods do not reach other machines"
    if not works(own, own, is_published=True):
        yield "pods do not reach each other's published ports"
    if filters_bridges and not works(own, own, is_published=False):
        yield "pods of one bridge do not reach each other (br_netfilter)"


def _listed(effects: Sequence[str]) -> str:
    return effects[0] if len(effects) == 1 else f"{', '.join(effects[:-1])}, and {effects[-1]}"


def _remedy(table: _Table, chain: str) -> str:
    """Return the line that lets all bridges of ours through, those that come later, too."""
    if table.owner == "firewalld":
        return "firewall-cmd --permanent --zone=trusted --add-interface=tank-+; firewall-cmd --reload"
    if table.owner == "ufw":
        return "ufw route allow in on tank-+; ufw route allow out on tank-+"
    if table.owner == "Docker" or (table.heading in ("ip filter", "ip6 filter") and chain == "FORWARD"):
        program = _iptables(table.versions[0], table.kind)
        first = "DOCKER-USER" if table.owner == "Docker" else chain
        return "; ".join(f"{program} -I {first} -{way} tank-+ -j ACCEPT" for way in "io")
    rules = (f"nft 'insert rule {table.heading} {chain} {way}ifname \"tank-*\" accept'" for way in "io")
    return "; ".join(rules)


def _iptables(version: int, kind: str) -> str:
    """Return the program for rules of a kind: the plain name is that of the one or of the other."""
    program = _PROGRAMS[version]
    found = shutil.which(program, path=process.ENVIRONMENT["PATH"])
    return program if found and kind in Path(found).resolve().name else f"{program}-{kind}"


def _joined(obstacles: Sequence[Obstacle]) -> tuple[Obstacle, ...]:
    """Return one obstacle for each line to type: ufw's, for example, is about both versions of IP."""
    first: dict[str, Obstacle] = {}
    for remedy, same in itertools.groupby(
        sorted(obstacles, key=lambda each: each.remedy), key=lambda each: each.remedy
    ):
        group = list(same)
        first[remedy] = Obstacle(
            problem="; ".join(dict.fromkeys(each.problem for each in group)),
            remedy=remedy,
            interfaces=frozenset().union(*(each.interfaces for each in group)),
            at_loopback=group[0].at_loopback,
        )
    return tuple(first[remedy] for remedy in dict.fromkeys(each.remedy for each in obstacles))
