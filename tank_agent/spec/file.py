"""The keys of a pod file, each declared once; schema, reference, man page and change table derive from it.

msgspec checks the structure (unknown keys, types, missing keys), `checks` the values. Patterns only help
editors.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal

from tank_agent.spec import (
    devices,
    health_values,
    network_values,
    paths,
    ports,
    quantities,
    run_values,
    schedule,
    values,
    written,
)
from tank_agent.spec.keys import ABSOLUTE_PATTERN, Duration, Effect, FileStruct, Memory, declare
from tank_agent.spec.other_tools import advice
from tank_agent.spec.reference import parse_reference
from tank_agent.spec.values import parse_signal

NAME_PATTERN = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
PORT_PATTERN = r"^((\[[0-9A-Fa-f:.]+\]|[0-9.]+):)?[0-9]+(-[0-9]+)?:[0-9]+(-[0-9]+)?(/(tcp|udp))?$"
INTERFACE_PATTERN = "^[A-Za-z0-9_.@][A-Za-z0-9_.@+-]{0,14}$"
_NAME_RULE = "1 to 63 of a-z, 0-9 and -; the first and the last are a letter or a digit."
Name = Annotated[str, declare(_NAME_RULE, "db", pattern=NAME_PATTERN)]
BridgeName = Annotated[str, declare(_NAME_RULE, "front", pattern=NAME_PATTERN)]
PortText = Annotated[
    str, declare("[ADDRESS:]HOST:POD[/udp].", "8080:80", pattern=PORT_PATTERN, advice=advice.of_port)
]
OneOrMore = str | tuple[str, ...]
EnvFile = Annotated[str, declare("A file beside this one.", "app.env", advice=run_values.env_file_advice)]
SysctlText = Annotated[str, declare("Its value.", "1024", advice=run_values.sysctl_advice)]
DeviceText = Annotated[str, declare("A device.", "/dev/fuse", advice=run_values.device_advice)]
VariableText = Annotated[str, declare("Its value.", "debug", advice=run_values.variable_advice)]
GroupName = str | int
LimitNumber = int | Literal["unlimited"]
_parse_grace = functools.partial(quantities.parse_duration, high=quantities.STOP_GRACE_MAX)


def _image(text: str) -> str:
    parse_reference(text)
    return text


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
        written=written.one_or_more("ip"))] = ()
    gateway: Annotated[OneOrMore, declare(
        "The default route's next hop; a list for one of each family.", "10.0.0.1", ["10.0.0.1"],
        written=written.one_or_more("gateway"))] = ()


class NetworkTable(FileStruct):
    """A network namespace of the pod's own: in bridges of this machine, or with interfaces on the LAN."""

    bridges: Annotated[tuple[BridgeName, ...] | None, declare(
        "Bridges of this machine that the pod is in, each apart from the others: eth0 is in the first, and "
        "has the default route. Not given, nor nics: [\"default\"].", ["front", "back"],
        each=values.named, effect=Effect.LIVE, note="only what differs",
        written=written.bridges)] = None
    aliases: Annotated[tuple[str, ...], declare(
        "Further names by which the pods of its bridges, and its own containers, find the pod; one that is "
        "another pod's already leads to that one.", ["my_db"], ["my_db", "db.internal"],
        each=network_values.alias, effect=Effect.LIVE, note="/etc/hosts is written in place")] = ()
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
        note="/etc/hosts is written in place", advice=advice.of_hosts)] = None


class VolumeTable(FileStruct):
    """Storage that outlives its containers."""

    name: Annotated[Name, declare("What mounts call it.", "data")]
    host: Annotated[str | None, declare(
        "An existing directory or file of the host to mount. Not given: a directory that the agent manages, "
        "and keeps when the pod goes.", "/etc/db", pattern=ABSOLUTE_PATTERN, check=paths.volume_source,
        effect=Effect.MOUNTING)] = None
    snapshot: Annotated[bool | Literal["reflink"], declare(
        "Whether an update copies it first, and puts the copy back if it fails; \"reflink\": only where the "
        "file system copies no data for it.", True, effect=Effect.NOTHING,
        note="counts from the next update on", advice=health_values.snapshot_advice)] = False
    shared: Annotated[bool, declare(
        "Whether it is one and the same for all pods that name it so; only `tank volume rm` removes it.",
        True, effect=Effect.MOUNTING)] = False


