"""The keys of a pod file, each declared once; schema, reference, man page and change table derive from it.

msgspec checks the structure (unknown keys, types, missing keys), `checks` the values. Patterns only help
editors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Literal

from tank_agent.spec import model, network_values, other_tools, paths, ports, quantities, values
from tank_agent.spec.keys import ABSOLUTE_PATTERN, Duration, Effect, FileStruct, Memory, declare
from tank_agent.spec.reference import parse_reference
from tank_agent.spec.values import parse_signal

NAME_PATTERN = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
PORT_PATTERN = r"^((\[[0-9A-Fa-f:.]+\]|[0-9.]+):)?[0-9]+(-[0-9]+)?:[0-9]+(-[0-9]+)?(/(tcp|udp))?$"
INTERFACE_PATTERN = "^[A-Za-z0-9_.@][A-Za-z0-9_.@+-]{0,14}$"
_NAME_RULE = "1 to 63 of a-z, 0-9 and -; the first and the last are a letter or a digit."
Name = Annotated[str, declare(_NAME_RULE, "db", pattern=NAME_PATTERN)]
BridgeName = Annotated[str, declare(_NAME_RULE, "front", pattern=NAME_PATTERN)]
PortText = Annotated[
    str, declare("[ADDRESS:]HOST:POD[/udp].", "8080:80", pattern=PORT_PATTERN, advice=other_tools.port_advice)
]
OneOrMore = str | tuple[str, ...]
_parse_grace = functools.partial(quantities.parse_duration, high=quantities.STOP_GRACE_MAX)


def _image(text: str) -> str:
    parse_reference(text)
    return text


def _written_grace(container: model.Container) -> str | float:
    text = quantities.format_duration(container.stop_grace)
    # The few times without an exact text are written as a number of seconds.
    return text if text[-1].isalpha() else container.stop_grace


def _written_memory(limits: model.Limits) -> str | None:
    return None if limits.memory is None else quantities.format_memory(limits.memory)


def _written_cpu(limits: model.Limits) -> float | dict[str, int] | None:
    if limits.cpu is None:
        return None
    cores = limits.cpu.quota / quantities.CPU_PERIOD
    if limits.cpu.period == quantities.CPU_PERIOD and cores <= 1024:
        return cores
    return {"quota": limits.cpu.quota, "period": limits.cpu.period}


def _written_network(pod: model.Pod) -> model.Network | str:
    network = pod.network
    plain = network in (
        model.Network(mode=network.mode),
        model.Network(mode="bridge", bridges=model.DEFAULT_BRIDGES),
    )
    return network.mode if plain else network


def _written_bridges(network: model.Network) -> list[str] | None:
    return None if network.bridges == model.DEFAULT_BRIDGES else list(network.bridges)


def _written_capabilities(security: model.Security) -> dict[str, list[str]] | None:
    lists = {"add": list(security.add), "drop": list(security.drop)}
    return {name: names for name, names in lists.items() if names} or None


def _one_or_more(name: str) -> Callable[[model.Nic], str | list[str]]:
    return lambda nic: words[0] if len(words := list(getattr(nic, name))) == 1 else words


# The formatter would spread a key, which reads as one sentence, over a dozen lines.
# fmt: off
class NicTable(FileStruct):
    """One network interface of the pod."""

    name: Annotated[str, declare(
        "The interface's name inside the pod, at most 15 bytes.", "eth0", pattern=INTERFACE_PATTERN)]
    mode: Annotated[Literal["macvlan"], declare(
        "How it reaches the LAN: macvlan gives it a MAC address of its own.", "macvlan")] = "macvlan"
    parent: Annotated[str, declare(
        "The host's interface that it sits on; \"auto\" is the host's uplink.", "eno1",
        pattern=INTERFACE_PATTERN)] = "auto"
    ip: Annotated[OneOrMore, declare(
        "Address with prefix length, IPv4 or IPv6, or a list of both.", "10.0.0.5/24", ["10.0.0.5/24"],
        written=_one_or_more("ip"))] = ()
    gateway: Annotated[OneOrMore, declare(
        "The default route's next hop; a list for one of each family.", "10.0.0.1", ["10.0.0.1"],
        written=_one_or_more("gateway"))] = ()


class NetworkTable(FileStruct):
    """A network namespace of the pod's own: in bridges of this machine, or with interfaces on the LAN."""

    bridges: Annotated[tuple[BridgeName, ...] | None, declare(
        "Bridges of this machine that the pod is in, each apart from the others: eth0 is in the first, and "
        "has the default route. Not given, nor nics: [\"default\"].", ["front", "back"],
        each=network_values.bridge, effect=Effect.LIVE, note="only what differs",
        written=_written_bridges)] = None
    nics: Annotated[tuple[NicTable, ...], declare(
        "Instead of bridges: interfaces on the LAN.", effect=Effect.LIVE,
        note="only what differs; a new parent makes a new link")] = ()
    dns: Annotated[tuple[str, ...], declare(
        "Name servers of the pod, at most 3. Not given: the host's.", ["10.0.0.1"], effect=Effect.LIVE,
        note="/etc/resolv.conf is written in place")] = ()
    dns_search: Annotated[tuple[str, ...], declare(
        "Domains that names without a dot are looked up in. Not given: the host's, with its name servers.",
        ["lan"], each=network_values.domain, effect=Effect.LIVE, note="as dns")] = ()
    dns_options: Annotated[tuple[str, ...], declare(
        "Options of resolv.conf. Not given: the host's, with the host's name servers.", ["ndots:2"],
        each=network_values.resolver_option, effect=Effect.LIVE, note="as dns")] = ()
    extra_hosts: Annotated[dict[str, str] | None, declare(
        'Names with an address each, for the pod\'s /etc/hosts; "host-gateway" is this machine, as its '
        "bridge reaches it.",
        {"nas.lan": "192.168.1.3"}, each=network_values.extra_host, effect=Effect.LIVE,
        note="/etc/hosts is written in place", advice=other_tools.hosts_advice)] = None


