"""Check the values of a pod's table, each by its declaration and all together; make the normalised Pod."""

from __future__ import annotations

from collections.abc import Mapping

from tank_agent.spec import file, model, values
from tank_agent.spec.findings import Finding, KeyPath, closest, show
from tank_agent.spec.keys import checked
from tank_agent.spec.network_checks import network_of, ports_of
from tank_agent.spec.quantities import CPU_CORES_MAX, CPU_PERIOD_MAX, CPU_PERIOD_MIN, CPU_QUOTA_MIN

_GUESSES_MAX = 100


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
        network=network_of(table, name, findings),
        ports=ports_of(given["ports"], findings),
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