class ConfigFileTable(FileStruct):
    """Configuration that travels with the pod file: one of source, content and base64."""

    name: Annotated[Name, declare("What mounts call it.", "nginx-conf")]
    source: Annotated[str | None, declare(
        "A file beside this one, from the same directory or the same commit; no link, and not above it.",
        "nginx.conf", check=run_values.beside)] = None
    content: Annotated[str | None, declare(
        "Its text, written here.", "workers = 4", written=written.text, effect=Effect.MOUNTING,
        note="or as on_change of their mounts says")] = None
    base64: Annotated[str | None, declare(
        "Its bytes in base64, written here; for what is no text.", "AAEC", written=written.binary,
        effect=Effect.MOUNTING, note="as content")] = None


class SecretTable(FileStruct):
    """A password or a key: encrypted by age (source or age), or in a file of the host."""

    name: Annotated[Name, declare("What mounts call it.", "db-password")]
    source: Annotated[str | None, declare(
        "A file beside this one that `tank secret encrypt` made.", "secrets/db-password.age",
        check=run_values.beside)] = None
    age: Annotated[str | None, declare(
        "The encrypted text, written here.", "-----BEGIN AGE ENCRYPTED FILE-----…",
        written=written.armor, effect=Effect.MOUNTING,
        note="if the plain text is another; or as on_change of their mounts says")] = None
    host: Annotated[str | None, declare(
        "A file of the host that is read at each start.", "/etc/keys/db-password",
        pattern=ABSOLUTE_PATTERN, check=paths.volume_source, effect=Effect.MOUNTING, note="as age")] = None


class MountTable(FileStruct):
    """Where a container sees a volume, a file, a secret, or a file system in memory: one of the four."""

    volume: Annotated[Name | None, declare("The name of one of the pod's volumes.", "data")] = None
    file: Annotated[Name | None, declare("The name of one of the pod's files.", "nginx-conf")] = None
    secret: Annotated[Name | None, declare("The name of one of the pod's secrets.", "db-password")] = None
    tmpfs: Annotated[Memory | None, declare(
        "A file system in memory, with what the image has there, and how much it may hold: K, M, G or T.",
        "64M", check=run_values.tmpfs_size, written=written.size("tmpfs"))] = None
    path: Annotated[str | None, declare(
        "The absolute path inside the container; a secret's may be left out, which is /run/secrets/ and its "
        "name.", "/var/lib/postgresql/data", pattern=ABSOLUTE_PATTERN, check=paths.mount_point)] = None
    read_only: Annotated[bool, declare(
        "Whether the container may only read it; of files and secrets it may always only that.", True
    )] = False
    subpath: Annotated[str | None, declare(
        "A directory inside the volume to mount in its place; made if absent, never followed out of it.",
        "app", check=run_values.subpath)] = None
    from_image: Annotated[bool, declare(
        "Whether the volume begins with what the image has at the path, if it is made for this mount.", True,
        effect=Effect.NOTHING, note="a volume that is there stays as it is")] = False
    on_change: Annotated[str, declare(
        'What follows when the file or the secret is another: "restart", "signal:HUP" to the container, or '
        '"nothing".', "signal:SIGHUP", check=run_values.on_change,
        pattern="^(restart|nothing|signal:.+)$")] = "restart"
    mode: Annotated[str | None, declare(
        'Permissions of the file or the secret in octal digits. Not given: "0644", of a secret "0400".',
        "0440", pattern="^0?[0-7]{3}$", check=run_values.octal, written=written.mode,
        advice=run_values.octal_advice)] = None
    owner: Annotated[str | None, declare(
        "A user, or user:group, of the container that owns it. Not given: root, of a secret the container's "
        "user.", "1000:1000", check=values.user)] = None


class CpuTable(FileStruct):
    """CPU bandwidth as the kernel counts it, in microseconds."""

    quota: Annotated[int, declare("Microseconds of CPU time in every period, at least 1000.", 50000)]
    period: Annotated[int, declare(
        "Length of the period in microseconds, 1000 to 1000000.", 100000)] = 100_000


