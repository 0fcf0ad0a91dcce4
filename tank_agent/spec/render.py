"""Writes a pod as a pod file that reads back as an equal pod; what is at its default is left out."""

from __future__ import annotations

from typing import Any

from tank_agent.spec.model import Container, CpuLimit, Limits, Mount, Network, Nic, Pod, Security, Volume
from tank_agent.spec.quantities import CPU_PERIOD, format_duration, format_memory
from tank_agent.spec.toml_text import Inline, write_toml

_DEFAULT_GRACE = 10.0


def render_pod(pod: Pod) -> str:
    """Return the TOML text of a pod, as `tank get` prints it."""
    return write_toml(
        {
            "name": pod.name,
            "restart": pod.restart.value,
            "network": _network(pod.network) if pod.network.mode == "nics" else pod.network.mode,
            "volumes": [_volume(volume) for volume in pod.volumes] or None,
            "containers": [_container(container) for container in pod.containers],
        }
    )


def _network(network: Network) -> dict[str, Any]:
    return {"dns": list(network.dns) or None, "nics": [_nic(nic) for nic in network.nics]}


def _nic(nic: Nic) -> dict[str, Any]:
    return {
        "name": nic.name,
        "mode": None if nic.mode == "macvlan" else nic.mode,
        "parent": None if nic.parent == "auto" else nic.parent,
        "ip": _one_or_more(nic.ip),
        "gateway": _one_or_more(nic.gateway),
    }


def _one_or_more(values: tuple[str, ...]) -> str | list[str] | None:
    return values[0] if len(values) == 1 else list(values) or None


def _volume(volume: Volume) -> dict[str, Any]:
    return {"name": volume.name, "host": volume.host}


def _container(container: Container) -> dict[str, Any]:
    return {
        "name": container.name,
        "image": container.image,
        "pull": container.pull,
        "rootfs": container.rootfs,
        "command": None if container.command is None else list(container.command),
        "args": None if container.args is None else list(container.args),
        "env": Inline(container.env) if container.env else None,
        "working_dir": container.working_dir,
        "user": container.user,
        "tty": container.tty or None,
        "stop_signal": container.stop_signal,
        "stop_grace": None if container.stop_grace == _DEFAULT_GRACE else _grace(container.stop_grace),
        "mounts": [_mount(mount) for mount in container.mounts] or None,
        "limits": _limits(container.limits) if container.limits != Limits() else None,
        "security": _security(container.security) if container.security != Security() else None,
    }


def _grace(seconds: float) -> str | float:
    text = format_duration(seconds)
    # The few times that no text says exactly are written as a number of seconds.
    return text if text[-1].isalpha() else seconds


def _mount(mount: Mount) -> dict[str, Any]:
    return {"volume": mount.volume, "path": mount.path, "read_only": mount.read_only or None}


def _limits(limits: Limits) -> dict[str, Any]:
    return {
        "memory": None if limits.memory is None else format_memory(limits.memory),
        "pids": limits.pids,
        "cpu": None if limits.cpu is None else _cpu(limits.cpu),
    }


def _security(security: Security) -> dict[str, Any]:
    capabilities = {"add": list(security.add), "drop": list(security.drop)}
    given = {key: names for key, names in capabilities.items() if names}
    return {
        "capabilities": Inline(given) if given else None,
        "read_only_root": security.read_only_root or None,
        "privileged": security.privileged or None,
        "seccomp": None if security.seccomp == "default" else security.seccomp,
        "apparmor": None if security.apparmor == "default" else security.apparmor,
        "devices": list(security.devices) or None,
        "userns": None if security.userns == "host" else security.userns,
    }


def _cpu(limit: CpuLimit) -> float | Inline:
    cores = limit.quota / CPU_PERIOD
    if limit.period == CPU_PERIOD and cores <= 1024:
        return cores
    return Inline({"quota": limit.quota, "period": limit.period})
