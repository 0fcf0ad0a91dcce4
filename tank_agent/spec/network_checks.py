"""Check the network of a pod's table as a whole: its bridges, interfaces, ports and names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tank_agent.spec import file, model, network_values
from tank_agent.spec.findings import Finding, KeyPath, Noting, closest, show
from tank_agent.spec.keys import checked
from tank_agent.spec.ports import clashes
from tank_agent.spec.values import check_once

# MAXNS of resolv.conf(5): programs would not see any more.
_NAME_SERVERS_MAX = 3
# resolv.conf(5): what glibc before 2.26 reads; musl has the same 256 bytes.
_SEARCH_MAX, _SEARCH_BYTES = 6, 256


def network_of(table: file.PodTable, name: str, findings: list[Finding]) -> model.Network:
    """Return the pod's network, also as its ports imply it; problems go to `findings`."""
    given, own = table.network, {name, (table.hostname or name).lower()}
    if isinstance(given, file.NetworkTable):
        network = _own_network(given, own, findings)
    elif given == "bridge" or (given is None and table.ports):
        network = model.Network(mode="bridge", bridges=model.DEFAULT_BRIDGES)
    else:
        network = model.Network(mode=given or "none")
    if table.ports and network.mode != "bridge":
        why = {
            "none": 'network = "none" has no ports; remove it, or ports',
            "host": "its programs listen on the host's own ports; remove ports, or network",
            "nics": "its interfaces have addresses of their own, with all their ports; remove ports, or nics",
        }[network.mode]
        findings.append(Finding(("ports",), why))
    return network


def ports_of(given: tuple[Any, ...], findings: list[Finding]) -> tuple[model.Port, ...]:
    """Return the ports that are right, and find those that need the same port of the machine."""
    ports = {index: port for index, port in enumerate(given) if isinstance(port, model.Port)}
    places, found = list(ports), tuple(ports.values())
    for later, first in clashes(found):
        one, other = found[later], found[first]
        pair = f"{show(str(one))} and {show(str(other))} need the same port of this machine"
        right = "change one"
        if model.ALL6 in (one.address, other.address) and {one.address, other.address} & {None, model.ALL4}:
            right = "0.0.0.0, as no address, is IPv6's too; remove the one of [::]"
        findings.append(Finding(("ports", places[later]), f"{pair}; {right}"))
    return found


def _own_network(table: file.NetworkTable, own: Collection[str], findings: list[Finding]) -> model.Network:
    path: KeyPath = ("network", "nics")
    seen = _Seen()
    nics = tuple(_nic(nic, (*path, index), seen, findings) for index, nic in enumerate(table.nics))
    if table.nics and table.bridges is not None:
        message = "a pod has either interfaces on the LAN or bridges; remove one of them"
        findings.append(Finding(path, message))
    elif table.bridges == ():
        message = 'is empty; remove it for the bridge "default", or write network = "none" for no network'
        findings.append(Finding(("network", "bridges"), message))
    given = checked(table, ("network",), findings)
    for key in ("bridges", "dns_search", "dns_options"):
        check_once(given.get(key, ()), ("network", key), findings)
    _check_search(given["dns_search"], findings)
    return model.Network(
        mode="nics" if nics else "bridge",
        nics=nics,
        bridges=() if nics else table.bridges or model.DEFAULT_BRIDGES,
        dns=_dns(table.dns, ("network", "dns"), findings),
        dns_search=given["dns_search"],
        dns_options=given["dns_options"],
        aliases=_aliases(table, own, findings),
        extra_hosts=_extra_hosts(table.extra_hosts or {}, own, bridged=not nics, findings=findings),
    )


def _check_search(domains: tuple[str, ...], findings: list[Finding]) -> None:
    size = len(" ".join(domains).encode())
    if len(domains) > _SEARCH_MAX or size > _SEARCH_BYTES:
        given = f"{len(domains)} domains of {size} bytes"
        message = f"programs read {_SEARCH_MAX} domains and {_SEARCH_BYTES} bytes, not {given}; remove some"
        findings.append(Finding(("network", "dns_search"), message))


