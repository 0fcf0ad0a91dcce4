"""The normalised pod: the form that the journal keeps and every other room works with.

Two files that mean the same have equal structs and equal hashes: memory is in bytes, cpu is a quota and a
period in microseconds, times are in seconds, addresses are as `ipaddress` writes them, names are filled in.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct


class RestartPolicy(enum.StrEnum):
    """The rule that decides whether a container that ended is started again."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class Nic(Struct, frozen=True, kw_only=True):
    """One interface in the pod's network namespace.

    `ip` holds addresses with prefix ("10.0.0.5/24"), `gateway` at most one address per family.
    `parent` is the host's interface, or "auto" for its uplink.
    """

    name: str
    mode: Literal["macvlan"] = "macvlan"
    parent: str = "auto"
    ip: tuple[str, ...] = ()
    gateway: tuple[str, ...] = ()


class Network(Struct, frozen=True, kw_only=True):
    """The pod's network: `none` (loopback only), `host` (the host's own), `nics`, or `bridge` with `bridges`.

    `extra_hosts` are names with their addresses, or with HOST_GATEWAY. `aliases` are further names of the pod
    in its bridges.
    """

    mode: Literal["none", "host", "nics", "bridge"] = "none"
    nics: tuple[Nic, ...] = ()
    bridges: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: dict[str, str] = msgspec.field(default_factory=dict)
    aliases: tuple[str, ...] = ()


DEFAULT_BRIDGES = ("default",)
# In extra_hosts: the address of this machine in the pod's first bridge.
HOST_GATEWAY = "host-gateway"


# Where a port is published at all addresses of the machine: those of both families, and those of IPv6.
ALL4, ALL6 = "0.0.0.0", "::"  # noqa: S104


class Port(Struct, frozen=True, kw_only=True):
    """`count` ports of the pod from `pod` on, published on the machine's ports from `host` on.

    `address` is one of the machine's, or None for where agent.toml publishes.
    """

    host: int
    pod: int
    protocol: Literal["tcp", "udp"] = "tcp"
    address: str | None = None
    count: int = 1

    @property
    def end(self) -> int:
        """Return the first port of the machine behind it."""
        return self.host + self.count

    def collides(self, other: Port) -> bool:
        """Return whether both need a port of the machine that is one and the same."""
        apart = self.end <= other.host or other.end <= self.host
        same = self._covers(other.address) or other._covers(self.address)
        return same and not apart and self.protocol == other.protocol

    def _covers(self, address: str | None) -> bool:
        """Return whether it is published at an address, too; without one, at all of the machine's."""
        return self.address in (None, ALL4, address) or (self.address == ALL6 and ":" in (address or ""))

    def __str__(self) -> str:
        """Return it as the pod file has it."""
        address = (
            f"[{self.address}]:"
            if ":" in (self.address or "")
            else f"{self.address}:"
            if self.address
            else ""
        )
        last = self.count - 1
        ends = [f"{first}-{first + last}" if last else str(first) for first in (self.host, self.pod)]
        return f"{address}{':'.join(ends)}{'/udp' if self.protocol == 'udp' else ''}"


class Volume(Struct, frozen=True, kw_only=True):
    """Storage of a pod: managed below data_dir when `host` is None, else an absolute path of the host.

    `snapshot`: it is copied before an update, so that a failed one gives its data back; "reflink": only where
    that copies no data. `shared`: managed, and the same for all pods that name it.
    """

    name: str
    host: str | None = None
    snapshot: bool | Literal["reflink"] = False
    shared: bool = False


