"""This machine's side of pods in bridges: leases, bridges, published ports, and the rules for them."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from tank_agent.errors import Stalled, TankError
from tank_agent.linux import nftables
from tank_agent.network import bridges, rtnetlink
from tank_agent.network.addresses import Address, Lease, Leases, Pool, gateway
from tank_agent.network.firewall import BridgeNetworks, Firewall, Forward, script
from tank_agent.network.flows import Flows
from tank_agent.network.neighbours import Neighbours
from tank_agent.network.obstacles import Obstacle, Obstacles
from tank_agent.network.ports import Claims
from tank_agent.network.wanted import LINK_GROUP, bridge_interface
from tank_agent.spec.model import ALL4, ALL6, Pod, Port

_LOOPBACK6 = "::1"


class Reservation(NamedTuple):
    """What a pod has of this machine while it exists: addresses in its bridges, by order, ports, aliases."""

    leases: dict[str, Lease]
    ports: tuple[Port, ...]
    aliases: Mapping[str, int] = {}


class HostSide:
    """Does for pods in bridges what lies outside of their namespaces. Any thread may call it.

    Everything is made from what is reserved, so each call can be repeated, also after a kill.

    Args:
        pool: where addresses come from.
        publish: where a port without an address is published.
        known: the reservations in the journal, by pod.
        uplink: returns this machine's interface to other machines.
        group: marks the bridges of this agent, as `bridges.group_of` has it.
    """

    def __init__(
        self,
        pool: Pool,
        publish: str,
        known: Mapping[str, Reservation],
        uplink: Callable[[], str | None] = lambda: None,
        group: int = LINK_GROUP,
    ) -> None:
        leases = {pod: reserved.leases for pod, reserved in known.items()}
        self.leases = Leases(pool, leases, bridges.foreign_networks)
        self.names = Neighbours(self.leases, {pod: reserved.aliases for pod, reserved in known.items()})
        self._publish = publish
        self._known_ports = {pod: reserved.ports for pod, reserved in known.items()}
        self._claims = Claims(self._known_ports)
        self._obstacles = Obstacles(uplink)
        self._bridges = bridges.Bridges(self.leases.networks, group)
        self._senders: Mapping[str, str] = {}
        self._firewall = Firewall(self._rules)
        self._flows = Flows()
        # Whether this machine has something of ours: a machine without pods in bridges is never asked.
        self._is_used = False

    def adopt(self, pods: Collection[str]) -> None:
        """Take over the ports of pods that ran under a former agent, before those of pods that only would."""
        running = {pod: ports for pod, ports in self._known_ports.items() if pod in pods}
        self._claims = Claims({**running, **self._known_ports})
        for pod in running:
            self._claims.open(pod)
        is_left = self._bridges.any_left()
        self._is_used = not self._bridges.are_anothers and (is_left or bool(self.leases.networks()))

    def recover(self, pod: str, leases: Mapping[str, Lease]) -> None:
        """Take over a pod that runs though the journal does not know it, with the ports that lead to it."""
        if self.leases.of(pod):
            return
        self.leases.restore(pod, leases)
        own = {text.partition("/")[0] for lease in self.leases.of(pod).values() for text in lease}
        if own:
            ports = tuple(_port(each) for each in self._firewall.read() if each.target in own)
            self._claims.adopt(pod, ports)

    def concerns(self, pod: Pod) -> bool:
        """Return whether a pod has anything to do with bridges or ports, or had; asks the kernel nothing."""
        return bool(pod.network.bridges or pod.ports or self.leases.of(pod.name) or self._claims.of(pod.name))

    def difference(self, pod: Pod) -> str | None:
        """Return how what a pod has reserved differs from its file; asks the kernel nothing."""
        leases = self.leases.of(pod.name)
        if tuple(leases) != pod.network.bridges:
            return "it is not in the bridges that its file names"
        if self.leases.lacks(pod.name, pod.network.bridges):
            return "it lacks an address in a bridge"
        if self._claims.of(pod.name) != self.wanted_ports(pod):
            return "it does not have the ports that its file names"
        self._claims.stay(pod.name)
        return None

    def reserve(self, pod: Pod) -> TankError | None:
        """Reserve addresses and ports for a pod, and return why it does not get all of them.

        What it had, it keeps until `settle`; the journal must have `reserved` before anything of it is used.
        """
        failure: TankError | None = None
        try:
            self.leases.give(pod.name, pod.network.bridges)
        except TankError as error:
            failure = error
        try:
            ports = self.wanted_ports(pod)
            for port in ports:
                _check_family(port, self.leases.of(pod.name))
            self._claims.take(pod.name, ports)
        except TankError as error:
            failure = failure or error
        return failure

    def reserved(self, pod: str) -> Reservation:
        """Return what a pod has reserved."""
        return Reservation(self.leases.of(pod), self._claims.of(pod), self.names.aliases.of(pod))

    def prepare(self, pod: Pod) -> None:
        """Make the bridges of a pod, for which it has addresses.

        Raises:
            Stalled, Retry: as `Bridges.ensure`; or no nftables. Without it a pod has no way out, and whoever
                is on the LAN a way in, so one without ports is not started either.
        """
        if pod.network.bridges:
            nftables.require()
        self._is_used = True
        try:
            self._bridges.ensure(pod.network.bridges)
        finally:
            self._is_used = not self._bridges.are_anothers

    def publish(self, pod: str) -> None:
        """Let a pod's ports lead to it, and its packets out; errors as in `Firewall.write`."""
        self._claims.open(pod)
        self._write()

    def settle(self, pod: Pod) -> bool:
        """Take back the addresses of bridges that a pod has left, and return whether there were any.

        Errors as in `check`.
        """
        had = self.leases.of(pod.name)
        self._remove(self.leases.keep_only(pod.name, pod.network.bridges))
        return had != self.leases.of(pod.name)

    def ports(self, pod: str) -> tuple[Port, ...]:
        """Return the ports of this machine that lead to a pod now."""
        return self._claims.open_of(pod)

    def wanted_ports(self, pod: Pod) -> tuple[Port, ...]:
        """Return the ports of a pod's file, each with the address where it is published."""
        return tuple(
            replace(port, address=self._publish) if port.address is None else port for port in pod.ports
        )

    def warnings(self, pod: str) -> tuple[str, ...]:
        """Return what keeps packets from a pod: of this machine, with the line to type, or other names."""
        own = {bridge_interface(bridge) for bridge in self.leases.of(pod)}
        if own - self._obstacles.looked_at:
            # Whoever asks for a pod that has just come does not wait for the next resync.
            self.look_for_obstacles()
        found = (
            str(each)
            for each in self._obstacles.found
            if own & each.interfaces and (not each.at_loopback or _are_at_loopback(self.ports(pod)))
        )
        return (*found, *self._at_missing_addresses(pod), *self.names.warnings(pod))

    def _at_missing_addresses(self, pod: str) -> Iterator[str]:
        ports = [(port, ipaddress.ip_address(port.address)) for port in self.ports(pod) if port.address]
        chosen = [(port, address) for port, address in ports if not _is_always_there(address)]
        if not chosen:
            return
        own = rtnetlink.own_addresses()
        for port, address in chosen:
            if address.packed not in own:
                yield f"port {port} is not reached: this machine does not have the address {address} now"

    def look_for_obstacles(self) -> tuple[Obstacle, ...]:
        """Look for what keeps packets from pods in bridges, for `warnings`, and return all of it."""
        ports = itertools.chain.from_iterable(self._claims.published().values())
        return self._obstacles.look(self._networks(), at_loopback=_are_at_loopback(ports))

    def check(self) -> tuple[str, ...]:
        """Make right what somebody changed of the bridges and the rules; return what was wrong.

        Raises:
            Stalled, Retry: something of it cannot be made right; all else was.
        """
        if not self._is_used:
            return ()
        wrong: list[str] = []
        failures: list[TankError] = []
        # In this order: while there are rules, there is a bridge, by which the next agent sees that.
        for look in (self._bridges.ensure, self._check_rules, self._bridges.remove_others):
            try:
                wrong += look()
            except TankError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        self._is_used = bool(self.leases.networks())
        return tuple(wrong)

    def send_from(self, senders: Mapping[str, str]) -> None:
        """Set the addresses that packets of bridges get on interfaces without one; errors as in `check`."""
        if senders != self._senders:
            self._senders = senders
            if self._is_used:
                self._write()

    def _check_rules(self) -> tuple[str, ...]:
        return ("the rules of published ports were changed",) if self._write() else ()

    def gateway(self, pod: Pod) -> str:
        """Return this machine's address in a pod's first bridge; empty for a pod in none."""
        first = next(iter(self.leases.of(pod.name).values()), ())
        return gateway(str(ipaddress.ip_interface(first[0]).network)) if first else ""

    def close(self, pod: str) -> None:
        """Let a pod's ports lead nowhere, though it keeps them; errors as in `Firewall.write`."""
        if self._claims.shut(pod):
            self._write()

    def give_up_ports(self, pod: str) -> bool:
        """Give up a pod's ports, which are shut, and return whether it had any."""
        return self._claims.drop(pod)

    def free(self, pod: str) -> None:
        """Take back all that a pod has, and remove the bridges that it leaves empty; errors as in `check`."""
        self.names.forget(pod)
        self.close(pod)
        self._claims.drop(pod)
        self._remove(self.leases.keep_only(pod, ()))

    def end(self) -> None:
        """Close what is open to talk to the kernel; all that was made stays."""
        self._firewall.close()

    def _remove(self, empty: Collection[str]) -> None:
        if empty:
            self._write()
            self._bridges.remove_others()

    def _write(self) -> bool:
        if not self._is_used or self._bridges.are_anothers:
            # The table has one name, whichever agent's it is.
            return False
        differed = self._firewall.write()
        self._flows.follow([forward for forward in self._forwards() if forward.protocol == "udp"])
        return differed

    def _rules(self) -> str:
        return script(self._networks(), self._forwards(), self._senders)

    def _networks(self) -> list[BridgeNetworks]:
        return [
            BridgeNetworks(interface=bridge_interface(name), networks=given)
            for name, given in self.leases.networks().items()
        ]

    def _forwards(self) -> Iterator[Forward]:
        for pod, ports in self._claims.published().items():
            leases = self.leases.of(pod)
            for port in ports:
                for address, target in _targets(port, leases):
                    yield Forward(
                        protocol=port.protocol,
                        address=address,
                        port=port.host,
                        target=target,
                        target_port=port.pod,
                        count=port.count,
                    )


