"""The bridges of this machine: made for the pods in them, kept right, and removed with the last of them.

A bridge has the first address of each of its networks, which is the gateway of its pods. What its pods
publish, and what leaves it, is in the `firewall`.
"""

from __future__ import annotations

import errno
import ipaddress
import threading
from collections.abc import Collection, Mapping

from tank_agent.errors import Stalled
from tank_agent.linux import fault
from tank_agent.linux.namespaces import read_network_sysctl, set_network_sysctl
from tank_agent.network import rtnetlink
from tank_agent.network.addresses import ForeignNetwork, gateway
from tank_agent.network.nics import IFA_F_NODAD, explained, route_socket
from tank_agent.network.rtnetlink import Link
from tank_agent.network.wanted import LINK_GROUP, bridge_interface, stable_mac

_KIND = "bridge"
# Packets that came by the bridge go on; those of 127.0.0.1, published on it, may leave by it.
_SETTINGS = (
    ("ipv4", "forwarding", "1"),
    ("ipv4", "route_localnet", "1"),
    ("ipv6", "accept_ra", "0"),
)


class Bridges:
    """Makes and removes the interfaces of bridges, in the calling thread's network. Any may call it."""

    def __init__(self) -> None:
        # Not two that make one at once, nor one that removes what another needs.
        self._lock = threading.Lock()

    def ensure(self, networks: Mapping[str, Collection[str]]) -> tuple[str, ...]:
        """Make the bridges what they should be, and remove all others of ours; return what was not so before.

        Args:
            networks: of every bridge, such as {"default": ("10.89.0.0/24",)}.

        Raises:
            Stalled, Retry: the kernel refuses it, or another program's interface has the name.
        """
        wanted = {bridge_interface(name): tuple(given) for name, given in networks.items()}
        with self._lock, rtnetlink.open_socket() as netlink:
            links = {link.name: link for link in rtnetlink.read_links(netlink)}
            changed = [f"{name} was not there, or down" for name in wanted if _make(name, links.get(name))]
            if changed:
                links = {link.name: link for link in rtnetlink.read_links(netlink)}
            addresses = rtnetlink.read_addresses(netlink) if wanted else ()
            for name, given in wanted.items():
                index = links[name].index
                has = {str(address) for address in addresses if address.index == index}
                for address in sorted({_own_address(network) for network in given} - has):
                    _add_address(name, index, address)
                    changed.append(f"{name} lacked {address}")
                if _set_up(name, given):
                    changed.append(f"{name} did not forward")
            for name, link in links.items():
                if is_ours(link) and name not in wanted:
                    _remove(link)
                    changed.append(f"{name} was not needed")
        return tuple(changed)


def is_ours(link: Link) -> bool:
    """Return whether an interface is a bridge that we made."""
    return link.kind == _KIND and link.group == LINK_GROUP


def _own_address(network: str) -> str:
    return f"{gateway(network)}/{network.partition('/')[2]}"


def _make(name: str, link: Link | None) -> bool:
    if link is not None and not is_ours(link):
        raise Stalled(
            f"this machine has an interface {name} already, and tank did not make it",
            hint=f"`ip link del {name}` if nobody needs it, or give the bridge another name",
        )
    if link is not None and link.up:
        return False
    no_kernel = Stalled(
        "this kernel has no bridges",
        hint="`modprobe bridge`, or a kernel with CONFIG_BRIDGE, such as Debian's",
    )
    known = {errno.EOPNOTSUPP: no_kernel}
    with explained(f"cannot make the bridge {name}", known=known), route_socket() as route:
        if link is None:
            # An address of its own: else it would have that of one of its ports, and another when that goes.
            mac = stable_mac("", name).hex(":")
            route.link("add", ifname=name, kind=_KIND, address=mac, group=LINK_GROUP)
            fault.point("network:bridge-made")
        for index in route.link_lookup(ifname=name):
            route.link("set", index=index, state="up")
    fault.point("network:bridge-up")
    return True


def _add_address(name: str, index: int, address: str) -> None:
    own = ipaddress.ip_interface(address)
    # Nobody else can have it: no probe of the kernel's, which would keep it unusable for a second.
    flags = {} if own.version == 4 else {"IFA_FLAGS": IFA_F_NODAD}
    what = f"cannot give the bridge {name} the address {address}"
    with explained(what, ignore=(errno.EEXIST,)), route_socket() as route:
        route.addr("add", index=index, address=str(own.ip), prefixlen=own.network.prefixlen, **flags)
    fault.point("network:bridge-addressed")


def _set_up(name: str, networks: Collection[str]) -> bool:
    """Let a bridge forward, and 127.0.0.1 and ::1 lead to it; return whether it did not."""
    changed = [
        _set(f"{version}/conf/{name}/{setting}", value)
        for version, setting, value in _SETTINGS
        if version == "ipv4" or any(":" in network for network in networks)
    ]
    return any(changed)


def _set(path: str, value: str) -> bool:
    if read_network_sysctl(path) == value:
        return False
    with explained(f"cannot set {path.replace('/', '.')}"):
        set_network_sysctl(path, value)
    return True


def _remove(link: Link) -> None:
    with explained(f"cannot remove the bridge {link.name}", ignore=(errno.ENODEV,)), route_socket() as route:
        route.link("del", index=link.index)
    fault.point("network:bridge-removed")


def foreign_networks() -> list[ForeignNetwork]:
    """Return the networks that this machine routes to interfaces other than our bridges."""
    with rtnetlink.open_socket() as netlink:
        links = {link.index: link for link in rtnetlink.read_links(netlink)}
        routes = rtnetlink.read_networks(netlink)
    return [
        ForeignNetwork(network, links[index].name)
        for network, index in routes
        if index in links and not is_ours(links[index])
    ]