class VolumeTable(FileStruct):
    """Storage that outlives its containers."""

    name: Annotated[Name, declare("What mounts call it.", "data")]
    host: Annotated[str | None, declare(
        "An existing directory or file of the host to mount. Not given: a directory that the agent manages, "
        "and keeps when the pod goes.", "/etc/db", pattern=ABSOLUTE_PATTERN, check=paths.volume_source,
        effect=Effect.MOUNTING)] = None


class MountTable(FileStruct):
    """Where a container sees a volume."""

    volume: Annotated[Name, declare("The name of one of the pod's volumes.", "data")]
    path: Annotated[str, declare(
        "The absolute path inside the container.", "/var/lib/postgresql/data", pattern=ABSOLUTE_PATTERN,
        check=paths.mount_point)]
    read_only: Annotated[bool, declare("Whether the container may only read it.", True)] = False


class CpuTable(FileStruct):
    """CPU bandwidth as the kernel counts it, in microseconds."""

    quota: Annotated[int, declare("Microseconds of CPU time in every period, at least 1000.", 50000)]
    period: Annotated[int, declare(
        "Length of the period in microseconds, 1000 to 1000000.", 100000)] = 100_000


class LimitsTable(FileStruct):
    """What a container may use at most."""

    memory: Annotated[Memory | None, declare(
        "Bytes, or a number with K, M, G or T (1024-based); at least 4M.", "256M",
        check=quantities.parse_memory, written=_written_memory)] = None
    pids: Annotated[int | None, declare(
        "Processes and threads at one time; 2048 where it is left out.", 100, check=values.pids)] = None
    cpu: Annotated[int | float | CpuTable | None, declare(
        "Cores, at least 0.01, or a quota and a period in microseconds.", 0.5, {"quota": 50000},
        check=quantities.parse_cores, written=_written_cpu)] = None


class CapabilitiesTable(FileStruct):
    """What differs from the default capabilities."""

    add: Annotated[tuple[str, ...], declare(
        'Capabilities beyond the default ones; "ALL" is every one.', ["NET_ADMIN"], each=values.capability
    )] = ()
    drop: Annotated[tuple[str, ...], declare(
        'Capabilities to take away; "ALL" leaves those that add names.', ["ALL"], each=values.capability
    )] = ()


class SecurityTable(FileStruct):
    """Where a container differs from the hardening that all have."""

    capabilities: Annotated[CapabilitiesTable | None, declare(
        "Capabilities to add to and to drop from the default eleven.", written=_written_capabilities)] = None
    read_only_root: Annotated[bool, declare(
        "Whether its root file system can't be written; volumes still can.", True)] = False
    privileged: Annotated[bool, declare(
        "Whether it may do what root on the host may: every capability and device, no filter.", True)] = False
    seccomp: Annotated[str, declare(
        'Its filter of system calls: "default", "unconfined", or the path of a profile in OCI format.',
        "default", check=values.seccomp)] = "default"
    apparmor: Annotated[str, declare(
        'Its AppArmor profile, where the kernel has AppArmor: "default", "unconfined", or the name of a '
        "loaded one.", "default", check=values.apparmor)] = "default"
    devices: Annotated[tuple[str, ...], declare(
        "Devices of the host that it sees and may use.", ["/dev/fuse"], each=values.device)] = ()
    userns: Annotated[Literal["host", "auto"], declare(
        '"auto": its users, root too, are users without rights on the host.', "auto")] = "host"


