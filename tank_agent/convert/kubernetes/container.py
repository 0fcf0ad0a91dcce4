"""A container of a pod as Kubernetes has it, with its probes."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from tank_agent.spec.findings import KeyPath
from tank_agent.spec.model import Container, HealthCheck, Limits

_PULLS = {"missing": "IfNotPresent", "always": "Always", "never": "Never"}
# What a kubelet reads in words and values: a dollar, and a reference, which it fills in if it knows the name.
_DOLLARS = re.compile(r"\$(?:\$|\(([^)]*)\))")
# Of the API server's Service, in each container.
_GIVEN = "KUBERNETES_"
Object = dict[str, Any]


def container_of(one: Container) -> tuple[Object, list[tuple[KeyPath, str]]]:
    """Return a container without ports, mounts and probes, and what of it is lost."""
    lost: list[tuple[KeyPath, str]] = []
    found: Object = {
        "name": one.name,
        "image": (one.image or "localhost/rootfs").removeprefix("docker://"),
        "imagePullPolicy": _PULLS[one.pull] if one.pull else None,
        "command": None if one.command is None else list(one.command),
        "args": None if one.args is None else list(one.args),
        "env": [{"name": name, "value": _literal(text, one.env)} for name, text in one.env.items()] or None,
        "workingDir": one.working_dir,
        "tty": True if one.tty else None,
        "stdin": True if one.tty else None,
        "resources": _resources(one.limits),
        "securityContext": _security(one, lost),
    }
    for group in one.groups:
        if not group.isdigit():
            lost.append((("groups",), f"{group}: Kubernetes knows groups by number only; write that"))
    for key in ("command", "args"):
        words = found[key]
        found[key] = None if words is None else [_literal(word, one.env) for word in words]
    if one.image and one.image.startswith(("oci:", "oci-archive:", "docker-archive:")):
        lost.append((("image",), "is a file of this machine; push it to a registry, and name it there"))
    return {key: value for key, value in found.items() if value is not None and value != {}}, lost


def _literal(text: str, names: Collection[str]) -> str:
    """Return what a kubelet reads as the text itself.

    Only what it would change is written otherwise: podman, which fills in nothing, takes the rest as it is.
    """

    def written(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "$$$$"
        return f"${found[0]}" if name in names or name.startswith(_GIVEN) else found[0]

    return _DOLLARS.sub(written, text)


def _resources(limits: Limits) -> Object:
    wanted = {"memory": _bytes(limits.memory_reservation)}
    most = {
        "memory": _bytes(limits.memory),
        "cpu": None if limits.cpu is None else f"{round(limits.cpu.quota * 1000 / limits.cpu.period)}m",
    }
    tables = {"requests": wanted, "limits": most}
    kept = {key: {name: text for name, text in table.items() if text} for key, table in tables.items()}
    return {key: table for key, table in kept.items() if table}


def _bytes(size: int | None) -> str | None:
    if size is None:
        return None
    return f"{size >> 20}Mi" if size % (1 << 20) == 0 else str(size)


def _security(one: Container, lost: list[tuple[KeyPath, str]]) -> Object:
    security = one.security
    user, _, group = (one.user or "").partition(":")
    for word in (user, group):
        if word and not word.isdigit():
            lost.append(
                (("user",), f"{word}: Kubernetes knows users by number only; write that, or the image's")
            )
    capabilities = {
        "add": [name.removeprefix("CAP_") for name in security.add] or None,
        "drop": [name.removeprefix("CAP_") for name in security.drop] or None,
    }
    found: Object = {
        "runAsUser": int(user) if user.isdigit() else None,
        "runAsGroup": int(group) if group.isdigit() else None,
        "readOnlyRootFilesystem": True if security.read_only_root else None,
        "privileged": True if security.privileged else None,
        "allowPrivilegeEscalation": None if security.privileged or "CAP_SYS_ADMIN" in security.add else False,
        "capabilities": {key: names for key, names in capabilities.items() if names} or None,
        "seccompProfile": _profile(security.seccomp, one.security.privileged),
        "appArmorProfile": None if security.apparmor == "default" else _profile(security.apparmor, False),
    }
    return {key: value for key, value in found.items() if value is not None}


def _profile(name: str, privileged: bool) -> Object | None:
    if privileged:
        return None
    if name == "default":
        return {"type": "RuntimeDefault"}
    if name == "unconfined":
        return {"type": "Unconfined"}
    return {"type": "Localhost", "localhostProfile": name.strip("/")}


def probes_of(health: HealthCheck | None, names: Collection[str]) -> Object:
    """Return the probes of a container: one for the start, one that others wait for, one that restarts.

    Args:
        names: the variables that the container is given.
    """
    if health is None or not (health.http or health.tcp or health.exec):
        return {}
    probe = _probe(health, names)
    interval = health.interval or (30.0 if health.exec else 10.0)
    times = {
        "periodSeconds": max(1, round(interval)),
        "timeoutSeconds": max(1, round(health.timeout or 5.0)),
    }
    failures = {"failureThreshold": health.retries or 3}
    start = 60.0 if health.start_period is None else health.start_period
    often = max(1, round(health.start_interval or 1.0))
    found = {"readinessProbe": {**probe, **times, **failures}}
    if health.on_failure != "none":
        found["livenessProbe"] = {**probe, **times, **failures}
    if start:
        first = {"periodSeconds": often, "failureThreshold": max(1, round(start / often))}
        found["startupProbe"] = {**probe, **times, **first}
    return found


def _probe(health: HealthCheck, names: Collection[str]) -> Object:
    if health.exec is not None:
        return {"exec": {"command": [_literal(word, names) for word in health.exec]}}
    if health.tcp is not None:
        return {"tcpSocket": {"port": health.tcp}}
    http = health.http
    assert http is not None
    asked: Object = {"path": http.path, "port": http.port}
    asked |= {"scheme": "HTTPS"} if http.tls else {}
    headers = [{"name": name, "value": text} for name, text in http.headers.items()]
    return {"httpGet": asked | ({"httpHeaders": headers} if headers else {})}
