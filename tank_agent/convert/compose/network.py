"""The network of a service: bridges, interfaces, names, ports, and name servers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tank_agent.convert.compose import values
from tank_agent.convert.compose.service import (
    ComposeService,
    PublishedPort,
    Stack,
    Table,
    each,
    lost,
    mapped,
    note,
)
from tank_agent.convert.draft import MORE, PodEntry
from tank_agent.convert.model import Value
from tank_agent.convert.names import valid
from tank_agent.spec.findings import show

_RANGE = r"[0-9]{1,5}(?:-[0-9]{1,5})?"
_PORT = re.compile(
    rf"(?:(?:(?P<address>\[[^\]]*\]|[0-9a-fA-F.:*]*?):)?(?P<host>{_RANGE})?:)?(?P<pod>{_RANGE})"
    r"(?:/(?P<protocol>\w+))?"
)
_DEFAULT = "default"
_ALONE = "a container has namespaces of its own here, which no other sees"


def is_host(service: ComposeService) -> bool:
    """Return whether a service has the machine's network."""
    mode = service.keys.get("network_mode")
    return mode is not None and mode.plain == "host"


def is_in_default(service: ComposeService) -> bool:
    """Return whether a service is in the project's own network, as it is without a word about it."""
    given, mode = service.keys.get("networks"), service.keys.get("network_mode")
    word = str(mode.plain).partition(":")[0] if mode is not None else ""
    return not (given is not None and given.plain) and word not in ("host", "none", "service", "container")


def network_mode(service: ComposeService, key: str, value: Value) -> None:
    """Take the modes that are networks; services in one network are one pod already."""
    word = values.text(value)
    kind, _, name = word.partition(":")
    if word in ("host", "none"):
        service.put_pod(key, value, ("network",), word)
    elif kind == "service" or (kind == "container" and name in service.stack.by_container):
        if name not in service.stack.services and name not in service.stack.by_container:
            service.lost(key, value, f"there is no service {show(name)} here; its network is one of its own")
    elif kind == "container":
        service.lost(key, value, f"{show(name)} is of another project: write both containers into one pod")
    elif word not in ("bridge", _DEFAULT, ""):
        service.put_pod(key, value, ("network", "bridges"), [valid(word, _DEFAULT)])


def networks(service: ComposeService, key: str, value: Value) -> None:
    """Take networks as bridges, or as interfaces on the LAN where their driver is macvlan."""
    given = (
        dict(value.plain)
        if isinstance(value.plain, dict)
        else {values.text(one): Value(None, one.place) for one in values.items(value)}
    )
    bridges: list[str] = []
    for name, one in given.items():
        keys = values.mapping(one)
        definition = definition_of(service.stack, name)
        driver = values.text(definition["driver"]) if "driver" in definition else ""
        place = Value(one.plain, one.place)
        if driver == "host":
            service.put_pod(key, place, ("network",), "host")
        elif driver in ("macvlan", "ipvlan"):
            _interface(service, key, place, name, definition)
        elif driver == "none":
            service.put_pod(key, place, ("network",), "none")
        else:
            bridges.append(bridge_of(service.stack, name))
        each(service, f"{key}.{name}", keys, NETWORK if driver not in ("macvlan", "ipvlan") else _ON_LAN)
    if service.draft.find("network") in ("host", "none"):
        return
    if any(one.path[:2] == ("network", "nics") for one in service.draft.entries):
        if bridges:
            service.lost(key, value, "a pod is on the LAN or in bridges: it is in none of the bridges here")
        return
    known = service.draft.find("network", "bridges")
    together = [*(known if isinstance(known, list) else []), *bridges]
    if together:
        service.put_pod(key, value, ("network", "bridges"), list(dict.fromkeys(together)))


def definition_of(stack: Stack, name: str) -> dict[str, Value]:
    """Return what the top of the file says of a network."""
    value = stack.project.networks.get(name)
    return value.plain if value is not None and isinstance(value.plain, dict) else {}


def bridge_of(stack: Stack, name: str) -> str:
    """Return the bridge of a network, which has the name that docker has for one of elsewhere."""
    keys = definition_of(stack, name)
    external = keys.get("external")
    outer = keys.get("name")
    if external is not None and isinstance(external.plain, dict):
        outer = external.plain.get("name", outer)
    elif name == _DEFAULT and external is None and outer is None:
        return _DEFAULT
    try:
        return valid(values.text(outer) if outer is not None else name, _DEFAULT)
    except ValueError:
        return valid(name, _DEFAULT)