def _aliases(table: file.NetworkTable, own: Collection[str], findings: list[Finding]) -> tuple[str, ...]:
    """Return the aliases in one order, which means nothing."""
    path: KeyPath = ("network", "aliases")
    if table.aliases and table.nics:
        message = "are names in bridges, and this pod is in none; remove them, or nics"
        findings.append(Finding(path, message))
    others = {name.lower() for name in table.extra_hosts or {}}
    seen: set[str] = set()
    for at, name in enumerate(table.aliases):
        with Noting((*path, at), findings):
            if name.lower() in own:
                raise ValueError(f"{show(name)} is the pod's own name already; remove it")
            if name.lower() in others:
                raise ValueError(f"{show(name)} has another address in extra_hosts; remove one of them")
            if name.lower() in seen:
                raise ValueError(f"{show(name)} is given twice")
            seen.add(name.lower())
    return tuple(sorted(table.aliases))


def _extra_hosts(
    given: dict[str, str], own: Collection[str], *, bridged: bool, findings: list[Finding]
) -> dict[str, str]:
    hosts = {}
    # Names are looked up without regard to case.
    seen: set[str] = set()
    for name, text in given.items():
        with Noting(("network", "extra_hosts", name), findings):
            if name.lower() in seen:
                raise ValueError(f"{show(name)} is given twice, in another case")
            seen.add(name.lower())
            if name.lower() in own:
                raise ValueError(f"{show(name)} is the pod's own name, which is its own address; remove it")
            hosts[name] = _host_address(text, bridged=bridged)
    return hosts


def _host_address(text: str, *, bridged: bool) -> str:
    if text == model.HOST_GATEWAY and not bridged:
        raise ValueError(
            f"{show(text)} is this machine in a pod's bridge, and this pod is in none; write an address"
        )
    if text == model.HOST_GATEWAY:
        return text
    if closest(text, (model.HOST_GATEWAY,)):
        raise ValueError(f"{show(text)} is not an address; did you mean {show(model.HOST_GATEWAY)}?")
    return str(network_values.parse_address(text))


class _Seen:
    """Names, addresses and default routes of the pod's interfaces so far."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.addresses: set[network_values.Address] = set()
        self.default_routes: dict[int, str] = {}


def _nic(table: file.NicTable, path: KeyPath, seen: _Seen, findings: list[Finding]) -> model.Nic:
    with Noting((*path, "name"), findings):
        if network_values.interface_name(table.name) in seen.names:
            raise ValueError(f"two interfaces have the name {show(table.name)}; rename one")
    seen.names.add(table.name)
    with Noting((*path, "parent"), findings):
        network_values.interface_name(table.parent)
    interfaces = []
    for where, text in _each(table.ip, (*path, "ip")):
        with Noting(where, findings):
            interface = network_values.parse_interface(text)
            if interface.ip in seen.addresses:
                raise ValueError(f"{show(text)} is given twice; every interface needs an address of its own")
            seen.addresses.add(interface.ip)
            interfaces.append(interface)
    return model.Nic(
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


def _gateways(
    table: file.NicTable,
    own: list[network_values.Interface],
    path: KeyPath,
    seen: _Seen,
    findings: list[Finding],
) -> tuple[str, ...]:
    gateways: dict[int, network_values.Address] = {}
    has_bad_address = len(own) < len(_each(table.ip, path))
    for where, text in _each(table.gateway, (*path, "gateway")):
        with Noting(where, findings):
            gateway = network_values.parse_address(text)
            family = gateway.version
            if family in seen.default_routes:
                owner = seen.default_routes[family]
                raise ValueError(f"{owner} already has the default route of IPv{family}; remove one gateway")
            seen.default_routes[family] = table.name
            # A wrong address of the interface leaves open whether the gateway is in one of its networks.
            if not has_bad_address:
                _check_gateway(gateway, own)
            gateways[family] = gateway
    return tuple(str(gateway) for gateway in gateways.values())


def _check_gateway(gateway: network_values.Address, interfaces: list[network_values.Interface]) -> None:
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
        with Noting((*path, index), findings):
            address = str(network_values.parse_address(text))
            if address in addresses:
                raise ValueError(f"{show(text)} is given twice")
            addresses[address] = None
    if len(servers) > _NAME_SERVERS_MAX:
        message = f"programs read only the first {_NAME_SERVERS_MAX} name servers; keep those"
        findings.append(Finding(path, message))
    return tuple(addresses)