class LimitsTable(FileStruct):
    """What a container may use at most."""

    memory: Annotated[Memory | None, declare(
        "Bytes, or a number with K, M, G or T (1024-based); at least 4M.", "256M",
        check=quantities.parse_memory, written=written.size("memory"))] = None
    pids: Annotated[int | None, declare(
        "Processes and threads at one time; 2048 where it is left out.", 100, check=values.pids)] = None
    cpu: Annotated[int | float | CpuTable | None, declare(
        "Cores, at least 0.01, or a quota and a period in microseconds.", 0.5, {"quota": 50000},
        check=quantities.parse_cores, written=written.cpu, advice=advice.of_cores)] = None
    memory_reservation: Annotated[Memory | None, declare(
        "Memory that is taken from it last when the machine runs short of it.", "128M",
        check=run_values.memory, written=written.size("memory_reservation"))] = None
    swap: Annotated[Memory | None, declare(
        'Swap beside memory; not given, it gets none where memory is limited.', "256M",
        check=run_values.swap, written=written.size("swap"))] = None
    cpu_weight: Annotated[int | None, declare(
        "Its share of CPU time when all want more than there is, 1 to 10000. Not given: 100.", 200,
        check=run_values.cpu_weight)] = None
    cpus: Annotated[str | None, declare(
        "The CPUs that it may run on.", "0", pattern="^[0-9, -]+$", check=run_values.cpus,
        advice=run_values.cpus_advice)] = None


class UlimitTable(FileStruct):
    """A limit with two parts: one that counts, and the most that the program may raise it to."""

    soft: Annotated[LimitNumber, declare("What counts.", 1024)]
    hard: Annotated[LimitNumber, declare("What it can be raised to.", 2048)]


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
        "Capabilities to add to and to drop from the default eleven.", written=written.capabilities,
        advice=advice.of_capabilities)] = None
    read_only_root: Annotated[bool, declare(
        "The same as `read_only` of the container, which has this older name here.", True,
        written=written.nothing)] = False
    privileged: Annotated[bool, declare(
        "Whether it may do what root on the host may: every capability and device, no filter.", True)] = False
    seccomp: Annotated[str, declare(
        'Its filter of system calls: "default", "unconfined", or the path of a profile in OCI format.',
        "default", check=values.seccomp)] = "default"
    apparmor: Annotated[str, declare(
        'Its AppArmor profile, where the kernel has AppArmor: "default", "unconfined", or the name of a '
        "loaded one.", "default", check=values.apparmor)] = "default"
    devices: Annotated[tuple[DeviceText, ...], declare(
        'Devices of the host that it sees and may use: a path, a directory of devices, "FROM:TO" or '
        '"FROM:TO:rw" for another path in it, or the name of a CDI device such as "nvidia.com/gpu=all".',
        ["/dev/fuse"], each=devices.device, check=devices.distinct)] = ()
    userns: Annotated[Literal["host", "auto"], declare(
        '"auto": its users, root too, are users without rights on the host.', "auto",
        advice=advice.of_user_namespace)] = "host"


class HttpTable(FileStruct):
    """A GET request to the pod itself: 200 to 399 is a success, and no redirect is followed."""

    port: Annotated[int, declare(
        "The port in the pod, published or not.", 8080, check=health_values.probed_port)]
    path: Annotated[str, declare(
        "What is asked for.", "/healthz", pattern=ABSOLUTE_PATTERN, check=health_values.http_path)] = "/"
    headers: Annotated[dict[str, str] | None, declare(
        "Headers of the request. Host is \"localhost\" where it is left out.", {"Host": "web.lan"},
        each=health_values.header, advice=health_values.headers_advice)] = None
    tls: Annotated[bool, declare(
        "Whether it is https; the certificate is not checked.", True)] = False


