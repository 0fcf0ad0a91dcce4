"""Checks what a pod's values say, and makes the normalised Pod of them once the structure is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from tank_agent.spec.container_paths import OWN_FILES, is_kernel_path, is_kernel_path_of_host
from tank_agent.spec.file import ContainerTable, CpuTable, LimitsTable, MountTable, PodTable, VolumeTable
from tank_agent.spec.findings import Finding, KeyPath, closest, show
from tank_agent.spec.model import (
    Container,
    CpuLimit,
    Limits,
    Mount,
    Network,
    Pod,
    RestartPolicy,
    Volume,
)
from tank_agent.spec.network_checks import check_network
from tank_agent.spec.quantities import (
    CPU_CORES_MAX,
    CPU_PERIOD_MAX,
    CPU_PERIOD_MIN,
    CPU_QUOTA_MIN,
    PIDS_DEFAULT,
    PIDS_MAX,
    STOP_GRACE_MAX,
    parse_cores,
    parse_duration,
    parse_memory,
)
from tank_agent.spec.reference import check_path, parse_reference
from tank_agent.spec.security_checks import check_security
from tank_agent.spec.signals import parse_signal

Value = TypeVar("Value")

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_USER_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,254}\$?")
_DIGITS = re.compile("[0-9]+")
# The largest id means "no change" to chown and setuid.
_ID_MAX = 2**32 - 2
# MAX_ARG_STRLEN: the kernel refuses to execute with a longer argument or variable (execve(2)).
_ARGUMENT_MAX = 131_071
_GUESSES_MAX = 100


def check_pod(table: PodTable, name: str) -> tuple[Pod, list[Finding]]:
    """Return the pod that a table describes, and all that is wrong with it; it is valid if nothing is."""
    findings: list[Finding] = []
    volumes = _volumes(table.volumes, findings)
    names = {volume.name: volume for volume in volumes}
    if not table.containers:
        findings.append(Finding(("containers",), "a pod needs at least one container; add [[containers]]"))
    _check_unique(findings, ("containers",), "containers", [container.name for container in table.containers])
    pod = Pod(
        name=name,
        containers=tuple(
            _container(container, ("containers", index), names, findings)
            for index, container in enumerate(table.containers)
        ),
        restart=RestartPolicy(table.restart),
        network=Network(mode=table.network)
        if isinstance(table.network, str)
        else check_network(table.network, findings),
        volumes=volumes,
    )
    return pod, findings


def name_problem(name: str) -> str | None:
    """Return what is wrong with the name of a pod, a container or a volume, or None."""
    if _NAME.fullmatch(name):
        return None
    rule = "use 1 to 63 of a-z, 0-9 and -, starting and ending with a letter or a digit"
    guess = re.sub("[^a-z0-9]+", "-", name.lower())[:63].strip("-")
    return f"{show(name)} is not a name; {rule}" + (f', such as "{guess}"' if guess else "")


def _attempt(findings: list[Finding], path: KeyPath, parse: Callable[[], Value], fallback: Value) -> Value:
    try:
        return parse()
    except ValueError as error:
        findings.append(Finding(path, str(error)))
        return fallback


def _check_unique(
    findings: list[Finding], path: KeyPath, what: str, names: list[str], key: str = "name"
) -> None:
    """Check the names of a list's elements, and that no two are the same."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        wrong = name_problem(name)
        if wrong:
            findings.append(Finding((*path, index, key), wrong))
        elif first.setdefault(name, index) != index:
            message = (
                f"two {what} have the name {show(name)} (the first is {path[-1]}[{first[name]}]); rename one"
            )
            findings.append(Finding((*path, index, key), message))


def _check_absolute(findings: list[Finding], path: KeyPath, value: str) -> bool:
    wrong = check_path(value)
    if wrong:
        findings.append(Finding(path, wrong))
    return not wrong


def _volumes(tables: tuple[VolumeTable, ...], findings: list[Finding]) -> tuple[Volume, ...]:
    _check_unique(findings, ("volumes",), "volumes", [table.name for table in tables])
    for index, table in enumerate(tables):
        path = ("volumes", index, "host")
        if table.host is not None and _check_absolute(findings, path, table.host) and table.host == "/":
            findings.append(Finding(path, "a volume can't be the host's root directory; name one below it"))
    return tuple(Volume(name=table.name, host=table.host) for table in tables)


