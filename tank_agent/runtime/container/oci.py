"""The OCI runtime configuration of a container: a pure function of what should run (runtime-spec, config.md).

Hardened by podman's eleven capabilities, no_new_privileges, a seccomp profile, masked and read-only kernel
paths, and a /dev of its own. No label of an image and no text of a user becomes an annotation, since these
steer crun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from tank_agent.image.parameters import Identity
from tank_agent.linux.namespaces import IdRange
from tank_agent.runtime.security.capabilities import own_capabilities
from tank_agent.spec.model import UNLIMITED, Container, Limits, Security, Ulimit
from tank_agent.spec.paths import OWN_FILES
from tank_agent.spec.sysctls import is_network_sysctl, sysctl_name
from tank_agent.spec.values import ALL

# containers.conf(5), default_capabilities.
CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip
MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/dev/block",
    "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux",
)  # fmt: skip
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# Read by crun at create; crun exec uses the same program again.
SECCOMP_ANNOTATION = "run.oci.seccomp_bpf_data"
# What hooks print, in the bundle.
HOOKS_LOG = "hooks.log"
_HOOKS_ANNOTATIONS = ("run.oci.hooks.stdout", "run.oci.hooks.stderr")
_OPEN_FILES_SOFT = 1024
# RLIM_INFINITY, getrlimit(2).
_RLIM_INFINITY = 2**64 - 1
# podman's and Docker's.
_SHM_SIZE = "65536k"


class Device(Struct, frozen=True, kw_only=True):
    """A device of the host that a container sees: `kind` is "c" or "b", `mode` its permissions.

    `access` is what the control group allows: of r, w and m (make nodes of it).
    """

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    gid: int
    uid: int = 0
    access: str = "rwm"


class Hook(Struct, frozen=True, kw_only=True):
    """A program that the runtime runs at one of its steps (runtime-spec, config.md, "POSIX-platform Hooks").

    `timeout` is in seconds.
    """

    step: Literal["createRuntime", "createContainer", "startContainer"]
    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    timeout: int


class BindMount(Struct, frozen=True, kw_only=True):
    """A path of the host, already made safe, at a path in the container."""

    source: Path
    target: str
    read_only: bool = False
    options: tuple[str, ...] = ("nosuid", "nodev")


# Of a file system in memory: as large as the memory that the container may use.
ANY_SIZE = 0


class Tmpfs(Struct, frozen=True, kw_only=True):
    """A file system in memory, of `size` bytes or ANY_SIZE, that crun mounts at `target`.

    It begins with what the image has there, as podman does it: such as a directory in /run, and its owner.
    """

    target: str
    size: int
    mode: int
    read_only: bool = False


class Seccomp(Struct, frozen=True, kw_only=True):
    """A seccomp profile (None is no filter), and the BPF that crun once compiled from it here (base64)."""

    profile: dict[str, Any] | None
    compiled: str | None


class Sandbox(Struct, frozen=True, kw_only=True):
    """A container's main process, and everything around it.

    `env` is NAME=VALUE strings. `apparmor` None is no profile: with one, crun fails where the kernel has no
    AppArmor. `netns` None shares the host's network. `ids` None shares the host's user namespace; with ids of
    its own, `sysfs` is where its /sys is mounted already, and the nodes of `devices` are among the `mounts`.
    """

    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    identity: Identity
    open_files: int
    apparmor: str | None
    hostname: str
    rootfs: Path
    netns: Path | None
    cgroup: str
    limits: Limits
    limit_swap: bool
    mounts: tuple[BindMount, ...]
    seccomp: Seccomp
    container: Container
    devices: tuple[Device, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    hooks: tuple[Hook, ...] = ()
    ids: IdRange | None = None
    sysfs: Path | None = None
    sysctls: Mapping[str, str] = msgspec.field(default_factory=dict)


def configuration(sandbox: Sandbox) -> dict[str, Any]:
    """Return config.json."""
    privileged = sandbox.container.security.privileged
    linux: dict[str, Any] = {
        **_namespaces(sandbox),
        "cgroupsPath": sandbox.cgroup,
        "resources": _resources(sandbox),
        "devices": () if sandbox.ids is not None else [_node(device) for device in sandbox.devices],
        "maskedPaths": () if privileged else MASKED_PATHS,
        "readonlyPaths": () if privileged else READ_ONLY_PATHS,
        "rootfsPropagation": "private",
    }
    if own := ipc_sysctls(sandbox.sysctls):
        linux["sysctl"] = own
    annotations = {}
    if sandbox.seccomp.compiled is not None:
        annotations[SECCOMP_ANNOTATION] = sandbox.seccomp.compiled
    elif sandbox.seccomp.profile is not None:
        linux["seccomp"] = sandbox.seccomp.profile
    if sandbox.hooks:
        # Relative to the bundle, in which conmon runs crun.
        annotations.update(dict.fromkeys(_HOOKS_ANNOTATIONS, HOOKS_LOG))
    return {
        "ociVersion": "1.0.2",
        "process": _process(sandbox),
        "root": {"path": str(sandbox.rootfs), "readonly": sandbox.container.security.read_only_root},
        "hostname": sandbox.hostname,
        "mounts": _mounts(sandbox),
        "annotations": annotations,
        "linux": linux,
        **({"hooks": _hooks(sandbox.hooks)} if sandbox.hooks else {}),
    }


def _node(device: Device) -> dict[str, Any]:
    return {
        "path": device.path,
        "type": device.kind,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    }


def _hooks(hooks: Sequence[Hook]) -> dict[str, list[dict[str, Any]]]:
    steps: dict[str, list[dict[str, Any]]] = {}
    for hook in hooks:
        entry = {"path": hook.path, "args": hook.args, "env": hook.env, "timeout": hook.timeout}
        steps.setdefault(hook.step, []).append(entry)
    return steps


def _process(sandbox: Sandbox) -> dict[str, Any]:
    security, identity, hard = sandbox.container.security, sandbox.identity, sandbox.open_files
    open_files = Ulimit(soft=min(_OPEN_FILES_SOFT, hard), hard=hard)
    held = sorted(capabilities(security))
    # Inheritable and ambient stay empty, CVE-2022-27649, but for what a user other than root is given by
    # name: without them it would lose that as its program starts.
    kept = sorted(set(held) & set(security.add)) if identity.uid else []
    return {
        "terminal": sandbox.container.tty,
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups},
        "args": sandbox.argv,
        "env": sandbox.env,
        "cwd": sandbox.cwd,
        "capabilities": {
            "bounding": held,
            "effective": held,
            "permitted": held,
            **({"inheritable": kept, "ambient": kept} if kept else {}),
        },
        "noNewPrivileges": not security.privileged,
        **({} if sandbox.apparmor is None else {"apparmorProfile": sandbox.apparmor}),
        "rlimits": [
            {"type": f"RLIMIT_{name.upper()}", "soft": _rlimit(one.soft), "hard": _rlimit(one.hard)}
            for name, one in {"nofile": open_files, **sandbox.container.ulimits}.items()
        ],
    }


def _rlimit(value: int) -> int:
    return _RLIM_INFINITY if value == UNLIMITED else value


def ipc_sysctls(sysctls: Mapping[str, str]) -> dict[str, str]:
    """Return the kernel parameters that a container has for itself: those of its IPC namespace."""
    return {sysctl_name(name): value for name, value in sysctls.items() if not is_network_sysctl(name)}


def capabilities(security: Security, bounding: frozenset[str] | None = None) -> frozenset[str]:
    """Return the capabilities that a container has: the default ones, without `drop`, with `add`.

    "ALL" is what the agent itself has, since it cannot give more.
    """
    every = own_capabilities() if bounding is None else bounding
    if security.privileged or security.add == (ALL,):
        return every - frozenset(security.drop)
    kept = frozenset() if security.drop == (ALL,) else frozenset(CAPABILITIES) - frozenset(security.drop)
    return kept | frozenset(security.add)


def _namespaces(sandbox: Sandbox) -> dict[str, Any]:
    namespaces = [{"type": kind} for kind in ("mount", "pid", "ipc", "uts", "cgroup")]
    if sandbox.netns is not None:
        namespaces.append({"type": "network", "path": str(sandbox.netns)})
    if sandbox.ids is None:
        return {"namespaces": namespaces}
    mapping = [{"containerID": 0, "hostID": sandbox.ids.base, "size": sandbox.ids.size}]
    return {"namespaces": [*namespaces, {"type": "user"}], "uidMappings": mapping, "gidMappings": mapping}


def _mounts(sandbox: Sandbox) -> list[dict[str, Any]]:
    def entry(target: str, kind: str, source: Path | str, *options: str) -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": str(source), "options": options}

    quiet = ("nosuid", "noexec", "nodev")
    pts = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
    access = "rw" if sandbox.container.security.privileged else "ro"
    shm_size = sandbox.container.shm_size or _SHM_SIZE
    sysfs = entry("/sys", "sysfs", "sysfs", *quiet, access)
    if sandbox.sysfs is not None:
        sysfs = entry("/sys", "bind", sandbox.sysfs, "rbind", "rprivate", *quiet, access)
    own = []
    for mount in sandbox.mounts:
        options = ("rbind", "rprivate", *mount.options, "ro" if mount.read_only else "rw")
        own.append((mount.target, entry(mount.target, "bind", mount.source, *options)))
    for memory in sandbox.tmpfs:
        size = (f"size={memory.size}",) if memory.size != ANY_SIZE else ()
        options = ("nosuid", "nodev", "tmpcopyup", f"mode={memory.mode:o}", *size)
        options = (*options, "ro" if memory.read_only else "rw")
        own.append((memory.target, entry(memory.target, "tmpfs", "tmpfs", *options)))
    return [
        entry("/proc", "proc", "proc", *quiet),
        entry("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        entry("/dev/pts", "devpts", "devpts", *pts),
        entry("/dev/shm", "tmpfs", "shm", *quiet, "mode=1777", f"size={shm_size}"),  # noqa: S108
        entry("/dev/mqueue", "mqueue", "mqueue", *quiet),
        sysfs,
        entry("/sys/fs/cgroup", "cgroup", "cgroup", *quiet, "relatime", access),
        # A directory before what is in it, but for the files of the pod.
        *(entry for _, entry in sorted(own, key=lambda one: one[0] not in OWN_FILES and one[0].count("/"))),
    ]


def _resources(sandbox: Sandbox) -> dict[str, Any]:
    limits, everything = sandbox.limits, sandbox.container.security.privileged
    resources: dict[str, Any] = {"devices": [{"allow": everything, "access": "rwm"}]}
    if not everything:
        for device in sandbox.devices:
            numbers = {"type": device.kind, "major": device.major, "minor": device.minor}
            if device.access:
                resources["devices"].append({"allow": True, **numbers, "access": device.access})
    if limits.memory is not None:
        resources["memory"] = {"limit": limits.memory}
        if sandbox.limit_swap:
            # Equal memory and memory+swap: the limit is the limit, with or without a swap device.
            resources["memory"]["swap"] = limits.memory
    if limits.pids is not None:
        resources["pids"] = {"limit": limits.pids}
    if limits.cpu is not None:
        resources["cpu"] = {"quota": limits.cpu.quota, "period": limits.cpu.period}
    return resources
