"""Checks a pod's own network: interface names, addresses, gateways and name servers."""

from __future__ import annotations

import ipaddress
import re

from tank_agent.spec.file import NetworkTable, NicTable
from tank_agent.spec.findings import Finding, KeyPath, noting, show
from tank_agent.spec.model import Network, Nic

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

# IFNAMSIZ without the NUL is 15 bytes; dev_valid_name() of the kernel refuses "/", ":" and white space.
_INTERFACE_NAME = re.compile(r"[A-Za-z0-9_.@][A-Za-z0-9_.@+-]{0,14}")
# "all" and "default" are the kernel's own entries beside the interfaces in /proc/sys/net.
_TAKEN_NAMES = ("lo", ".", "..", "all", "default")
# MAXNS of resolv.conf(5): programs would not see any more.
_NAME_SERVERS_MAX = 3
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


def check_network(table: NetworkTable, findings: list[Finding]) -> Network:
    """Return the pod's own network; problems go to `findings`."""
    path: KeyPath = ("network", "nics")
    if not table.nics:
        message = 'needs at least one [[network.nics]]; for a pod without a network write network = "none"'
        findings.append(Finding(path, message))
    seen = _Seen()
    nics = tuple(_nic(nic, (*path, index), seen, findings) for index, nic in enumerate(table.nics))
    return Network(mode="nics", nics=nics, dns=_dns(table.dns, ("network", "dns"), findings))


def interface_name(name: str) -> str:
    """Return the name of a network interface, or raise ValueError."""
    if name in _TAKEN_NAMES:
        raise ValueError(f'{show(name)} is the kernel\'s own; use another, such as "eth0"')
    if not _INTERFACE_NAME.fullmatch(name):
        rule = "use 1 to 15 letters, digits and . _ @ + -"
        raise ValueError(f'{show(name)} is not an interface name; {rule}, such as "eth0"')
    return name


def parse_address(text: str) -> Address:
    """Return the address of a next hop or a name server: of one host, without a prefix length."""
    if "/" in text:
        raise ValueError(f"{show(text)} has a prefix length; write only {show(text.partition('/')[0])}")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f'{show(text)} is not an IP address; write one such as "10.0.0.1"') from None
    _refuse_special(address)
    return address


class _Seen:
    """Names, addresses and default routes of the pod's interfaces so far."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.addresses: set[Address] = set()
        self.default_routes: dict[int, str] = {}


def _nic(table: NicTable, path: KeyPath, seen: _Seen, findings: list[Finding]) -> Nic:
    with noting((*path, "name"), findings):
        if interface_name(table.name) in seen.names:
            raise ValueError(f"two interfaces have the name {show(table.name)}; rename one")
    seen.names.add(table.name)
    with noting((*path, "parent"), findings):
        interface_name(table.parent)
    interfaces = []
    for where, text in _each(table.ip, (*path, "ip")):
        with noting(where, findings):
            interface = _parse_interface(text)
            if interface.ip in seen.addresses:
                raise ValueError(f"{show(text)} is given twice; every interface needs an address of its own")
            seen.addresses.add(interface.ip)
            interfaces.append(interface)
    return Nic(
        name=table.name,
        mode=table.mode,
        parent=table.parent,
        ip=tuple(interface.with_prefixlen for interface in interfaces),
        gateway=_gateways(table, interfaces, path, seen, findings),
    )


def _each(value: str | tuple[str, ...], path: KeyPath) -> list[tuple[KeyPath, str]]:
    if isinstance(value, str):
        return [(path, value)]
    return [((*path, index), text) for index, text in enumerate(value)]


def _parse_interface(text: str) -> Interface:
    address, slash, prefix = text.partition("/")
    if not slash:
        raise ValueError(f"{show(text)} has no prefix length; write it as {show(f'{address}/24')}")
    try:
        # ipaddress would also take a netmask, and a host mask, after the slash.
        interface = ipaddress.ip_interface(text if re.fullmatch("[0-9]{1,3}", prefix) else "")
    except ValueError:
        right = 'write one such as "10.0.0.5/24"'
        raise ValueError(f"{show(text)} is not an address with prefix length; {right}") from None
    _refuse_special(interface.ip)
    if interface.ip.is_loopback:
        raise ValueError(f"{show(text)} is a loopback address; every pod has its own loopback already")
    network = interface.network
    if network.prefixlen == 0:
        raise ValueError(f"{show(text)} makes the whole internet one LAN; write the LAN's prefix length")
    if interface.version == 4 and network.prefixlen < 31:
        if interface.ip == network.network_address:
            raise ValueError(f"{show(text)} is the address of the network itself; choose one inside it")
        if interface.ip == network.broadcast_address:
            raise ValueError(f"{show(text)} is the broadcast address of its network; choose one inside it")
    return interface


def _refuse_special(address: Address) -> None:
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise ValueError(f"{show(str(address))} has a zone or an IPv4 address in it; write a plain address")
    if address.is_multicast or address.is_unspecified or (address.version == 4 and address == _BROADCAST):
        raise ValueError(f"{show(str(address))} is not the address of one host")


def _gateways(
    table: NicTable, interfaces: list[Interface], path: KeyPath, seen: _Seen, findings: list[Finding]
) -> tuple[str, ...]:
    gateways: dict[int, Address] = {}
    has_bad_address = len(interfaces) < len(_each(table.ip, path))
    for where, text in _each(table.gateway, (*path, "gateway")):
        with noting(where, findings):
            gateway = parse_address(text)
            family = gateway.version
            if family in seen.default_routes:
                owner = seen.default_routes[family]
                raise ValueError(f"{owner} already has the default route of IPv{family}; remove one gateway")
            seen.default_routes[family] = table.name
            # A wrong address of the interface leaves open whether the gateway is in one of its networks.
            if not has_bad_address:
                _check_gateway(gateway, interfaces)
            gateways[family] = gateway
    return tuple(str(gateway) for gateway in gateways.values())


def _check_gateway(gateway: Address, interfaces: list[Interface]) -> None:
    if any(gateway == interface.ip for interface in interfaces):
        raise ValueError(f"{gateway} is the pod's own address; the gateway is another host")
    # A link-local next hop is on every link (RFC 4861), whatever the networks are.
    if gateway.version == 6 and gateway.is_link_local:
        return
    networks = [interface.network for interface in interfaces if interface.version == gateway.version]
    if not any(gateway in network for network in networks):
        known = " or ".join(map(str, networks[:3])) or f"any IPv{gateway.version} network of ip"
        raise ValueError(f"{gateway} is not in {known}, so the pod could not reach it")


def _dns(servers: tuple[str, ...], path: KeyPath, findings: list[Finding]) -> tuple[str, ...]:
    addresses: dict[str, None] = {}
    for index, text in enumerate(servers):
        with noting((*path, index), findings):
            address = str(parse_address(text))
            if address in addresses:
                raise ValueError(f"{show(text)} is given twice")
            addresses[address] = None
    if len(servers) > _NAME_SERVERS_MAX:
        message = f"programs read only the first {_NAME_SERVERS_MAX} name servers; keep those"
        findings.append(Finding(path, message))
    return tuple(addresses)