def _port(forward: Forward) -> Port:
    return Port(
        host=forward.port,
        pod=forward.target_port,
        protocol="udp" if forward.protocol == "udp" else "tcp",
        address=forward.address or (ALL6 if forward.is_ipv6 else ALL4),
    )


def _are_at_loopback(ports: Iterable[Port]) -> bool:
    return any(port.address == _LOOPBACK6 for port in ports)


def _is_always_there(address: Address) -> bool:
    return address.is_unspecified or address.is_loopback


def _targets(port: Port, leases: Mapping[str, Lease]) -> Iterator[tuple[str | None, str]]:
    """Yield where a port is published, None for everywhere, with the pod's address of that family."""
    first = next(iter(leases.values()), ())
    by_version = {ipaddress.ip_interface(text).version: text.partition("/")[0] for text in first}
    if port.address == ALL4:
        # As programs that listen everywhere do; a pod without IPv6 has no such address.
        yield from ((None, target) for target in by_version.values())
    elif port.address is not None:
        # A pod may have lost its address of the family, by another agent.toml.
        target = by_version.get(ipaddress.ip_address(port.address).version)
        if target is not None:
            yield None if port.address == ALL6 else port.address, target


def _check_family(port: Port, leases: Mapping[str, Lease]) -> None:
    if ":" in (port.address or "") and not any(":" in text for lease in leases.values() for text in lease):
        raise Stalled(
            f"port {port} is one of IPv6, which this machine's bridges do not have",
            hint="set `ipv6` in [network.bridge] of agent.toml, or publish it on an IPv4 address",
        )