def _interface(
    service: ComposeService, key: str, value: Value, name: str, definition: dict[str, Value]
) -> None:
    keys = values.mapping(value)
    options = values.mapping(definition["driver_opts"]) if "driver_opts" in definition else {}
    nic: dict[str, object] = {}
    if "parent" in options:
        nic["parent"] = values.text(options["parent"])
    subnets = _subnets(definition)
    addresses = [
        f"{values.text(keys[family])}/{_prefix(subnets, family)}"
        for family in ("ipv4_address", "ipv6_address")
        if family in keys
    ]
    if not addresses:
        message = f"docker chooses an address on the LAN, and nothing does it here: write ip for {name}"
        service.lost(f"{key}.{name}", value, message)
    else:
        nic["ip"] = addresses if len(addresses) > 1 else addresses[0]
    known = sum(one.path == ("network", "nics", "+") for one in service.draft.entries)
    gateways = [gateway for _, gateway in subnets if gateway]
    if gateways and addresses and not known:
        nic["gateway"] = gateways if len(gateways) > 1 else gateways[0]
    service.put_pod(key, value, ("network", "nics", "+"), {"name": f"eth{known}", **nic})


def _subnets(definition: dict[str, Value]) -> list[tuple[str, str]]:
    ipam = values.mapping(definition["ipam"]) if "ipam" in definition else {}
    found = []
    for one in values.items(ipam["config"]) if "config" in ipam else ():
        row = values.mapping(one)
        if "subnet" in row:
            gateway = values.text(row["gateway"]) if "gateway" in row else ""
            found.append((values.text(row["subnet"]), gateway))
    return found


def _prefix(subnets: list[tuple[str, str]], family: str) -> str:
    fitting = (net for net, _ in subnets if (":" in net) is (family == "ipv6_address"))
    return next(fitting, "").partition("/")[2] or ("64" if family == "ipv6_address" else "24")


_ALIASES = ("network", "aliases", MORE)


def _aliases(service: ComposeService, key: str, value: Value) -> None:
    for name in values.texts(value):
        add_alias(service, key, value, name)


def add_alias(service: ComposeService, key: str, value: Value, name: str) -> None:
    """Let others find a service by one more name: other pods, or the containers of the one pod of all."""
    if service.draft.find("network") in ("host", "none") or name.lower() == service.draft.name:
        return
    if service.stack.one_pod:
        if name != service.container:
            service.put_pod(key, value, ("network", "extra_hosts", name), "127.0.0.1")
    elif name.lower() != str(service.draft.find("hostname") or "").lower() and not any(
        _is_alias(one, name) for one in service.draft.entries
    ):
        service.add_pod(key, value, _ALIASES[:-1], name)


def _is_alias(entry: PodEntry, name: str) -> bool:
    return entry.path == _ALIASES and str(entry.value).lower() == name.lower()


def _address(service: ComposeService, key: str, value: Value) -> None:
    address = values.text(value)
    choice = "an address in a bridge is the agent's choice, and stays"
    if service.stack.refers_to(address, service):
        service.lost(key, value, f"{choice}; another service has {address} in it: write the pod's name there")
    else:
        service.note(key, value, f"{choice}; nothing here has {address} in it")


def hostname(service: ComposeService, key: str, value: Value) -> None:
    """Take the name that the pod has for itself, by which others find it here, too."""
    name = values.text(value)
    if name and name != service.draft.name:
        known = service.draft.find("hostname")
        if known is not None and known != name:
            service.lost(key, value, f"containers of one pod have one host name, {known}")
            return
        service.put_pod(key, value, ("hostname",), name)
        service.draft.entries = [one for one in service.draft.entries if not _is_alias(one, name)]


def container_name(service: ComposeService, key: str, value: Value) -> None:
    """Keep the name: files that are mounted, which nobody reads here, often have it in them."""
    if name := values.text(value):
        add_alias(service, key, value, name)


def links(service: ComposeService, key: str, value: Value) -> None:
    """Let the other be found by the name of the link, too."""
    for one in values.items(value):
        name, _, alias = values.text(one).partition(":")
        other = service.stack.services.get(name)
        if other is None:
            service.lost(key, one, f"there is no service {show(name)} here")
        elif alias and alias != name:
            add_alias(other, key, one, alias)