class ContainerTable(FileStruct):
    """One process of the pod and the root file system that it runs in."""

    name: Annotated[Name, declare("The container's name, unique in its pod.", "postgres")]
    image: Annotated[str | None, declare(
        "An image in a registry, or oci:/layout[:tag], oci-archive:/file.tar, docker-archive:/file.tar. "
        "Either image or rootfs is needed.", "docker.io/library/postgres:17", check=_image,
        effect=Effect.CONTAINER)] = None
    pull: Annotated[Literal["missing", "always", "never"] | None, declare(
        'When the registry is asked: "missing": if the image is not here; "always": before each start; '
        '"never". Not given: as agent.toml says.', "always", effect=Effect.NOTHING,
        note="counts from the next start on")] = None
    rootfs: Annotated[str | None, declare(
        "Instead of image: a root file system in a directory of the host.", "/srv/images/db",
        pattern=ABSOLUTE_PATTERN, check=paths.rootfs, effect=Effect.CONTAINER)] = None
    command: Annotated[tuple[str, ...] | None, declare(
        "The program and its first arguments; replaces the image's Entrypoint and drops its Cmd.",
        ["/bin/db"], each=values.argument, effect=Effect.CONTAINER)] = None
    args: Annotated[tuple[str, ...] | None, declare(
        "Arguments; replace the image's Cmd, or follow command.", ["-c", "fsync=on"], each=values.argument,
        effect=Effect.CONTAINER)] = None
    env: Annotated[dict[str, str] | None, declare(
        "Environment variables, merged over the image's.", {"LOG_LEVEL": "debug"}, each=values.variable,
        effect=Effect.CONTAINER)] = None
    working_dir: Annotated[str | None, declare(
        "Where the program starts. Not given: as the image says, else /.", "/srv", pattern=ABSOLUTE_PATTERN,
        check=paths.working_directory, effect=Effect.CONTAINER)] = None
    user: Annotated[str | None, declare(
        "A user, or user:group, by name or by number; names are looked up in the container's own files. Not "
        'given: as the image says, else "0:0".', "postgres:postgres", check=values.user,
        effect=Effect.CONTAINER)] = None
    tty: Annotated[bool, declare(
        "Whether the program gets a terminal.", True, effect=Effect.CONTAINER)] = False
    stop_signal: Annotated[str | int | None, declare(
        "What asks it to end: a name or a number. Not given: as the image says, else SIGTERM.", "SIGTERM",
        check=parse_signal, effect=Effect.LIVE, note="counts from the next stop on")] = None
    stop_grace: Annotated[Duration, declare(
        "How long it may take to end before it is killed: text or seconds, at most 1h.", "10s",
        check=_parse_grace, effect=Effect.LIVE, note="counts from the next stop on",
        written=_written_grace)] = "10s"
    mounts: Annotated[tuple[MountTable, ...], declare(
        "Volumes that the container sees.", effect=Effect.CONTAINER)] = ()
    limits: Annotated[LimitsTable | None, declare(
        "Memory, processes and CPU that it may use.", effect=Effect.LIVE,
        note="also ends a back-off: more memory may help")] = None
    security: Annotated[SecurityTable | None, declare(
        "Where it differs from the hardening that all containers have.", effect=Effect.CONTAINER)] = None


class PodTable(FileStruct):
    """A pod: containers that share one network, their volumes, and one restart policy."""

    containers: Annotated[tuple[ContainerTable, ...], declare(
        "The pod's containers, at least one.", effect=Effect.NOTHING,
        note="only the one that comes or goes starts or stops")]
    name: Annotated[Name | None, declare(
        "The pod's name, unique on the machine. Not given: the file's name without .toml.", "db",
        effect=Effect.POD, note="it is another pod: the old one goes, with its logs")] = None
    restart: Annotated[Literal["always", "on-failure", "never"], declare(
        "When a container that ended is started again.", "always", effect=Effect.NOTHING,
        note="counts from the next end on; a finished container may start",
        written=lambda pod: pod.restart.value, always=True)] = "always"
    network: Annotated[Literal["none", "host", "bridge"] | NetworkTable | None, declare(
        '"none" (loopback only), "host" (the host\'s own), "bridge" (one of this machine\'s), or a table. '
        'Not given: "none", or "bridge" for a pod with ports.', "none",
        effect=Effect.LIVE, note='to or from "host": the whole pod restarts, finished containers too',
        written=_written_network, always=True, advice=other_tools.network_advice)] = None
    ports: Annotated[tuple[PortText, ...], declare(
        "Ports of this machine that lead to the pod: [ADDRESS:]HOST:POD[/udp], each one port or a range.",
        ["8080:80", "127.0.0.1:5432:5432", "53:53/udp"], each=ports.published_port,
        effect=Effect.LIVE, note="nothing restarts", advice=other_tools.ports_advice,
        written=lambda pod: [str(port) for port in pod.ports])] = ()
    volumes: Annotated[tuple[VolumeTable, ...], declare(
        "Storage that the pod's containers can mount.", effect=Effect.NOTHING,
        note="a new volume counts when it is mounted")] = ()
    hosts: Annotated[tuple[str, ...], declare(
        "Only on machines whose name matches one of these. Not given: everywhere.", ["edge-*"],
        each=values.host_pattern, effect=Effect.NOTHING,
        note="the pod comes to or goes from machines, no other way")] = ()
    labels: Annotated[dict[str, str] | None, declare(
        "Only on machines whose [labels] in agent.toml match all of these.", {"site": "fra"},
        each=values.label, effect=Effect.NOTHING, note="as hosts")] = None