def _container(
    table: ContainerTable, path: KeyPath, volumes: Mapping[str, object], findings: list[Finding]
) -> Container:
    _check_image(table, path, findings)
    _check_argv(table, path, findings)
    env = _env(table.env, (*path, "env"), findings)
    working_dir = table.working_dir
    if working_dir is not None:
        _check_working_dir(working_dir, (*path, "working_dir"), findings)
    user, signal, grace = table.user, table.stop_signal, table.stop_grace
    return Container(
        name=table.name,
        image=table.image,
        pull=table.pull,
        rootfs=table.rootfs,
        command=table.command,
        args=table.args,
        env=env,
        working_dir=working_dir,
        user=None if user is None else _attempt(findings, (*path, "user"), lambda: _user(user), user),
        tty=table.tty,
        stop_signal=None
        if signal is None
        else _attempt(findings, (*path, "stop_signal"), lambda: parse_signal(signal), "SIGTERM"),
        stop_grace=_attempt(
            findings, (*path, "stop_grace"), lambda: parse_duration(grace, high=STOP_GRACE_MAX), 10.0
        ),
        mounts=_mounts(table.mounts, (*path, "mounts"), volumes, findings),
        limits=_limits(table.limits or LimitsTable(), (*path, "limits"), findings),
        security=check_security(table.security, (*path, "security"), findings),
    )


def _check_working_dir(value: str, path: KeyPath, findings: list[Finding]) -> None:
    if _check_absolute(findings, path, value) and is_kernel_path(value):
        message = f"{show(value)} is in a kernel file system; choose one outside /proc, /sys and /dev"
        findings.append(Finding(path, message))


def _check_image(table: ContainerTable, path: KeyPath, findings: list[Finding]) -> None:
    image, rootfs = table.image, table.rootfs
    if image is None and rootfs is None:
        message = 'there is nothing to run; give image = "docker.io/library/…" or rootfs = "/directory"'
        findings.append(Finding(path, message))
    if image is not None and rootfs is not None:
        findings.append(Finding((*path, "rootfs"), "image and rootfs can't both be given; remove one"))
    if table.pull is not None and image is None and rootfs is not None:
        findings.append(Finding((*path, "pull"), "a rootfs is never pulled; remove it"))
    if image is not None:
        _attempt(findings, (*path, "image"), lambda: parse_reference(image), None)
    if rootfs is not None and _check_absolute(findings, (*path, "rootfs"), rootfs):
        if rootfs == "/":
            message = "the host's own root directory can't be a container's; name a directory below it"
            findings.append(Finding((*path, "rootfs"), message))
        elif is_kernel_path_of_host(rootfs):
            message = (
                f"{show(rootfs)} is in a kernel file system; name a directory outside /proc, /sys and /dev"
            )
            findings.append(Finding((*path, "rootfs"), message))


def _check_argv(table: ContainerTable, path: KeyPath, findings: list[Finding]) -> None:
    for key, words in (("command", table.command), ("args", table.args)):
        for index, word in enumerate(words or ()):
            wrong = _string_problem(word)
            if wrong:
                findings.append(Finding((*path, key, index), wrong))
    # What an image says to run is only known later, unless the command replaces it.
    if table.command is None and (table.rootfs is None or table.image is not None):
        return
    argv = (table.command or ()) + (table.args or ())
    if not argv:
        reason = "a rootfs does not say what to run" if table.command is None else "there is no program in it"
        findings.append(Finding((*path, "command"), f'{reason}; give command = ["/path/of/the/program"]'))
    elif not argv[0]:
        key = "command" if table.command else "args"
        findings.append(Finding((*path, key, 0), "the program's name is empty"))


def _string_problem(value: str) -> str | None:
    if "\0" in value:
        return "has a NUL character in it, which no program can be given"
    if len(value) > _ARGUMENT_MAX // 4 and len(value.encode()) > _ARGUMENT_MAX:
        return f"is longer than the {_ARGUMENT_MAX} bytes that the kernel takes; put it in a file of a volume"
    return None