def extra_hosts(service: ComposeService, key: str, value: Value) -> None:
    """Take names with addresses."""
    for name, given in values.pairs(value, "=:"):
        addresses = values.texts(given)
        if not addresses:
            raise ValueError(f"{show(name)} has no address")
        address = addresses[0].strip()
        address = address[1:-1] if address.startswith("[") else address
        if len(addresses) > 1:
            service.lost(key, given, f"{name} has one address here, {address}")
        service.put_pod(key, given, ("network", "extra_hosts", name.strip()), address)


def dns(service: ComposeService, key: str, value: Value) -> None:
    """Take name servers."""
    for word in values.texts(value):
        service.add_pod(key, value, ("network", "dns"), word)


def dns_search(service: ComposeService, key: str, value: Value) -> None:
    """Take domains to look in."""
    for word in values.texts(value):
        service.add_pod(key, value, ("network", "dns_search"), word)


def dns_opt(service: ComposeService, key: str, value: Value) -> None:
    """Take options of the resolver."""
    for word in values.texts(value):
        service.add_pod(key, value, ("network", "dns_options"), word)


def ports(service: ComposeService, key: str, value: Value) -> None:
    """Publish ports."""
    if is_host(service):
        if values.items(value):
            service.note(key, value, 'do nothing with network = "host", as in docker: remove them')
        return
    for one in values.items(value):
        try:
            _port(service, key, one)
        except ValueError as error:
            service.lost(key, one, f"{error}; nothing was made of it")


def _port(service: ComposeService, key: str, value: Value) -> None:
    if isinstance(value.plain, dict):
        given = value.plain
        each(service, key, given, _LONG_PORT)

        def of(name: str) -> str:
            return values.text(given[name]) if name in given else ""

        host, pod, address, protocol = of("published"), of("target"), of("host_ip"), of("protocol")
        word = f"{host}:{pod}"
    else:
        word = values.text(value)
        found = _PORT.fullmatch(word)
        if found is None:
            raise ValueError(f"{show(word)} is no port of compose")
        host, pod = found["host"] or "", found["pod"]
        address, protocol = found["address"] or "", found["protocol"] or ""
    protocol = protocol.lower() or "tcp"
    if not re.fullmatch(_RANGE, pod) or (host and not re.fullmatch(_RANGE, host)):
        raise ValueError(f"{show(word)} is no port of compose")
    if protocol not in ("tcp", "udp"):
        raise ValueError(f"{show(protocol)} is not a protocol that ports have here")
    address = address.strip("[]")
    address = "" if address in ("*", "0.0.0.0") else f"[{address}]" if ":" in address else address  # noqa: S104 - docker's word for every address
    if not host or host == "0":
        for number in _numbers(pod):
            service.stack.unpublished.append(PublishedPort(service, value, address, str(number), protocol))
        return
    if "-" in host and "-" not in pod:
        first = host.partition("-")[0]
        service.note(key, value, f"docker takes a free port of {host}; {first} is taken here")
        host = first
    _publish(PublishedPort(service, value, address, pod, protocol), host)


def _publish(port: PublishedPort, host: str) -> None:
    before = f"{port.address}:" if port.address else ""
    after = "/udp" if port.protocol == "udp" else ""
    port.service.add_pod("ports", port.value, ("ports",), f"{before}{host}:{port.pod}{after}")


def _numbers(text: str) -> list[int]:
    low, _, high = text.partition("-")
    first, last = int(low), int(high or low)
    if not first <= last <= first + 100:
        raise ValueError(f"{show(text)} is no range of ports")
    return list(range(first, last + 1))


def choose_ports(stack: Stack) -> None:
    """Publish the ports for which docker would take any free one: at the same number, or one like it."""
    taken = {
        int(number)
        for service in stack.services.values()
        for one in service.draft.entries
        if one.path == ("ports", "+") and isinstance(one.value, str)
        for number in re.findall(r"(?:^|:)([0-9]+)(?:-[0-9]+)?:", one.value)
    }
    for port in stack.unpublished:
        # The usual servers of a machine listen below 1024.
        number = int(port.pod)
        first = number if number >= 1024 else number + 8000
        host = next((free for free in range(first, 65_536) if free not in taken), number)
        taken.add(host)
        message = f"docker publishes {port.pod} at any free port; {host} is taken here, and stays"
        port.service.note("ports", port.value, message)
        _publish(port, str(host))


