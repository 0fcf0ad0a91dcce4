"""Published ports in answers: as they are, and what a plan says of them before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tank_agent.api.reports import PortReport
from tank_agent.spec.model import Pod, Port
from tank_agent.spec.ports import clashes

# Of a port without an address, as long as nobody knows what agent.toml says.
_ANYWHERE = "*"


def port_report(port: Port) -> PortReport:
    """Return a port as answers have it."""
    address = port.address or _ANYWHERE
    return PortReport(address=address, host=port.host, pod=port.pod, protocol=port.protocol, count=port.count)


def what_it_takes(pod: Pod, ports: Sequence[Port]) -> tuple[str, ...]:
    """Return sentences on the bridges that a new pod is in, and the ports that it takes."""
    several = "bridges" if len(pod.network.bridges) > 1 else "bridge"
    bridges = f"is in {several} {', '.join(pod.network.bridges)}"
    taken = f"publishes {', '.join(str(port_report(port)) for port in ports)}"
    return (*([bridges] if pod.network.bridges else []), *([taken] if ports else []))


def waits_for_ports(
    ports: Mapping[str, Sequence[Port]], held: Mapping[str, Collection[Port]]
) -> dict[str, list[str]]:
    """Return by pod what it will have to wait for: ports that another pod has, or gets before it.

    Args:
        ports: of all pods as they will be.
        held: those that pods have already, also of pods that are to go.
    """
    going = {pod: given for pod, given in held.items() if pod not in ports}
    owned = [(pod, port) for pod, given in sorted({**ports, **going}.items()) for port in given]
    owned.sort(key=lambda one: one[1] not in held.get(one[0], ()))
    waits: dict[str, list[str]] = {}
    for later, first in clashes([port for _, port in owned]):
        (waiting, wanted), (holder, _) = owned[later], owned[first]
        if waiting != holder:
            until = f" until pod {holder} has gone" if holder in going else f", which pod {holder} publishes"
            waits.setdefault(waiting, []).append(f"waits for port {port_report(wanted)}{until}")
    return waits