class HealthTable(FileStruct):
    """Whether a container that runs also works: one of http, tcp and exec, or what its image says."""

    http: Annotated[HttpTable | None, declare(
        "A request that must be answered.", {"port": 8080, "path": "/healthz"}, written=written.http,
        advice=health_values.http_advice)] = None
    tcp: Annotated[int | None, declare(
        "A port of the pod that must take a connection.", 5432, check=health_values.probed_port,
        advice=health_values.tcp_advice)] = None
    exec: Annotated[tuple[str, ...] | None, declare(
        "A command in the container that must end with 0.", ["pg_isready"], each=values.argument,
        advice=health_values.exec_advice)] = None
    image: Annotated[bool, declare(
        "Whether the image's HEALTHCHECK counts where none of these is given.", False)] = True
    interval: Annotated[Duration | None, declare(
        "How often it is asked, 1s to 24h. Not given: 10s, and 30s for exec.", "10s",
        check=health_values.interval, written=written.time("interval"))] = None
    timeout: Annotated[Duration | None, declare(
        "How long an answer may take, 100ms to 1h; a command is killed then. Not given: 5s.", "5s",
        check=health_values.timeout, written=written.time("timeout"))] = None
    retries: Annotated[int | None, declare(
        "Failures in a row that make it unhealthy, 1 to 100. Not given: 3.", 3, check=health_values.retries
    )] = None
    start_period: Annotated[Duration | None, declare(
        "How long after the start failures don't count, 0s to 1h; the first success ends it. Not given: 60s.",
        "60s", check=health_values.start_period, written=written.time("start_period"))] = None
    start_interval: Annotated[Duration | None, declare(
        "How often it is asked until the first success, and while an update is watched, 500ms to 24h. Not "
        "given: 1s.", "1s", check=health_values.start_interval, written=written.time("start_interval")
    )] = None
    on_failure: Annotated[Literal["restart", "none"] | None, declare(
        'Whether an unhealthy container is restarted. Not given: "restart", and "none" for an image\'s '
        "HEALTHCHECK.", "restart")] = None


class UpdateTable(FileStruct):
    """The proof that a new revision must give before it counts as good."""

    min_healthy: Annotated[Duration, declare(
        "How long all its containers must be ready without a break, 0s to 1h.", "30s",
        check=health_values.min_healthy, written=written.time("min_healthy"))] = "10s"
    deadline: Annotated[Duration, declare(
        "By when it must have been so, from its first start on, 1s to 24h; pulls and snapshots don't count.",
        "10m", check=health_values.deadline, written=written.time("deadline"))] = "5m"
    max_restarts: Annotated[int, declare(
        "How often its containers may end until then, 0 to 100; one more, and it has failed.", 5,
        check=health_values.max_restarts)] = 2
    rollback: Annotated[bool | None, declare(
        'Whether a revision that failed makes way for the last good one. Not given: true, but never for '
        'restart = "never".', False, written=lambda update: update.rollback)] = None
    image: Annotated[Literal["pinned", "digest"], declare(
        '"digest": a newer image behind the same tag is an update of its own.', "digest")] = "pinned"