class ConfigFile(Struct, frozen=True, kw_only=True):
    """A file of configuration that travels with the pod, wherever its content was written."""

    name: str
    content: bytes

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the content (64 hexadecimal digits), which tells whether it is another."""
        # It loads OpenSSL, which a reader of pods does not need.
        import hashlib

        return hashlib.sha256(self.content).hexdigest()


class Secret(Struct, frozen=True, kw_only=True):
    """A secret of the pod, encrypted by age (`age`, in its armor), or in a file of the host (`host`).

    `digest` is the keyed hash of the plain text (64 hexadecimal digits), which the agent sets as it takes the
    pod; "" before that, and with `host`.
    """

    name: str
    age: str = ""
    host: str | None = None
    digest: str = ""


class Mount(Struct, frozen=True, kw_only=True):
    """Something at an absolute, normalised path inside a container: exactly one of the first four.

    `volume`, `file` and `secret` name one of the pod's, `tmpfs` is a size in bytes. `subpath` is a directory
    in the volume. `from_image`: the volume, where it is made for this, begins with what the image has at the
    path. For a file or a secret: `on_change` is "restart", "nothing" or "signal:NAME", `mode` its
    permissions, `owner` a user or user:group of the container. None: a file has 0644 and 0:0, a secret 0400
    and the container's user.
    """

    volume: str | None = None
    file: str | None = None
    secret: str | None = None
    tmpfs: int | None = None
    path: str
    read_only: bool = False
    subpath: str = ""
    from_image: bool = False
    on_change: str = "restart"
    mode: int | None = None
    owner: str | None = None

    @property
    def permissions(self) -> int:
        """Return the permissions of a file or a secret, given or not."""
        usual = 0o400 if self.secret is not None else 0o644
        return usual if self.mode is None else self.mode


class CpuLimit(Struct, frozen=True, kw_only=True):
    """At most `quota` microseconds of CPU time in every `period` microseconds."""

    quota: int
    period: int = 100_000


class Limits(Struct, frozen=True, kw_only=True):
    """cgroup limits of one container: `memory` in bytes, `pids` as a count.

    None is unlimited; for `pids`, it is the runtime's default. `memory_reservation` (bytes) is kept for it
    when memory runs short, `swap` is bytes of swap beside `memory`; None is no swap with a memory limit.
    `cpu_weight` is from 1 to 10000, `cpus` the CPUs that it may run on, as the kernel writes them ("0-3,6").
    """

    memory: int | None = None
    pids: int | None = None
    cpu: CpuLimit | None = None
    memory_reservation: int | None = None
    swap: int | None = None
    cpu_weight: int | None = None
    cpus: str | None = None


UNLIMITED = -1


class Ulimit(Struct, frozen=True, kw_only=True):
    """A resource limit of a container's processes (setrlimit(2)); UNLIMITED is no limit."""

    soft: int
    hard: int


class Security(Struct, frozen=True, kw_only=True):
    """The differences of one container from the default hardening.

    `add` and `drop` are sorted names such as "CAP_NET_ADMIN", or ("ALL",). `seccomp` is "default",
    "unconfined" or the path of a profile, `apparmor` "default", "unconfined" or the name of one. `devices`
    are "/dev/x", "/dev/x:/dev/y", "/dev/x:/dev/y:rw" or CDI names such as "vendor.com/gpu=all", sorted.
    `userns` "auto" gives it a user namespace of its own.
    """

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    read_only_root: bool = False
    privileged: bool = False
    seccomp: str = "default"
    apparmor: str = "default"
    devices: tuple[str, ...] = ()
    userns: Literal["host", "auto"] = "host"


class HttpProbe(Struct, frozen=True, kw_only=True):
    """A GET request to the pod itself; an answer from 200 to 399 is a success. `tls` checks no name."""

    port: int
    path: str = "/"
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    tls: bool = False


class HealthCheck(Struct, frozen=True, kw_only=True):
    """The probe of a container: one of `http`, `tcp` (a port) and `exec`, or none of them: the image's.

    `image` False ignores the image's HEALTHCHECK. Times are in seconds. None means "as the image says", else
    the default, which depends on the kind of the probe.
    """

    http: HttpProbe | None = None
    tcp: int | None = None
    exec: tuple[str, ...] | None = None
    image: bool = True
    interval: float | None = None
    timeout: float | None = None
    retries: int | None = None
    start_period: float | None = None
    start_interval: float | None = None
    on_failure: Literal["restart", "none"] | None = None


class Update(Struct, frozen=True, kw_only=True):
    """The proof that a new revision must give before it counts as good; times are in seconds.

    `image` "digest" makes a newer image behind the same tag an update of its own.
    """

    min_healthy: float = 10.0
    deadline: float = 300.0
    max_restarts: int = 2
    rollback: bool = True
    image: Literal["pinned", "digest"] = "pinned"


PullPolicy = Literal["missing", "always", "never"]


class Container(Struct, frozen=True, kw_only=True):
    """One container of a pod. Exactly one of `image` and `rootfs` is set; None means "as the image says".

    `pull` None means "as agent.toml says". `stop_grace` is in seconds. An `init` container runs to its end
    before those that are not; `after` names containers of the pod that must be ready before it starts. `env`
    has the variables of its env_file, too. `shm_size` is in bytes, None the runtime's default; `ulimits` are
    by their name in lower case ("nofile"). `groups` are sorted names or numbers, beside those of the user.
    """

    name: str
    image: str | None = None
    pull: PullPolicy | None = None
    rootfs: str | None = None
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: dict[str, str] = msgspec.field(default_factory=dict)
    working_dir: str | None = None
    user: str | None = None
    groups: tuple[str, ...] = ()
    tty: bool = False
    stop_signal: str | None = None
    stop_grace: float = 10.0
    mounts: tuple[Mount, ...] = ()
    limits: Limits = msgspec.field(default_factory=Limits)
    security: Security = msgspec.field(default_factory=Security)
    init: bool = False
    after: tuple[str, ...] = ()
    health: HealthCheck | None = None
    shm_size: int | None = None
    ulimits: dict[str, Ulimit] = msgspec.field(default_factory=dict)


