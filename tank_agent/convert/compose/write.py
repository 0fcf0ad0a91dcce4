"""Write pods as one compose project: a service a container, that of a pod in one network namespace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tank_agent.convert.compose.answers import ANSWERS
from tank_agent.convert.leaving import Exported, Leaving, losses
from tank_agent.convert.model import Remark
from tank_agent.convert.yaml_text import yaml_text
from tank_agent.spec.model import (
    DEFAULT_BRIDGES,
    Container,
    HealthCheck,
    Mount,
    Pod,
    RestartPolicy,
    Ulimit,
)
from tank_agent.spec.quantities import format_duration, format_memory

_FILE = "compose.yaml"
_RESTARTS = {
    RestartPolicy.ALWAYS: "always",
    RestartPolicy.ON_FAILURE: "on-failure",
    RestartPolicy.NEVER: "no",
}
# What can be written in a container whose root file system can't be.
_SCRATCH = ["/tmp", "/run", "/var/tmp"]  # noqa: S108


def write(pods: Sequence[Leaving]) -> Exported:
    """Return the compose file of pods, and a placeholder for each secret that it can't have."""
    project = _Project(pods)
    for one in pods:
        project.add(one)
    return project.done()


class _Project:
    def __init__(self, pods: Sequence[Leaving]) -> None:
        self._pods = {one.pod.name: one.pod for one in pods}
        self.remarks: list[Remark] = []
        self.files: dict[str, bytes] = {}
        self.services: dict[str, Any] = {}
        self.top: dict[str, dict[str, Any]] = {"networks": {}, "volumes": {}, "configs": {}, "secrets": {}}

    def done(self) -> Exported:
        name = next(iter(self._pods)) if len(self._pods) == 1 else "pods"
        tables = {key: value for key, value in self.top.items() if value}
        document = {"name": name, "services": self.services, **tables}
        text = yaml_text(_escaped(document))
        return Exported(files={_FILE: text.encode(), **self.files}, remarks=tuple(self.remarks))

    def add(self, leaving: Leaving) -> None:
        self.remarks += losses(leaving, ANSWERS)
        pod = leaving.pod
        names = _service_names(pod)
        owner = _owner(pod)
        for at, container in enumerate(pod.containers):
            service = self._service(leaving, container, at, names)
            if container is owner or container.init:
                service |= self._network(pod, published=container is owner)
            else:
                service["network_mode"] = f"service:{names[owner.name]}"
            self.services[names[container.name]] = {
                # An empty command is one: the image's own doesn't count.
                key: value
                for key, value in service.items()
                if value or (key == "command" and value is not None)
            }

    def _service(
        self, leaving: Leaving, container: Container, at: int, names: dict[str, str]
    ) -> dict[str, Any]:
        pod = leaving.pod
        grace = format_duration(container.stop_grace) if container.stop_grace != 10.0 else None
        return {
            "image": container.image or f"localhost/{pod.name}",
            "pull_policy": container.pull,
            "restart": "no" if container.init else _RESTARTS[pod.restart],
            "entrypoint": None if container.command is None else list(container.command),
            "command": None if container.args is None else list(container.args),
            "environment": dict(container.env),
            "working_dir": container.working_dir,
            "user": container.user,
            "group_add": list(container.groups),
            "tty": container.tty,
            "stop_signal": container.stop_signal,
            "stop_grace_period": grace,
            "depends_on": self._depends_on(leaving, container, at, names),
            **self._mounts(pod, container),
            **_limits(container),
            **_security(container),
            "healthcheck": self._health(leaving, container.health, at),
        }

    def _network(self, pod: Pod, *, published: bool) -> dict[str, Any]:
        """Return the keys of the service that has the network, or of an init container beside it."""
        found = self._joined(pod, published=published)
        return found | ({"hostname": pod.hostname} if pod.hostname else {})

    def _joined(self, pod: Pod, *, published: bool) -> dict[str, Any]:
        network = pod.network
        if network.mode in ("host", "none"):
            return {"network_mode": network.mode, **({"sysctls": dict(pod.sysctls)} if published else {})}
        bridges = network.bridges if network.mode == "bridge" else DEFAULT_BRIDGES
        if bridges != DEFAULT_BRIDGES:
            self.top["networks"] |= {name: {} for name in bridges if name not in DEFAULT_BRIDGES}
        networks: Any = [] if bridges == DEFAULT_BRIDGES else list(bridges)
        if network.aliases and published:
            networks = {bridge: {"aliases": list(network.aliases)} for bridge in bridges}
        return {
            "networks": networks,
            "ports": [str(port) for port in pod.ports] if published else [],
            "dns": list(network.dns),
            "dns_search": list(network.dns_search),
            "dns_opt": list(network.dns_options),
            "extra_hosts": [f"{name}={address}" for name, address in network.extra_hosts.items()],
            "sysctls": dict(pod.sysctls) if published else {},
        }

    def _depends_on(
        self, leaving: Leaving, container: Container, at: int, names: dict[str, str]
    ) -> dict[str, Any]:
        pod = leaving.pod
        found: dict[str, Any] = {}
        earlier = [one for one in pod.containers if one.init]
        if container.init:
            earlier = earlier[: earlier.index(container)]
        for one in earlier:
            found[names[one.name]] = {"condition": "service_completed_successfully"}
        for name in container.after:
            other = next(one for one in pod.containers if one.name == name)
            found[names[name]] = {"condition": _condition(other)}
        if container.init or container is not _owner(pod):
            return found
        for index, name in enumerate(pod.after):
            before = self._pods.get(name)
            if before is None:
                message = f"{name} is not among these pods; add it to depends_on"
                self.remarks.append(leaving.lost(("after", index), message))
                continue
            known = _service_names(before)
            for one in before.containers:
                if not one.init:
                    found[known[one.name]] = {"condition": _condition(one)}
        return found

    def _mounts(self, pod: Pod, container: Container) -> dict[str, Any]:
        volumes: list[dict[str, Any]] = []
        found: dict[str, list[dict[str, Any]]] = {"configs": [], "secrets": []}
        hosts = {volume.name: volume for volume in pod.volumes}
        for mount in container.mounts:
            options: dict[str, Any] = {"read_only": True} if mount.read_only else {}
            if mount.tmpfs is not None:
                size = {"size": mount.tmpfs}
                volumes.append({"type": "tmpfs", "target": mount.path, "tmpfs": size})
            elif mount.volume is not None and (host := hosts[mount.volume].host) is not None:
                source = f"{host}/{mount.subpath}" if mount.subpath else host
                volumes.append({"type": "bind", "source": source, "target": mount.path, **options})
            elif mount.volume is not None:
                source = self._volume(pod, mount.volume, shared=hosts[mount.volume].shared)
                # A directory of a volume is never filled, nor need that be said.
                options |= {"volume": {"subpath": mount.subpath}} if mount.subpath else _nocopy(mount)
                volumes.append({"type": "volume", "source": source, "target": mount.path, **options})
            elif mount.file is not None:
                found["configs"].append(self._granted(pod, mount, "configs", mount.file))
            elif mount.secret is not None:
                found["secrets"].append(self._granted(pod, mount, "secrets", mount.secret))
        scratch = _SCRATCH if container.security.read_only_root else []
        taken = {mount.path for mount in container.mounts}
        return {"volumes": volumes, "tmpfs": [path for path in scratch if path not in taken], **found}

    def _volume(self, pod: Pod, name: str, *, shared: bool) -> str:
        others = [one for one in self._pods.values() if one is not pod]
        clash = not shared and any(volume.name == name for one in others for volume in one.volumes)
        key = f"{pod.name}-{name}" if clash else name
        # A name of its own has no project before it.
        self.top["volumes"][key] = {"name": name} if shared else {}
        return key

    def _granted(self, pod: Pod, mount: Mount, table: str, name: str) -> dict[str, Any]:
        """Return a service's entry for a file or a secret, and define it for the project."""
        several = len(self._pods) > 1
        key = f"{pod.name}-{name}" if several else name
        if table == "configs":
            content = next(one.content for one in pod.files if one.name == name)
            self.top["configs"][key] = self._content(key, content)
        else:
            secret = next(one for one in pod.secrets if one.name == name)
            path = f"./secrets/{key}"
            if secret.host is None:
                self.files[f"secrets/{key}"] = b""
            self.top["secrets"][key] = {"file": secret.host or path}
        user, _, group = (mount.owner or "").partition(":")
        owner = {"uid": user, "gid": group or user} if user.isdigit() else {}
        return {"source": key, "target": mount.path, **owner, "mode": f"{mount.permissions:04o}"}

    def _content(self, key: str, content: bytes) -> dict[str, str]:
        try:
            return {"content": content.decode()}
        except UnicodeDecodeError:
            self.files[f"configs/{key}"] = content
            return {"file": f"./configs/{key}"}

    def _health(self, leaving: Leaving, health: HealthCheck | None, at: int) -> dict[str, Any]:
        if health is None or health.http is not None or health.tcp is not None:
            return {}
        if health.exec is None and not health.image:
            return {"disable": True}
        found: dict[str, Any] = {}
        if health.exec is not None:
            shell = health.exec[:2] == ("/bin/sh", "-c") and len(health.exec) == 3
            found["test"] = ["CMD-SHELL", health.exec[2]] if shell else ["CMD", *health.exec]
            if health.on_failure != "none":
                message = "docker only marks what is unhealthy; nothing is restarted for it"
                path = ("containers", at, "health", "on_failure")
                self.remarks.append(leaving.lost(path, message))
        times = {
            "interval": health.interval or (30.0 if health.exec else None),
            "timeout": health.timeout or (5.0 if health.exec else None),
            "start_period": health.start_period
            if health.start_period is not None
            else (60.0 if health.exec else None),
            "start_interval": health.start_interval,
        }
        found |= {key: format_duration(value) for key, value in times.items() if value is not None}
        return found | ({"retries": health.retries} if health.retries else {})


