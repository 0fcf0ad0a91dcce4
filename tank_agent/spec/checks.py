"""Check the values of a pod's table, each by its declaration and all together; make the normalised Pod."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tank_agent.spec import file, model, values
from tank_agent.spec.findings import Finding, KeyPath, Noting, closest, show
from tank_agent.spec.keys import checked
from tank_agent.spec.quantities import CPU_CORES_MAX, CPU_PERIOD_MAX, CPU_PERIOD_MIN, CPU_QUOTA_MIN

_GUESSES_MAX = 100
# MAXNS of resolv.conf(5): programs would not see any more.
_NAME_SERVERS_MAX = 3


def check_pod(table: file.PodTable, name: str) -> tuple[model.Pod, model.Selector, list[Finding]]:
    """Return the pod of a table, its selector, and all findings; the pod is valid if there are none."""
    findings: list[Finding] = []
    _check_unique(findings, "volumes", [volume.name for volume in table.volumes])
    volumes = [
        model.Volume(**checked(one, ("volumes", at), findings)) for at, one in enumerate(table.volumes)
    ]
    if not table.containers:
        findings.append(Finding(("containers",), "a pod needs at least one container; add [[containers]]"))
    _check_unique(findings, "containers", [container.name for container in table.containers])
    names = {volume.name: volume for volume in volumes}
    containers = [
        _container(one, ("containers", at), names, findings) for at, one in enumerate(table.containers)
    ]
    given = checked(table, (), findings)
    pod = model.Pod(
        name=name,
        containers=tuple(containers),
        network=_network(table, findings),
        ports=_ports(given["ports"], findings),
        restart=model.RestartPolicy(given["restart"]),
        volumes=tuple(volumes),
    )
    return pod, model.Selector(hosts=table.hosts, labels=table.labels or {}), findings


def _check_unique(findings: list[Finding], what: str, names: list[str]) -> None:
    """Check the names of a list's elements, and that no two are the same."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        wrong = values.name_problem(name)
        if wrong is None and first.setdefault(name, index) != index:
            wrong = f"two {what} have the name {show(name)} (the first is {what}[{first[name]}]); rename one"
        if wrong:
            findings.append(Finding((what, index, "name"), wrong))


def _container(
    table: file.ContainerTable, path: KeyPath, volumes: Mapping[str, object], findings: list[Finding]
) -> model.Container:
    _check_root(table, path, findings)
    given = checked(table, path, findings)
    _check_argv(table, path, findings)
    given["mounts"] = _mounts(table.mounts, (*path, "mounts"), volumes, findings)
    given["limits"] = _limits(table.limits or file.LimitsTable(), (*path, "limits"), findings)
    given["security"] = _security(table.security or file.SecurityTable(), (*path, "security"), findings)
    return model.Container(**given)


def _check_root(table: file.ContainerTable, path: KeyPath, findings: list[Finding]) -> None:
    image, rootfs = table.image, table.rootfs
    if image is None and rootfs is None:
        message = 'there is nothing to run; give image = "docker.io/library/…" or rootfs = "/directory"'
        findings.append(Finding(path, message))
    if image is not None and rootfs is not None:
        findings.append(Finding((*path, "rootfs"), "image and rootfs can't both be given; remove one"))
    if table.pull is not None and image is None and rootfs is not None:
        findings.append(Finding((*path, "pull"), "a rootfs is never pulled; remove it"))


def _check_argv(table: file.ContainerTable, path: KeyPath, findings: list[Finding]) -> None:
    # The image's own command is only known later.
    if table.command is None and (table.rootfs is None or table.image is not None):
        return
    argv = (table.command or ()) + (table.args or ())
    if not argv:
        reason = "a rootfs does not say what to run" if table.command is None else "there is no program in it"
        findings.append(Finding((*path, "command"), f'{reason}; give command = ["/path/of/the/program"]'))
    elif not argv[0]:
        key = "command" if table.command else "args"
        findings.append(Finding((*path, key, 0), "the program's name is empty"))


def _mounts(
    tables: tuple[file.MountTable, ...], path: KeyPath, volumes: Mapping[str, object], findings: list[Finding]
) -> tuple[model.Mount, ...]:
    first: dict[str, int] = {}
    mounts = []
    for index, table in enumerate(tables):
        # A volume without a name has its own finding, and may be the one that is meant here.
        if table.volume not in volumes and "" not in volumes:
            # A guess takes time, and nobody reads more than the first.
            known = [] if len(findings) > _GUESSES_MAX else list(volumes)[:_GUESSES_MAX]
            guess, name = closest(table.volume, known), show(table.volume)
            key = f"name = {name}"
            right = f"did you mean {show(guess)}?" if guess else f"define it with [[volumes]] and {key}"
            findings.append(Finding((*path, index, "volume"), f"no volume has the name {name}; {right}"))
        before = len(findings)
        mounts.append(model.Mount(**checked(table, (*path, index), findings)))
        if len(findings) == before and first.setdefault(table.path, index) != index:
            other = f"the first is mounts[{first[table.path]}]"
            message = f"two mounts are at {show(table.path)} ({other}); move one"
            findings.append(Finding((*path, index, "path"), message))
    return tuple(mounts)