class Schedule(Struct, frozen=True, kw_only=True):
    """When a pod runs that is a job: `cron` has five fields, in `time_zone` ("" is the host's).

    `catch_up`: a run that was missed happens once, later. `timeout` is in seconds; None is no end.
    """

    cron: str
    time_zone: str = ""
    catch_up: bool = False
    timeout: float | None = None


class Pod(Struct, frozen=True, kw_only=True):
    """A pod: containers that share a network namespace, its volumes, and one restart policy.

    `after` names other pods of the machine that must be ready before it starts. `schedule` is None for a pod
    that is no job. `sysctls` are kernel parameters of the pod's own namespaces. `hostname` is "" where it is
    the pod's name.
    """

    name: str
    containers: tuple[Container, ...]
    restart: RestartPolicy = RestartPolicy.ALWAYS
    network: Network = msgspec.field(default_factory=Network)
    ports: tuple[Port, ...] = ()
    volumes: tuple[Volume, ...] = ()
    after: tuple[str, ...] = ()
    update: Update = msgspec.field(default_factory=Update)
    schedule: Schedule | None = None
    files: tuple[ConfigFile, ...] = ()
    secrets: tuple[Secret, ...] = ()
    sysctls: dict[str, str] = msgspec.field(default_factory=dict)
    hostname: str = ""
    # `parse.pod_from_mapping`, set by that module, which `from tank_agent import Pod` loads.
    new: ClassVar[Callable[[Mapping[str, object]], Pod]]


class Selector(Struct, frozen=True, kw_only=True):
    """The machines that a pod is for: one pattern must match the name, and all patterns the labels.

    It stays beside the pod, never in it, so that a wider selector restarts nothing. An empty one selects all.
    """

    hosts: tuple[str, ...] = ()
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)


class Host(Struct, frozen=True, kw_only=True):
    """A machine as selectors see it: its name, and [labels] of agent.toml.

    `is_other`: a person named it, as `tank plan --host` does, so words about it don't say "this machine".
    """

    name: str
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    is_other: bool = False


EVERYWHERE = Selector()


def selects(selector: Selector, host: Host) -> bool:
    """Return whether a pod with this selector runs on the host.

    A host's name counts in full and up to its first dot, in either case. Labels' values may be patterns, too.
    """
    full = host.name.lower()
    names, patterns = (full, full.split(".", 1)[0]), selector.hosts or ("*",)
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns for name in names) and all(
        key in host.labels and fnmatchcase(host.labels[key], pattern)
        for key, pattern in selector.labels.items()
    )


def content_hash(value: Struct) -> str:
    """Return a hash of what the value means: 64 hexadecimal digits of SHA-256 over its canonical JSON.

    Values at their default are left out, so that a key which a newer version adds changes no hash. So is the
    digest of a secret that is in the value: it follows from the encrypted text, on each machine another one.
    """
    # It loads OpenSSL, which a reader of pods does not need.
    import hashlib

    canonical = msgspec.json.encode(_without_defaults(value), order="deterministic")
    return hashlib.sha256(canonical).hexdigest()


def _without_defaults(value: Any) -> Any:
    if isinstance(value, Struct):
        left_out = ("digest",) if isinstance(value, Secret) else ()
        return {
            name: _without_defaults(found)
            for name, default in defaults_of(type(value))
            if (found := getattr(value, name)) != default and name not in left_out
        }
    if isinstance(value, dict):
        return {key: _without_defaults(found) for key, found in value.items()}
    return [_without_defaults(found) for found in value] if isinstance(value, tuple) else value


@functools.cache
def defaults_of(kind: type[Struct]) -> tuple[tuple[str, Any], ...]:
    """Return the fields of a struct with their defaults; NODEFAULT where there is none."""

    def default(field: msgspec.structs.FieldInfo) -> Any:
        factory = field.default_factory
        return field.default if factory is msgspec.NODEFAULT else factory()

    return tuple((field.name, default(field)) for field in msgspec.structs.fields(kind))
