"""Check the health checks, the order and the updates of a pod's table, each as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tank_agent.spec import file, health_values, model, order
from tank_agent.spec.findings import Finding, KeyPath, Noting, closest, show
from tank_agent.spec.keys import checked
from tank_agent.spec.values import check_once

_PROBES = ("http", "tcp", "exec")
_GUESSES_MAX = 100


def health_of(
    container: file.ContainerTable, path: KeyPath, findings: list[Finding]
) -> model.HealthCheck | None:
    """Return a container's health check; None for what its image says."""
    table = container.health
    if table is None:
        return None
    given = checked(table, path, findings)
    if table.http is not None:
        given["http"] = _http(table.http, (*path, "http"), findings)
    if table.exec is not None:
        with Noting((*path, "exec"), findings):
            health_values.check_command(table.exec)
    probes = [key for key in _PROBES if getattr(table, key) is not None]
    for key in probes[1:]:
        findings.append(
            Finding((*path, key), f"a container has one probe, and {probes[0]} is given; remove one")
        )
    if probes:
        # What the image says does not count then.
        given["image"] = True
    elif container.rootfs is not None and container.image is None:
        message = "a rootfs says nothing about health; give http, tcp or exec, or remove the table"
        findings.append(Finding(path, message))
    elif not table.image and len(given) > 1:
        message = "leaves nothing that the other keys could be about; give http, tcp or exec, or remove them"
        findings.append(Finding((*path, "image"), message))
    found = model.HealthCheck(**given)
    return None if found == model.HealthCheck() else found


def _http(table: file.HttpTable, path: KeyPath, findings: list[Finding]) -> model.HttpProbe:
    given = checked(table, path, findings)
    with Noting((*path, "headers"), findings):
        health_values.check_headers(table.headers or {})
    return model.HttpProbe(**given)


def update_of(table: file.PodTable, findings: list[Finding]) -> model.Update:
    """Return what a new revision of the pod must show."""
    path, update = ("update",), table.update or file.UpdateTable()
    before = len(findings)
    given = checked(update, path, findings)
    # What is no time, or out of range, has its own finding.
    if len(findings) == before and given["deadline"] <= given["min_healthy"]:
        key = "deadline" if update.deadline != file.UpdateTable().deadline else "min_healthy"
        shortest, longest = show(update.min_healthy), show(update.deadline)
        message = f"a deadline of {longest} leaves no time for a min_healthy of {shortest}; make it longer"
        findings.append(Finding((*path, key), message))
    if table.restart == "never" and update.rollback:
        message = 're-running the job of an older revision is never right; remove it, or restart = "never"'
        findings.append(Finding((*path, "rollback"), message))
    return model.Update(**given)


def check_order(tables: Sequence[file.ContainerTable], findings: list[Finding]) -> None:
    """Check which containers run first, and which wait for others."""
    known = {table.name: table for table in reversed(tables)}
    if tables and all(table.init for table in tables):
        message = "all containers are init, which run before the others; one must be left that is not"
        findings.append(Finding(("containers",), message))
    rows: dict[str, Sequence[str]] = {}
    for index, table in enumerate(tables):
        path: KeyPath = ("containers", index)
        if table.init and table.health is not None:
            message = "an init container runs to its end, and is never asked; remove it, or init"
            findings.append(Finding((*path, "health"), message))
        if table.init and table.after:
            message = "init containers run one by one, in the order of the file; move it, and remove after"
            findings.append(Finding((*path, "after"), message))
        elif table.after:
            before = len(findings)
            _check_after(table, (*path, "after"), known, findings)
            if len(findings) == before:
                rows[table.name] = table.after
    _check_circle(tables, rows, findings)


def _check_after(
    table: file.ContainerTable,
    path: KeyPath,
    known: Mapping[str, file.ContainerTable],
    findings: list[Finding],
) -> None:
    check_once(table.after, path, findings)
    for index, name in enumerate(table.after):
        where = (*path, index)
        if name == table.name:
            findings.append(Finding(where, "a container can't wait for itself; remove it"))
        elif name in known and known[name].init:
            message = f"{show(name)} is an init container, and those run first anyway; remove it"
            findings.append(Finding(where, message))
        # A container without a name has its own finding, and may be the one that is meant here.
        elif name not in known and "" not in known:
            guess = closest(name, _guessed(known, findings))
            right = f"did you mean {show(guess)}?" if guess else "other pods go into the pod's own after"
            findings.append(Finding(where, f"no container of this pod has the name {show(name)}; {right}"))


def _guessed(known: Mapping[str, object], findings: list[Finding]) -> list[str]:
    # A guess takes time, and nobody reads more than the first.
    return [] if len(findings) > _GUESSES_MAX else list(known)[:_GUESSES_MAX]


def _check_circle(
    tables: Sequence[file.ContainerTable], rows: Mapping[str, Sequence[str]], findings: list[Finding]
) -> None:
    cycle = order.find_cycle(rows) if rows else None
    if cycle is not None:
        index = next(at for at, table in enumerate(tables) if table.name in cycle)
        text = order.cycle_text(cycle, tables[index].name)
        findings.append(Finding(("containers", index, "after"), order.in_a_circle(text)))


def pods_before(table: file.PodTable, name: str, findings: list[Finding]) -> tuple[str, ...]:
    """Return the pods that must be ready before this one starts."""
    check_once(table.after, ("after",), findings)
    for index, other in enumerate(table.after):
        if other == name:
            findings.append(Finding(("after", index), "a pod can't wait for itself; remove it"))
    return table.after


def check_volumes(tables: Sequence[file.VolumeTable], findings: list[Finding]) -> None:
    """Check that only volumes are copied or shared that the agent manages, and not both."""
    for index, table in enumerate(tables):
        if table.snapshot and table.host is not None:
            message = "a directory of the host is never copied or put back; remove snapshot, or host"
            findings.append(Finding(("volumes", index, "snapshot"), message))
        if table.shared and table.host is not None:
            message = "a directory of the host is the same for all pods anyway; remove shared, or host"
            findings.append(Finding(("volumes", index, "shared"), message))
        if table.shared and table.snapshot:
            message = "putting back a copy would undo what other pods wrote; remove snapshot, or shared"
            findings.append(Finding(("volumes", index, "snapshot"), message))
