"""Check the values of a pod's table, each by its declaration and all together; make the normalised Pod."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from tank_agent.spec import file, model, run_values, values
from tank_agent.spec.beside import Beside
from tank_agent.spec.contents import Variables, check_total, files_of, secrets_of
from tank_agent.spec.findings import Finding, KeyPath, show
from tank_agent.spec.health_checks import check_order, check_volumes, health_of, pods_before, update_of
from tank_agent.spec.keys import checked
from tank_agent.spec.mount_checks import Mountable, mounts_of
from tank_agent.spec.network_checks import network_of, ports_of
from tank_agent.spec.quantities import (
    CPU_CORES_MAX,
    CPU_PERIOD_MAX,
    CPU_PERIOD_MIN,
    CPU_QUOTA_MIN,
    format_memory,
)
from tank_agent.spec.sysctls import is_network_sysctl, is_of_pods, sysctl_name, sysctl_value


def check_pod(
    table: file.PodTable, name: str, beside: Beside
) -> tuple[model.Pod, model.Selector, list[Finding]]:
    """Return the pod of a table, its selector, and all findings; the pod is valid if there are none.

    `beside` reads the files that the table names.
    """
    findings: list[Finding] = []
    _check_unique(findings, "volumes", [volume.name for volume in table.volumes])
    check_volumes(table.volumes, findings)
    volumes = [
        model.Volume(**checked(one, ("volumes", at), findings)) for at, one in enumerate(table.volumes)
    ]
    if not table.containers:
        findings.append(Finding(("containers",), "a pod needs at least one container; add [[containers]]"))
    _check_unique(findings, "containers", [container.name for container in table.containers])
    _check_unique(findings, "files", [one.name for one in table.files])
    _check_unique(findings, "secrets", [one.name for one in table.secrets])
    files, secrets = files_of(table, beside, findings), secrets_of(table, beside, findings)
    check_total(files, secrets, findings)
    known = Mountable(table)
    variables = Variables(beside, findings)
    containers = [
        _container(one, ("containers", at), known, variables, findings)
        for at, one in enumerate(table.containers)
    ]
    check_order(table.containers, findings)
    given = checked(table, (), findings)
    pod = model.Pod(
        name=name,
        containers=tuple(containers),
        network=network_of(table, name, findings),
        ports=ports_of(given["ports"], findings),
        restart=model.RestartPolicy(table.restart or ("always" if table.schedule is None else "never")),
        volumes=tuple(volumes),
        schedule=_schedule(table, given, findings),
        files=files,
        secrets=secrets,
        sysctls=_sysctls(table, findings),
        after=pods_before(table, name, findings),
        update=update_of(table, findings),
        # The same pod, whether it says its own name or not.
        hostname="" if table.hostname == name else table.hostname or "",
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
    table: file.ContainerTable, path: KeyPath, known: Mountable, variables: Variables, findings: list[Finding]
) -> model.Container:
    _check_root(table, path, findings)
    given = checked(table, path, findings)
    _check_argv(table, path, findings)
    values.check_once(given["groups"], (*path, "groups"), findings)
    # Their order means nothing.
    given["groups"] = tuple(sorted(given["groups"], key=str))
    given.pop("env_file")
    given["env"] = variables.of(table, path)
    given["mounts"] = mounts_of(table.mounts, (*path, "mounts"), known, findings)
    given["limits"] = _limits(table.limits or file.LimitsTable(), (*path, "limits"), findings)
    security = _security(table.security or file.SecurityTable(), (*path, "security"), findings)
    read_only = given.pop("read_only") or security.read_only_root
    given["security"] = replace(security, read_only_root=read_only)
    numbers = {name: run_values.ulimit_numbers(one) for name, one in (table.ulimits or {}).items()}
    given["ulimits"] = {name: model.Ulimit(soft=soft, hard=hard) for name, (soft, hard) in numbers.items()}
    given["health"] = health_of(table, (*path, "health"), findings)
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
    memory, reserved = given.get("memory"), given.get("memory_reservation")
    if isinstance(memory, int) and isinstance(reserved, int) and reserved > memory:
        message = f"is more than memory, which is {format_memory(memory)}; make it less"
        findings.append(Finding((*path, "memory_reservation"), message))
    if table.swap is not None and table.memory is None:
        message = "counts beside a limit of memory, and there is none; give memory, or remove it"
        findings.append(Finding((*path, "swap"), message))
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
    return model.Security(**given, **lists)


def _schedule(
    table: file.PodTable, given: Mapping[str, Any], findings: list[Finding]
) -> model.Schedule | None:
    """Return when a job runs; None for a pod that is none."""
    if table.schedule is None:
        for key in ("time_zone", "catch_up", "timeout"):
            if getattr(table, key) is not None:
                message = 'is for a job; give schedule = "0 3 * * *", or remove it'
                findings.append(Finding((key,), message))
        return None
    if table.restart == "always":
        message = 'a job would never end; write "never", or "on-failure", or remove schedule'
        findings.append(Finding(("restart",), message))
    if table.update is not None and table.update.rollback:
        message = "re-running the job of an older revision is never right; remove it, or schedule"
        findings.append(Finding(("update", "rollback"), message))
    return model.Schedule(
        cron=given["schedule"],
        time_zone=given.get("time_zone", ""),
        catch_up=bool(table.catch_up),
        timeout=given.get("timeout"),
    )


def _sysctls(table: file.PodTable, findings: list[Finding]) -> dict[str, str]:
    """Return the pod's parameters of the kernel, each by its one name."""
    found: dict[str, str] = {}
    for given, value in (table.sysctls or {}).items():
        if not is_of_pods(given):
            continue
        # What is wrong with a name or a value alone has its finding.
        with contextlib.suppress(ValueError):
            name = sysctl_name(given)
            if table.network == "host" and is_network_sysctl(name):
                message = 'would be the machine\'s with network = "host"; set it in /etc/sysctl.d of the host'
                findings.append(Finding(("sysctls", given), message))
            elif name in found:
                findings.append(Finding(("sysctls", given), f"{show(name)} is given twice; remove one"))
            found[name] = sysctl_value(value)
    return found
