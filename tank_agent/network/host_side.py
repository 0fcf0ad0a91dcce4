"""This machine's side of pods in bridges: leases, bridges, published ports, and the rules for them."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping

from msgspec.structs import replace

from tank_agent.errors import Stalled
from tank_agent.linux import nftables
from tank_agent.network import bridges
from tank_agent.network.addresses import Lease, Leases, Pool, gateway
from tank_agent.network.firewall import BridgeNetworks, Firewall, Forward, script
from tank_agent.network.neighbours import Neighbours
from tank_agent.network.obstacles import Obstacle, Obstacles
from tank_agent.network.ports import Claims
from tank_agent.network.wanted import bridge_interface
from tank_agent.spec.model import Pod, Port

_LOOPBACK6 = "::1"
_ALL4, _ALL6 = "0.0.0.0", "::"  # noqa: S104


class HostSide:
    """Does for pods in bridges what lies outside of their namespaces. Any thread may call it.

    Everything is made from what is leased and claimed, so each call can be repeated, also after a kill.

    Args:
        pool: where addresses come from.
        publish: where a port without an address is published.
        known: the leases in the journal, by pod and bridge.
        uplink: returns this machine's interface to other machines.
    """

    def __init__(
        self,
        pool: Pool,
        publish: str,
        known: Mapping[str, Mapping[str, Lease]],
        uplink: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.leases = Leases(pool, known, bridges.foreign_networks)
        self.names = Neighbours(self.leases)
        self._publish = publish
        self._claims = Claims()
        self._obstacles = Obstacles(uplink)
        self._bridges = bridges.Bridges()
        self._firewall = Firewall(self._rules)

    def lease(self, pod: Pod) -> dict[str, Lease]:
        """Return the addresses of a pod in each of its bridges; empty for a pod that is in none.

        They are the pod's until `free`, so the journal must have them before they are used.

        Raises:
            Stalled: no address is left.
        """
        self.names.note([pod])
        return self.leases.give(pod.name, pod.network.bridges)

    def prepare(self, pod: Pod) -> None:
        """Make what a pod's interfaces and ports need on this machine, or refuse before anything is made.

        Raises:
            Retry: a port is taken.
            Stalled: a port of IPv6, and the pod has no such address; or no nftables. Without it a pod has
                no way out, and whoever is on the LAN a way in, so one without ports is not started either.
        """
        nftables.require()
        ports = self.wanted_ports(pod)
        leases = self.leases.of(pod.name)
        for port in ports:
            _check_family(port, leases)
        self._claims.take(pod.name, ports)
        self._bridges.ensure(self.leases.networks())

    def publish(self) -> bool:
        """Write the rules for all that is leased and claimed, and return whether that changed any.

        Raises:
            Retry, Stalled: as `Firewall.write`.
        """
        return self._firewall.write()

    def ports(self, pod: str) -> tuple[Port, ...]:
        """Return the ports that a pod has on this machine now."""
        return self._claims.get(pod)

    def wanted_ports(self, pod: Pod) -> tuple[Port, ...]:
        """Return the ports of a pod's file, each with the address where it is published."""
        return tuple(self._resolved(port) for port in pod.ports)

    def warnings(self, pod: str) -> tuple[str, ...]:
        """Return what of this machine keeps packets from a pod, each with the line to type."""
        own = {bridge_interface(bridge) for bridge in self.leases.of(pod)}
        if own - self._obstacles.looked_at:
            # Whoever asks for a pod that has just come does not wait for the next resync.
            self.look_for_obstacles()
        at_loopback = any(port.address == _LOOPBACK6 for port in self.ports(pod))
        return tuple(
            str(each)
            for each in self._obstacles.found
            if own & each.interfaces and (at_loopback or not each.at_loopback)
        )

    def look_for_obstacles(self) -> tuple[Obstacle, ...]:
        """Look for what keeps packets from pods in bridges, for `warnings`, and return all of it."""
        ports = itertools.chain.from_iterable(self._claims.of().values())
        return self._obstacles.look(
            self._networks(), at_loopback=any(port.address == _LOOPBACK6 for port in ports)
        )

    def adopt(self, pods: Collection[Pod]) -> None:
        """Take over the ports of pods that ran under a former agent."""
        for pod in pods:
            self._claims.adopt(pod.name, self.wanted_ports(pod))

    def check(self) -> tuple[str, ...]:
        """Make right what somebody changed of the bridges and the rules; return what was wrong."""
        wrong = self._bridges.ensure(self.leases.networks())
        return (*wrong, "the rules of published ports were changed") if self.publish() else wrong

    def gateway(self, pod: Pod) -> str:
        """Return this machine's address in a pod's first bridge; empty for a pod in none."""
        first = next(iter(self.leases.of(pod.name).values()), ())
        return gateway(str(ipaddress.ip_interface(first[0]).network)) if first else ""

    def knows(self, pod: str) -> bool:
        """Return whether a pod has addresses in a bridge, or ports."""
        return bool(self.leases.of(pod) or self.ports(pod))

    def close(self, pod: str) -> None:
        """Withdraw a pod's ports; errors as in `publish`."""
        if self.ports(pod):
            self._claims.drop(pod)
            self.publish()

    def free(self, pod: str) -> None:
        """Take back a pod's addresses, and remove the bridges that it leaves empty; errors as in `check`."""
        self.names.forget(pod)
        if self.leases.of(pod):
            self.leases.free(pod)
            self.check()

    def _rules(self) -> str:
        return script(self._networks(), self._forwards())

    def _networks(self) -> list[BridgeNetworks]:
        return [
            BridgeNetworks(interface=bridge_interface(name), networks=given)
            for name, given in self.leases.networks().items()
        ]

    def _resolved(self, port: Port) -> Port:
        return replace(port, address=self._publish) if port.address is None else port

    def _forwards(self) -> Iterator[Forward]:
        for pod, ports in self._claims.of().items():
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


def _targets(port: Port, leases: Mapping[str, Lease]) -> Iterator[tuple[str | None, str]]:
    """Yield where a port is published, None for everywhere, with the pod's address of that family."""
    first = next(iter(leases.values()), ())
    by_version = {ipaddress.ip_interface(text).version: text.partition("/")[0] for text in first}
    if port.address == _ALL4:
        # As programs that listen everywhere do; a pod without IPv6 has no such address.
        yield from ((None, target) for target in by_version.values())
    elif port.address == _ALL6:
        yield None, by_version[6]
    elif port.address is not None:
        yield port.address, by_version[ipaddress.ip_address(port.address).version]


def _check_family(port: Port, leases: Mapping[str, Lease]) -> None:
    if ":" in (port.address or "") and not any(":" in text for lease in leases.values() for text in lease):
        raise Stalled(
            f"port {port} is one of IPv6, which this machine's bridges do not have",
            hint="set `ipv6` in [network.bridge] of agent.toml, or publish it on an IPv4 address",
        )