UlimitValue = Annotated[
    LimitNumber | UlimitTable, declare("Soft and hard limit.", 65536, advice=run_values.ulimit_advice)
]


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
        note="counts from the next start on", advice=advice.of_pull)] = None
    rootfs: Annotated[str | None, declare(
        "Instead of image: a root file system in a directory of the host.", "/srv/images/db",
        pattern=ABSOLUTE_PATTERN, check=paths.rootfs, effect=Effect.CONTAINER)] = None
    command: Annotated[tuple[str, ...] | None, declare(
        "The program and its first arguments; replaces the image's Entrypoint and drops its Cmd.",
        ["/bin/db"], each=values.argument, effect=Effect.CONTAINER, advice=advice.of_command)] = None
    args: Annotated[tuple[str, ...] | None, declare(
        "Arguments; replace the image's Cmd, or follow command.", ["-c", "fsync=on"], each=values.argument,
        effect=Effect.CONTAINER)] = None
    env: Annotated[dict[str, VariableText] | None, declare(
        "Environment variables, merged over the image's.", {"LOG_LEVEL": "debug"}, each=values.variable,
        effect=Effect.CONTAINER, advice=advice.of_variables)] = None
    env_file: Annotated[EnvFile | tuple[EnvFile, ...], declare(
        "Files beside this one with variables, in compose's form; env, and the later file, win.",
        "app.env", ["app.env"], effect=Effect.CONTAINER)] = ()
    working_dir: Annotated[str | None, declare(
        "Where the program starts. Not given: as the image says, else /.", "/srv", pattern=ABSOLUTE_PATTERN,
        check=paths.working_directory, effect=Effect.CONTAINER)] = None
    user: Annotated[str | None, declare(
        "A user, or user:group, by name or by number; names are looked up in the container's own files. Not "
        'given: as the image says, else "0:0".', "postgres:postgres", check=values.user,
        effect=Effect.CONTAINER)] = None
    groups: Annotated[tuple[GroupName, ...], declare(
        "Further groups that the program is in, by name or by number; names are looked up in the container's "
        "own /etc/group, and those of its user count without being named.", ["44"], ["render", "44"],
        each=values.group,
        effect=Effect.CONTAINER)] = ()
    tty: Annotated[bool, declare(
        "Whether the program gets a terminal.", True, effect=Effect.CONTAINER)] = False
    stop_signal: Annotated[str | int | None, declare(
        "What asks it to end: a name or a number. Not given: as the image says, else SIGTERM.", "SIGTERM",
        check=parse_signal, effect=Effect.LIVE, note="counts from the next stop on")] = None
    stop_grace: Annotated[Duration, declare(
        "How long it may take to end before it is killed: text or seconds, at most 1h.", "10s",
        check=_parse_grace, effect=Effect.LIVE, note="counts from the next stop on",
        written=written.time("stop_grace"))] = "10s"
    mounts: Annotated[tuple[MountTable, ...], declare(
        "Volumes, files and secrets that the container sees.", effect=Effect.CONTAINER)] = ()
    read_only: Annotated[bool, declare(
        "Whether its root file system can't be written; mounts still can, and /tmp, /run and /var/tmp, which "
        "are in memory then.", True, effect=Effect.CONTAINER, written=written.read_only)] = False
    shm_size: Annotated[Memory | None, declare(
        "How much /dev/shm may hold. Not given: 64M.", "256M", check=run_values.memory,
        effect=Effect.CONTAINER, written=written.size("shm_size"))] = None
    ulimits: Annotated[dict[str, UlimitValue] | None, declare(
        'Limits of setrlimit(2) by their names: a number, "unlimited", or { soft, hard }.',
        {"nofile": 65536}, each=run_values.ulimit, effect=Effect.CONTAINER, written=written.ulimits,
        advice=run_values.ulimits_advice)] = None
    limits: Annotated[LimitsTable | None, declare(
        "Memory, processes and CPU that it may use.", effect=Effect.LIVE,
        note="also ends a back-off: more memory may help")] = None
    security: Annotated[SecurityTable | None, declare(
        "Where it differs from the hardening that all containers have.", effect=Effect.CONTAINER,
        written=written.security)] = None
    init: Annotated[bool, declare(
        "Whether it runs to its end, with code 0, before the containers that are not init start; several run "
        "one by one in the order of the file.", True, effect=Effect.CONTAINER,
        note="and all that are not init; also if one comes or goes")] = False
    after: Annotated[tuple[str, ...], declare(
        "Containers of this pod that must be ready before it starts.", ["cache"], effect=Effect.NOTHING,
        note="counts from the next start on", advice=health_values.after_advice)] = ()
    health: Annotated[HealthTable | None, declare(
        "Whether it works. Not given: as the image's HEALTHCHECK says.", effect=Effect.NOTHING,
        note="counts from now on")] = None