def _nocopy(mount: Mount) -> dict[str, Any]:
    return {} if mount.from_image else {"volume": {"nocopy": True}}


def _owner(pod: Pod) -> Container:
    """Return the container whose service has the network that the others share.

    It waits for none of them, since each of them waits for it.
    """
    kept = {one.name for one in pod.containers if not one.init}
    return next(one for one in pod.containers if one.name in kept and kept.isdisjoint(one.after))


def _service_names(pod: Pod) -> dict[str, str]:
    """Return the services of a pod by its containers; a pod is reached by its own name."""
    owner = _owner(pod)
    return {
        one.name: pod.name if one is owner else f"{pod.name}-{one.name}".removeprefix("-")
        for one in pod.containers
    }


def _condition(container: Container) -> str:
    if container.init:
        return "service_completed_successfully"
    health = container.health
    return "service_healthy" if health is not None and health.exec is not None else "service_started"


def _limits(container: Container) -> dict[str, Any]:
    limits = container.limits
    swap = None if limits.memory is None else limits.memory + (limits.swap or 0)
    weight = limits.cpu_weight
    return {
        "mem_limit": limits.memory and format_memory(limits.memory),
        "memswap_limit": swap and format_memory(swap),
        "mem_reservation": limits.memory_reservation and format_memory(limits.memory_reservation),
        "cpus": limits.cpu and limits.cpu.quota / limits.cpu.period,
        # The other way round than crun's conversion of shares.
        "cpu_shares": weight and 2 + ((weight - 1) * 262_142) // 9999,
        "cpuset": limits.cpus,
        "pids_limit": limits.pids,
        "shm_size": container.shm_size and format_memory(container.shm_size),
        "ulimits": {name: _ulimit(one) for name, one in container.ulimits.items()},
    }


def _ulimit(one: Ulimit) -> Any:
    return one.soft if one.soft == one.hard else {"soft": one.soft, "hard": one.hard}


def _security(container: Container) -> dict[str, Any]:
    security = container.security
    options = [] if security.privileged else ["no-new-privileges:true"]
    options += [f"seccomp={security.seccomp}"] if security.seccomp != "default" else []
    options += [f"apparmor={security.apparmor}"] if security.apparmor != "default" else []
    return {
        "read_only": security.read_only_root,
        "privileged": security.privileged,
        "cap_add": [name.removeprefix("CAP_") for name in security.add],
        "cap_drop": [name.removeprefix("CAP_") for name in security.drop],
        "security_opt": options,
        "devices": list(security.devices),
    }


def _escaped(value: Any) -> Any:
    """Double each dollar sign, which would begin a variable."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value
