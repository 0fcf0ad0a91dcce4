"""What a user may write in a pod file: key for key, with the words that the schema and the reference print.

These structs check structure only (unknown keys, types, missing keys). Patterns are notes for editors; what a
value may say is checked in `tank_agent.spec.checks`, which reports all findings with their lines.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

NAME_PATTERN = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
INTERFACE_PATTERN = "^[A-Za-z0-9_.@][A-Za-z0-9_.@+-]{0,14}$"
ABSOLUTE_PATTERN = "^/"
MEMORY_PATTERN = "^[0-9]+[KkMmGgTt]?$"
_NUMBER = "[0-9]+(\\.[0-9]+)?"
DURATION_PATTERN = "^" + "".join(f"({_NUMBER}{unit})?" for unit in ("d", "h", "m", "s", "ms")) + "$"


def text(description: str, example: str, pattern: str | None = None) -> Meta:
    """Describe a text key: what it means, one example, and the pattern that editors check."""
    extra: dict[str, Any] = {"pattern": pattern} if pattern else {}
    return Meta(description=description, examples=[example], extra_json_schema=extra)


def about(description: str, *examples: object) -> Meta:
    """Describe a key of any other type."""
    return Meta(description=description, examples=list(examples) or None)


Name = Annotated[
    str,
    text("1 to 63 of a-z, 0-9 and -; the first and the last are a letter or a digit.", "db", NAME_PATTERN),
]
Duration = Annotated[str, Meta(extra_json_schema={"pattern": DURATION_PATTERN})] | int | float
Memory = Annotated[str, Meta(extra_json_schema={"pattern": MEMORY_PATTERN})] | int
OneOrMore = str | tuple[str, ...]


class FileStruct(Struct, kw_only=True, forbid_unknown_fields=True):
    """The base of everything that is written in a file: strict about its keys."""


class NicTable(FileStruct):
    """One network interface of the pod."""

    name: Annotated[
        str, text("The interface's name inside the pod, at most 15 bytes.", "eth0", INTERFACE_PATTERN)
    ]
    mode: Annotated[
        Literal["macvlan"],
        about("How it reaches the LAN: macvlan gives it a MAC address of its own.", "macvlan"),
    ] = "macvlan"
    parent: Annotated[
        str,
        text(
            "The host's interface that it sits on; \"auto\" is the host's uplink.",
            "eno1",
            INTERFACE_PATTERN,
        ),
    ] = "auto"
    ip: Annotated[
        OneOrMore,
        about("Address with prefix length, IPv4 or IPv6, or a list of both.", "10.0.0.5/24", ["10.0.0.5/24"]),
    ] = ()
    gateway: Annotated[
        OneOrMore,
        about("The default route's next hop; a list for one of each family.", "10.0.0.1", ["10.0.0.1"]),
    ] = ()


class NetworkTable(FileStruct):
    """A network namespace with interfaces of its own on the LAN."""

    nics: Annotated[tuple[NicTable, ...], about("The pod's interfaces, at least one.")] = ()
    dns: Annotated[
        tuple[str, ...],
        about("Name servers of the pod, at most 3. Not given: the host's.", ["10.0.0.1"]),
    ] = ()


class VolumeTable(FileStruct):
    """Storage that outlives its containers."""

    name: Annotated[Name, about("What mounts call it.", "data")]
    host: Annotated[
        str | None,
        text(
            "An existing directory or file of the host to mount. Not given: a directory that the agent "
            "manages, and keeps when the pod goes.",
            "/etc/db",
            ABSOLUTE_PATTERN,
        ),
    ] = None


class MountTable(FileStruct):
    """Where a container sees a volume."""

    volume: Annotated[Name, about("The name of one of the pod's volumes.", "data")]
    path: Annotated[
        str, text("The absolute path inside the container.", "/var/lib/postgresql/data", ABSOLUTE_PATTERN)
    ]
    read_only: Annotated[bool, about("Whether the container may only read it.", True)] = False


class CpuTable(FileStruct):
    """CPU bandwidth as the kernel counts it, in microseconds."""

    quota: Annotated[int, about("Microseconds of CPU time in every period, at least 1000.", 50000)]
    period: Annotated[int, about("Length of the period in microseconds, 1000 to 1000000.", 100000)] = 100_000


class LimitsTable(FileStruct):
    """What a container may use at most."""

    memory: Annotated[
        Memory | None, about("Bytes, or a number with K, M, G or T (1024-based); at least 4M.", "256M")
    ] = None
    pids: Annotated[
        int | None, about("Processes and threads at one time; 2048 where it is left out.", 100)
    ] = None
    cpu: Annotated[
        int | float | CpuTable | None,
        about("Cores, at least 0.01, or a quota and a period in microseconds.", 0.5, {"quota": 50000}),
    ] = None


class CapabilitiesTable(FileStruct):
    """What differs from the default capabilities."""

    add: Annotated[
        tuple[str, ...], about('Capabilities beyond the default ones; "ALL" is every one.', ["NET_ADMIN"])
    ] = ()
    drop: Annotated[
        tuple[str, ...], about('Capabilities to take away; "ALL" leaves those that add names.', ["ALL"])
    ] = ()


class SecurityTable(FileStruct):
    """Where a container differs from the hardening that all have."""

    capabilities: Annotated[
        CapabilitiesTable | None, about("Capabilities to add to and to drop from the default eleven.")
    ] = None
    read_only_root: Annotated[
        bool, about("Whether its root file system can't be written; volumes still can.", True)
    ] = False
    privileged: Annotated[
        bool,
        about(
            "Whether it may do what root on the host may: every capability and device, no filter.",
            True,
        ),
    ] = False
    seccomp: Annotated[
        str,
        text(
            'Its filter of system calls: "default", "unconfined", or the path of a profile in OCI format.',
            "default",
        ),
    ] = "default"
    apparmor: Annotated[
        str,
        text(
            'Its AppArmor profile, where the kernel has AppArmor: "default", "unconfined", or the name of a '
            "loaded one.",
            "default",
        ),
    ] = "default"
    devices: Annotated[
        tuple[str, ...], about("Devices of the host that it sees and may use.", ["/dev/fuse"])
    ] = ()
    userns: Annotated[
        Literal["host", "auto"],
        about('"auto": its users, root too, are users without rights on the host.', "auto"),
    ] = "host"


class ContainerTable(FileStruct):
    """One process of the pod and the root file system that it runs in."""

    name: Annotated[Name, about("The container's name, unique in its pod.", "postgres")]
    image: Annotated[
        str | None,
        about(
            "An image in a registry, or oci:/layout[:tag], oci-archive:/file.tar, docker-archive:/file.tar. "
            "Either image or rootfs is needed.",
            "docker.io/library/postgres:17",
        ),
    ] = None
    pull: Annotated[
        Literal["missing", "always", "never"] | None,
        about(
            'When the registry is asked: "missing": if the image is not here; "always": before each start; '
            '"never". Not given: as agent.toml says.',
            "always",
        ),
    ] = None
    rootfs: Annotated[
        str | None,
        text(
            "Instead of image: a root file system in a directory of the host.",
            "/srv/images/db",
            ABSOLUTE_PATTERN,
        ),
    ] = None
    command: Annotated[
        tuple[str, ...] | None,
        about(
            "The program and its first arguments; replaces the image's Entrypoint and drops its Cmd.",
            ["/bin/db"],
        ),
    ] = None
    args: Annotated[
        tuple[str, ...] | None,
        about("Arguments; replace the image's Cmd, or follow command.", ["-c", "fsync=on"]),
    ] = None
    env: Annotated[
        dict[str, str] | None,
        about("Environment variables, merged over the image's.", {"LOG_LEVEL": "debug"}),
    ] = None
    working_dir: Annotated[
        str | None,
        text("Where the program starts. Not given: as the image says, else /.", "/srv", ABSOLUTE_PATTERN),
    ] = None
    user: Annotated[
        str | None,
        about(
            "A user, or user:group, by name or by number; names are looked up in the container's own files. "
            'Not given: as the image says, else "0:0".',
            "postgres:postgres",
        ),
    ] = None
    tty: Annotated[bool, about("Whether the program gets a terminal.", True)] = False
    stop_signal: Annotated[
        str | int | None,
        about(
            "What asks it to end: a name or a number. Not given: as the image says, else SIGTERM.", "SIGTERM"
        ),
    ] = None
    stop_grace: Annotated[
        Duration,
        about("How long it may take to end before it is killed: text or seconds, at most 1h.", "10s"),
    ] = "10s"
    mounts: Annotated[tuple[MountTable, ...], about("Volumes that the container sees.")] = ()
    limits: Annotated[LimitsTable | None, about("Memory, processes and CPU that it may use.")] = None
    security: Annotated[
        SecurityTable | None, about("Where it differs from the hardening that all containers have.")
    ] = None


class PodTable(FileStruct):
    """A pod: containers that share one network, their volumes, and one restart policy."""

    containers: Annotated[tuple[ContainerTable, ...], about("The pod's containers, at least one.")]
    name: Annotated[
        Name | None,
        about("The pod's name, unique on the machine. Not given: the file's name without .toml.", "db"),
    ] = None
    restart: Annotated[
        Literal["always", "on-failure", "never"],
        about("When a container that ended is started again.", "always"),
    ] = "always"
    network: Annotated[
        Literal["none", "host"] | NetworkTable,
        about('"none" (loopback only), "host" (the host\'s own), or a table with interfaces.', "none"),
    ] = "none"
    volumes: Annotated[tuple[VolumeTable, ...], about("Storage that the pod's containers can mount.")] = ()
    hosts: Annotated[
        tuple[str, ...],
        about("Only on machines whose name matches one of these. Not given: everywhere.", ["edge-*"]),
    ] = ()
    labels: Annotated[
        dict[str, str] | None,
        about("Only on machines whose [labels] in agent.toml match all of these.", {"site": "fra"}),
    ] = None