def name_clashes(pod: Sequence[ComposeService]) -> None:
    """Name services of one pod that listen at one port, as far as the file tells: they have one network."""
    first: dict[tuple[str, str], ComposeService] = {}
    for service in pod:
        for number, protocol, value in _listened(service):
            other = first.setdefault((number, protocol), service)
            if other is not service:
                message = f"{other.name} is at {number}, too, and a pod has one network: change one port"
                service.lost("ports", value, message)


def _listened(service: ComposeService) -> Iterator[tuple[str, str, Value]]:
    """Yield the ports of a container that a service names, each once, with their protocols."""
    seen = set()
    for key in ("ports", "expose"):
        given = service.keys.get(key)
        for one in given.plain if given is not None and isinstance(given.plain, tuple) else ():
            target = one.plain.get("target", one) if isinstance(one.plain, dict) else one
            found = re.fullmatch(r"(?:.*:)?([0-9]{1,5})(?:/(\w+))?", str(target.plain))
            if found and (port := (found[1], found[2] or "tcp")) not in seen:
                seen.add(port)
                yield (*port, one)


def _effectless(service: ComposeService, key: str, value: Value) -> None:
    """Say nothing: another key is about it."""


_LONG_PORT: Table = {
    **dict.fromkeys(("target", "published", "host_ip", "protocol"), mapped("`ports`", _effectless)),
    **dict.fromkeys(("mode", "name", "app_protocol"), mapped("says nothing on one machine", _effectless)),
}
NETWORK: Table = {
    "aliases": mapped("`aliases`", _aliases),
    "ipv4_address": mapped(
        "`ip` for macvlan; else a note: it is the agent's choice; lost if another service has it in it",
        _address,
    ),
    "ipv6_address": mapped("as ipv4_address", _address),
    "link_local_ips": lost("an interface has one address of each family here"),
    "mac_address": lost("a MAC address follows from the machine, the pod and the interface, and stays"),
    "priority": note("the first bridge has the default route"),
    "gw_priority": lost("the first bridge has the default route: order bridges in [network]"),
    "interface_name": lost("interfaces are eth0, eth1 and so on, in the order of bridges"),
    "driver_opts": lost("a bridge has no options"),
}
_ON_LAN: Table = {
    **NETWORK,
    "ipv4_address": mapped("`ip`", _effectless),
    "ipv6_address": mapped("`ip`", _effectless),
}


def top_level(stack: Stack) -> None:
    """Remark on the keys of networks at the top that have nothing here, or do something else."""
    used = {name for service in stack.services.values() for name in _names(service)}
    for name in stack.project.networks:
        keys = definition_of(stack, name)
        on_lan = "driver" in keys and keys["driver"].plain in ("macvlan", "ipvlan")
        for key, value in keys.items():
            where = f"networks.{name}.{key}"
            known = TOP.get(key)
            if key.startswith("x-") or (name not in used and name != _DEFAULT):
                continue
            if known is None:
                stack.remark("lost", where, value, "is not known as a key of compose; nothing was made of it")
            elif key == "internal" and value.plain not in (False, None):
                stack.remark("lost", where, value, known.becomes)
            elif key in ("ipam", "driver_opts") and on_lan:
                continue
            elif known.kind != "mapped" and key != "internal":
                stack.remark(known.kind, where, value, known.becomes)


def _names(service: ComposeService) -> list[str]:
    given = service.keys.get("networks")
    if given is None:
        return []
    if isinstance(given.plain, dict):
        return list(given.plain)
    return [str(one.plain) for one in given.plain] if isinstance(given.plain, tuple) else []


TOP: Table = {
    "name": mapped("the bridge's name"),
    "external": mapped("a bridge of that name, which pods of other files are in, too"),
    "driver": mapped("a bridge; of macvlan `[[network.nics]]`"),
    "internal": lost(
        'every bridge leads out of this machine; close it in the firewall, or write network = "none"'
    ),
    "ipam": note("a bridge's network comes out of pool in [network.bridge] of agent.toml"),
    "driver_opts": note("a bridge of the agent has no options of docker's"),
    "enable_ipv6": note("bridges have IPv6 if [network.bridge] of agent.toml names ipv6"),
    "enable_ipv4": note("bridges have IPv4 always"),
    "attachable": note("any pod may be in any bridge"),
    "labels": note("labels of a network do nothing here"),
}