class PodTable(FileStruct):
    """A pod: containers that share one network, their volumes, and one restart policy."""

    containers: Annotated[tuple[ContainerTable, ...], declare(
        "The pod's containers, at least one.", effect=Effect.NOTHING,
        note="only the one that comes or goes starts or stops")]
    name: Annotated[Name | None, declare(
        "The pod's name, unique on the machine. Not given: the file's name without .toml.", "db",
        effect=Effect.POD, note="it is another pod: the old one goes, with its logs")] = None
    restart: Annotated[Literal["always", "on-failure", "never"] | None, declare(
        'When a container that ended is started again. Not given: "always", and "never" for a pod with a '
        "schedule.", "always", effect=Effect.NOTHING,
        note="counts from the next end on; a finished container may start",
        written=written.restart, always=True, advice=advice.of_restart)] = None
    schedule: Annotated[str | None, declare(
        "For a job: when it runs, as cron's five fields, or @hourly, @daily, @weekly, @monthly, @yearly.",
        "0 3 * * *", check=schedule.parse_cron, effect=Effect.NOTHING, note="counts from the next run on",
        advice=schedule.schedule_advice, written=written.schedule("cron"))] = None
    time_zone: Annotated[str | None, declare(
        "The time zone of the schedule. Not given: the host's.", "Europe/Berlin",
        check=schedule.parse_time_zone, effect=Effect.NOTHING, note="as schedule",
        written=written.schedule("time_zone"))] = None
    catch_up: Annotated[bool | None, declare(
        "Whether a run that was missed, since the machine was off, happens later, once. Not given: false.",
        True, effect=Effect.NOTHING, note="as schedule", written=written.schedule("catch_up"))] = None
    timeout: Annotated[Duration | None, declare(
        "How long a run of the job may take, 1s to 30 days; then it is stopped, and has failed. Not given: "
        "as long as it takes.", "2h", check=functools.partial(
            quantities.parse_duration, low=1.0, high=30 * 86_400.0), effect=Effect.NOTHING,
        note="counts from now on", written=written.schedule("timeout"))] = None
    network: Annotated[Literal["none", "host", "bridge"] | NetworkTable | None, declare(
        '"none" (loopback only), "host" (the host\'s own), "bridge" (one of this machine\'s), or a table. '
        'Not given: "none", or "bridge" for a pod with ports.', "none",
        effect=Effect.LIVE, note='to or from "host": the whole pod restarts, finished containers too',
        written=written.network, always=True, advice=advice.of_network)] = None
    ports: Annotated[tuple[PortText, ...], declare(
        "Ports of this machine that lead to the pod: [ADDRESS:]HOST:POD[/udp], each one port or a range.",
        ["8080:80", "127.0.0.1:5432:5432", "53:53/udp"], each=ports.published_port,
        effect=Effect.LIVE, note="nothing restarts", advice=advice.of_ports,
        written=lambda pod: [str(port) for port in pod.ports])] = ()
    volumes: Annotated[tuple[VolumeTable, ...], declare(
        "Storage that the pod's containers can mount.", effect=Effect.NOTHING,
        note="a new volume counts when it is mounted")] = ()
    files: Annotated[tuple[ConfigFileTable, ...], declare(
        "Configuration that travels with the pod file.", effect=Effect.NOTHING,
        note="a new file counts when it is mounted")] = ()
    secrets: Annotated[tuple[SecretTable, ...], declare(
        "Passwords and keys, encrypted.", effect=Effect.NOTHING,
        note="a new secret counts when it is mounted")] = ()
    hostname: Annotated[str | None, declare(
        "The host name that its programs see, and by which they and the other pods of its bridges find it. "
        "Not given: the pod's name.",
        "nas.lan", check=network_values.own_hostname, effect=Effect.POD,
        written=lambda pod: pod.hostname or None)] = None
    sysctls: Annotated[dict[str, SysctlText] | None, declare(
        "Parameters of the kernel, of the pod's own namespaces only: net.*, fs.mqueue.* and those of System "
        "V IPC.", {"net.core.somaxconn": "1024"}, each=run_values.sysctl, effect=Effect.POD,
        note="in a new network namespace", advice=run_values.sysctls_advice)] = None
    after: Annotated[tuple[str, ...], declare(
        "Other pods of this machine that must be ready before this one starts after a boot.", ["db"],
        each=values.named, effect=Effect.NOTHING, note="counts from the next boot on",
        advice=health_values.after_advice)] = ()
    update: Annotated[UpdateTable | None, declare(
        "What a new revision must show before it counts as good.", effect=Effect.NOTHING,
        note="counts from now on, also for an update that is watched")] = None
    hosts: Annotated[tuple[str, ...], declare(
        "Only on machines whose name matches one of these. Not given: everywhere.", ["edge-*"],
        each=values.host_pattern, effect=Effect.NOTHING,
        note="the pod comes to or goes from machines, no other way")] = ()
    labels: Annotated[dict[str, str] | None, declare(
        "Only on machines whose [labels] in agent.toml match all of these.", {"site": "fra"},
        each=values.label, effect=Effect.NOTHING, note="as hosts", advice=advice.of_labels)] = None