def _env(env: dict[str, str] | None, path: KeyPath, findings: list[Finding]) -> dict[str, str]:
    for key, value in (env or {}).items():
        wrong = _string_problem(f"{key}={value}")
        if not key:
            wrong = "a variable needs a name"
        elif "=" in key:
            wrong = f"a variable's name can't have \"=\" in it; write {show(key.partition('=')[0])}"
        if wrong:
            findings.append(Finding((*path, key), wrong))
    return dict(env or {})


def _user(value: str) -> str:
    """Return `user[:group]` with plain numbers; a text of digits is always a number (CVE-2026-46680)."""
    name, colon, group = value.partition(":")
    if not name or (colon and not group):
        raise ValueError(f'{show(value)} is not a user; write a user or user:group, such as "1000:1000"')
    parts = [_identity(part, what) for part, what in ((name, "user"), (group, "group")) if part]
    return ":".join(parts)


def _identity(part: str, what: str) -> str:
    if _DIGITS.fullmatch(part):
        if len(part) > 20 or int(part) > _ID_MAX:
            raise ValueError(f"the {what} id is out of range; the largest is {_ID_MAX}")
        return str(int(part))
    if not _USER_NAME.fullmatch(part):
        raise ValueError(f"{show(part)} is not a {what}; use letters, digits and . _ -, or a number")
    return part


def _mounts(
    tables: tuple[MountTable, ...], path: KeyPath, volumes: Mapping[str, object], findings: list[Finding]
) -> tuple[Mount, ...]:
    first: dict[str, int] = {}
    for index, table in enumerate(tables):
        # A volume without a name has its own finding; what it was meant to be called can't be known.
        if table.volume not in volumes and "" not in volumes:
            # A guess takes time, and nobody reads more than the first.
            known = [] if len(findings) > _GUESSES_MAX else list(volumes)[:_GUESSES_MAX]
            findings.append(Finding((*path, index, "volume"), _undefined(table.volume, known)))
        where = (*path, index, "path")
        if not _check_absolute(findings, where, table.path):
            continue
        if table.path == "/" or is_kernel_path(table.path):
            message = f"{show(table.path)} is reserved; mount outside /proc, /sys and /dev, and not at /"
            findings.append(Finding(where, message))
        elif table.path in OWN_FILES:
            findings.append(
                Finding(where, f"{show(table.path)} is reserved; the agent writes this file itself")
            )
        elif first.setdefault(table.path, index) != index:
            message = (
                f"two mounts are at {show(table.path)} (the first is mounts[{first[table.path]}]); move one"
            )
            findings.append(Finding(where, message))
    return tuple(Mount(volume=table.volume, path=table.path, read_only=table.read_only) for table in tables)


def _undefined(name: str, names: list[str]) -> str:
    guess = closest(name, names)
    if guess:
        return f"no volume has the name {show(name)}; did you mean {show(guess)}?"
    return f"no volume has the name {show(name)}; define it with [[volumes]] and name = {show(name)}"


def _limits(table: LimitsTable, path: KeyPath, findings: list[Finding]) -> Limits:
    memory, cpu = table.memory, table.cpu
    if table.pids is not None and not 1 <= table.pids <= PIDS_MAX:
        message = f"must be from 1 to {PIDS_MAX}, which is no limit; left out, it is {PIDS_DEFAULT}"
        findings.append(Finding((*path, "pids"), message))
    return Limits(
        memory=None
        if memory is None
        else _attempt(findings, (*path, "memory"), lambda: parse_memory(memory), None),
        pids=table.pids,
        cpu=None if cpu is None else _cpu(cpu, (*path, "cpu"), findings),
    )


def _cpu(value: float | CpuTable, path: KeyPath, findings: list[Finding]) -> CpuLimit | None:
    if not isinstance(value, CpuTable):
        return _attempt(findings, path, lambda: parse_cores(value), None)
    if not CPU_PERIOD_MIN <= value.period <= CPU_PERIOD_MAX:
        message = f"must be from {CPU_PERIOD_MIN} to {CPU_PERIOD_MAX} microseconds; 100000 is usual"
        findings.append(Finding((*path, "period"), message))
    if not CPU_QUOTA_MIN <= value.quota <= CPU_CORES_MAX * max(value.period, CPU_PERIOD_MIN):
        message = (
            f"must be at least {CPU_QUOTA_MIN} microseconds, and at most {CPU_CORES_MAX} times the period"
        )
        findings.append(Finding((*path, "quota"), message))
    return CpuLimit(quota=value.quota, period=value.period)