def _limits(table: file.LimitsTable, path: KeyPath, findings: list[Finding]) -> model.Limits:
    given, cpu = checked(table, path, findings), table.cpu
    if isinstance(cpu, file.CpuTable):
        if not CPU_PERIOD_MIN <= cpu.period <= CPU_PERIOD_MAX:
            message = f"must be from {CPU_PERIOD_MIN} to {CPU_PERIOD_MAX} microseconds; 100000 is usual"
            findings.append(Finding((*path, "cpu", "period"), message))
        if not CPU_QUOTA_MIN <= cpu.quota <= CPU_CORES_MAX * max(cpu.period, CPU_PERIOD_MIN):
            least = f"must be at least {CPU_QUOTA_MIN} microseconds"
            message = f"{least}, and at most {CPU_CORES_MAX} times the period"
            findings.append(Finding((*path, "cpu", "quota"), message))
        given["cpu"] = model.CpuLimit(quota=cpu.quota, period=cpu.period)
    return model.Limits(**given)


def _security(table: file.SecurityTable, path: KeyPath, findings: list[Finding]) -> model.Security:
    given = checked(table, path, findings)
    lists = {}
    if given.pop("capabilities", None) is not None and table.capabilities is not None:
        lists = checked(table.capabilities, (*path, "capabilities"), findings)
        for key, names in lists.items():
            # "ALL" includes all others.
            lists[key] = (values.ALL,) if values.ALL in names else tuple(sorted(set(names)))
        for name in sorted(set(lists["add"]) & set(lists["drop"]) & set(values.CAPABILITIES)):
            findings.append(Finding((*path, "capabilities"), f"{show(name)} is both added and dropped"))
    if table.privileged and (any(lists.values()) or table.devices or table.seccomp != "default"):
        message = "gives everything already; remove it, or capabilities, devices and seccomp"
        findings.append(Finding((*path, "privileged"), message))
    if table.privileged and table.userns == "auto":
        message = "takes from root what privileged gives it; remove one of them"
        findings.append(Finding((*path, "userns"), message))
    given["devices"] = tuple(sorted(set(table.devices)))
    return model.Security(**given, **lists)


def _network(table: file.PodTable, findings: list[Finding]) -> model.Network:
    """Return the pod's network, also as its ports imply it; problems go to `findings`."""
    given = table.network
    if isinstance(given, file.NetworkTable):
        network = _own_network(given, findings)
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


def _ports(given: tuple[Any, ...], findings: list[Finding]) -> tuple[model.Port, ...]:
    """Return the ports that are right, and find those that need the same port of the machine."""
    ports = {index: port for index, port in enumerate(given) if isinstance(port, model.Port)}
    for index, port in ports.items():
        other = next((ports[at] for at in ports if at < index and ports[at].collides(port)), None)
        if other is not None:
            pair = f"{show(str(port))} and {show(str(other))}"
            findings.append(
                Finding(("ports", index), f"{pair} need the same port of this machine; change one")
            )
    return tuple(ports.values())


def _own_network(table: file.NetworkTable, findings: list[Finding]) -> model.Network:
    path: KeyPath = ("network", "nics")
    seen = _Seen()
    nics = tuple(_nic(nic, (*path, index), seen, findings) for index, nic in enumerate(table.nics))
    if table.nics and table.bridges:
        message = "a pod has either interfaces on the LAN or bridges; remove one of them"
        findings.append(Finding(path, message))
    bridges = () if nics else table.bridges or model.DEFAULT_BRIDGES
    for index, name in enumerate(bridges):
        if name in bridges[:index]:
            findings.append(Finding(("network", "bridges", index), f"{show(name)} is given twice"))
    given = checked(table, ("network",), findings)
    return model.Network(
        mode="nics" if nics else "bridge",
        nics=nics,
        bridges=bridges,
        dns=_dns(table.dns, ("network", "dns"), findings),
        dns_search=given["dns_search"],
        dns_options=given["dns_options"],
        extra_hosts=_extra_hosts(table.extra_hosts or {}, bridged=not nics, findings=findings),
    )


def _extra_hosts(given: dict[str, str], *, bridged: bool, findings: list[Finding]) -> dict[str, str]:
    hosts = {}
    for name, text in given.items():
        with Noting(("network", "extra_hosts", name), findings):
            if text == model.HOST_GATEWAY and not bridged:
                raise ValueError(f"only a pod in a bridge has {show(text)}; write an address")
            hosts[name] = text if text == model.HOST_GATEWAY else str(values.parse_address(text))
    return hosts


class _Seen:
    """Names, addresses and default routes of the pod's interfaces so far."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.addresses: set[values.Address] = set()
        self.default_routes: dict[int, str] = {}


def _nic(table: file.NicTable, path: KeyPath, seen: _Seen, findings: list[Finding]) -> model.Nic:
    with Noting((*path, "name"), findings):
        if values.interface_name(table.name) in seen.names:
            raise ValueError(f"two interfaces have the name {show(table.name)}; rename one")
    seen.names.add(table.name)
    with Noting((*path, "parent"), findings):
        values.interface_name(table.parent)
    interfaces = []
    for where, text in _each(table.ip, (*path, "ip")):
        with Noting(where, findings):
            interface = values.parse_interface(text)
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
    table: file.NicTable, own: list[values.Interface], path: KeyPath, seen: _Seen, findings: list[Finding]
) -> tuple[str, ...]:
    gateways: dict[int, values.Address] = {}
    has_bad_address = len(own) < len(_each(table.ip, path))
    for where, text in _each(table.gateway, (*path, "gateway")):
        with Noting(where, findings):
            gateway = values.parse_address(text)
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


def _check_gateway(gateway: values.Address, interfaces: list[values.Interface]) -> None:
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
            address = str(values.parse_address(text))
            if address in addresses:
                raise ValueError(f"{show(text)} is given twice")
            addresses[address] = None
    if len(servers) > _NAME_SERVERS_MAX:
        message = f"programs read only the first {_NAME_SERVERS_MAX} name servers; keep those"
        findings.append(Finding(path, message))
    return tuple(addresses)
