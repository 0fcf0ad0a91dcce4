"""Write pods as Quadlet's units: a .container each, a .pod around those of one pod, .volume and .network."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from tank_agent.convert.leaving import Exported, Leaving, losses
from tank_agent.convert.model import Remark
from tank_agent.convert.quadlet import calendar
from tank_agent.convert.quadlet.answers import ANSWERS
from tank_agent.spec.model import DEFAULT_BRIDGES, Container, HealthCheck, Mount, Pod, RestartPolicy
from tank_agent.spec.quantities import format_duration, format_memory

_PLAIN = re.compile(r"[A-Za-z0-9_./:@+,=-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
# Podman's own "default" has no names.
_COMMON = "pods"

Line = tuple[str, str]


class _Text:
    """The sections of a unit."""

    def __init__(self) -> None:
        self._sections: dict[str, list[str]] = {}

    def add(self, section: str, key: str, value: str | None) -> None:
        """Add an assignment; None adds none."""
        if value is not None:
            self._sections.setdefault(section, []).append(f"{key}={value}")

    def bytes(self) -> bytes:
        """Return the text of the unit."""
        parts = [
            "\n".join([f"[{section}]", *lines, ""])
            for section in ("Unit", "Container", "Pod", "Volume", "Network", "Service", "Timer", "Install")
            if (lines := self._sections.get(section))
        ]
        return "\n".join(parts).encode()


def write(pods: Sequence[Leaving]) -> Exported:
    """Return the units of pods, and the files that they mount."""
    writer = _Writer(pods)
    for one in pods:
        writer.add(one)
    return Exported(files=writer.files, remarks=tuple(writer.remarks))


def value(text: str) -> str:
    """Return a text as the value of a key: no specifier, and no variable of systemd."""
    return text.replace("%", "%%").replace("$", "$$")


def word(text: str) -> str:
    """Return a text as one word of a list."""
    if _PLAIN.fullmatch(text):
        return value(text)
    quoted = "".join(_ESCAPES.get(character, character) for character in text)
    return f'"{value(quoted)}"'


class _Writer:
    def __init__(self, pods: Sequence[Leaving]) -> None:
        self._pods = {one.pod.name: one.pod for one in pods}
        self.files: dict[str, bytes] = {}
        self.remarks: list[Remark] = []

    def add(self, leaving: Leaving) -> None:
        self.remarks += losses(leaving, ANSWERS)
        pod = leaving.pod
        if _is_alone(pod):
            text = _Text()
            self._network(text, "Container", pod)
            self._container(leaving, 0, text)
            self._install(pod, text)
            self.files[f"{pod.name}.container"] = text.bytes()
        else:
            self._whole(leaving)
        if pod.schedule is not None:
            self.files[f"{pod.name}.timer"] = _timer(pod)

    def _whole(self, leaving: Leaving) -> None:
        pod, text = leaving.pod, _Text()
        text.add("Pod", "PodName", pod.name)
        self._network(text, "Pod", pod)
        if any(one.security.userns == "auto" for one in pod.containers):
            text.add("Pod", "UserNS", "auto")
        for name, amount in pod.sysctls.items():
            text.add("Pod", "PodmanArgs", word(f"--sysctl={name}={amount}"))
        self._order(leaving, text)
        self._install(pod, text)
        self.files[f"{pod.name}.pod"] = text.bytes()
        for at, container in enumerate(pod.containers):
            unit = _Text()
            unit.add("Container", "Pod", f"{pod.name}.pod")
            self._container(leaving, at, unit)
            self.files[f"{_unit(pod, container)}.container"] = unit.bytes()

    def _install(self, pod: Pod, text: _Text) -> None:
        if pod.schedule is None:
            text.add("Install", "WantedBy", "multi-user.target default.target")

    def _order(self, leaving: Leaving, text: _Text) -> None:
        for at, name in enumerate(leaving.pod.after):
            before = self._pods.get(name)
            if before is None:
                message = f"{name} is not among these pods; write After= for its service"
                self.remarks.append(leaving.lost(("after", at), message))
            else:
                service = f"{name}.service" if _is_alone(before) else f"{name}-pod.service"
                text.add("Unit", "After", service)
                text.add("Unit", "Wants", service)

    def _network(self, text: _Text, section: str, pod: Pod) -> None:
        network = pod.network
        if pod.hostname:
            own = section == "Container"
            text.add(
                section,
                "HostName" if own else "PodmanArgs",
                pod.hostname if own else f"--hostname={pod.hostname}",
            )
        if network.mode in ("host", "none"):
            text.add(section, "Network", network.mode)
        elif network.bridges != DEFAULT_BRIDGES or network.aliases or len(self._pods) > 1:
            for bridge in network.bridges or DEFAULT_BRIDGES:
                name = _COMMON if bridge in DEFAULT_BRIDGES else bridge
                unit = _Text()
                unit.add("Network", "NetworkName", name)
                self.files[f"{name}.network"] = unit.bytes()
                text.add(section, "Network", f"{name}.network")
        for name in network.aliases:
            text.add(section, "NetworkAlias", value(name))
        for port in pod.ports:
            text.add(section, "PublishPort", str(port))
        for key, words in (
            ("DNS", network.dns),
            ("DNSSearch", network.dns_search),
            ("DNSOption", network.dns_options),
        ):
            for one in words:
                text.add(section, key, value(one))
        for name, address in network.extra_hosts.items():
            text.add(section, "AddHost", f"{value(name)}:{address}")

    def _container(self, leaving: Leaving, at: int, text: _Text) -> None:
        pod, one = leaving.pod, leaving.pod.containers[at]
        alone = _is_alone(pod)
        if alone:
            self._order(leaving, text)
        self._order_inside(pod, one, text)
        text.add("Container", "ContainerName", pod.name if alone else _unit(pod, one))
        lines: list[Line] = []
        lines += _program(one)
        lines += [(key, text) for key, text in _security(one, alone=alone)]
        lines += _limits(one)
        lines += [("Sysctl", word(f"{name}={amount}")) for name, amount in pod.sysctls.items() if alone]
        lines += self._mounts(leaving, at)
        lines += self._health(one.health)
        lines += [("AutoUpdate", "registry")] if pod.update.image == "digest" else []
        if "" in (one.args or ()):
            message = "podman's generator (5.4) drops an empty word, and all behind it; write it otherwise"
            self.remarks.append(leaving.lost(("containers", at, "args"), message))
        for key, given in lines:
            text.add("Container", key, given)
        if one.init or pod.schedule is not None:
            text.add("Service", "Type", "oneshot")
            text.add("Service", "RemainAfterExit", "yes" if pod.schedule is None else None)
        elif pod.restart is not RestartPolicy.NEVER:
            text.add("Service", "Restart", pod.restart.value)
        if pod.schedule is not None and pod.schedule.timeout is not None:
            text.add("Service", "TimeoutStartSec", format_duration(pod.schedule.timeout))

    def _order_inside(self, pod: Pod, one: Container, text: _Text) -> None:
        earlier = [other for other in pod.containers if other.init and other is not one]
        if one.init:
            earlier = [other for other in earlier if pod.containers.index(other) < pod.containers.index(one)]
        for other in earlier:
            text.add("Unit", "Requires", f"{_unit(pod, other)}.service")
            text.add("Unit", "After", f"{_unit(pod, other)}.service")
        for name in one.after:
            other = next(found for found in pod.containers if found.name == name)
            text.add("Unit", "After", f"{_unit(pod, other)}.service")

    def _mounts(self, leaving: Leaving, at: int) -> list[Line]:
        pod, lines = leaving.pod, []
        volumes = {volume.name: volume for volume in pod.volumes}
        for index, mount in enumerate(pod.containers[at].mounts):
            path = ("containers", at, "mounts", index)
            read_only = ":ro" if mount.read_only else ""
            if mount.tmpfs is not None:
                lines.append(("Tmpfs", f"{word(mount.path)}:size={mount.tmpfs}"))
            elif mount.volume is not None and (host := volumes[mount.volume].host) is not None:
                source = f"{host}/{mount.subpath}" if mount.subpath else host
                lines.append(("Volume", f"{value(source)}:{value(mount.path)}{read_only}"))
            elif mount.volume is not None:
                source = self._volume(pod, mount.volume, shared=volumes[mount.volume].shared)
                lines.append(_managed(source, mount))
            elif mount.file is not None:
                lines.append(("Volume", f"./{self._beside(pod, mount.file)}:{value(mount.path)}:ro"))
                if mount.mode is not None or mount.owner is not None:
                    message = "a file that is mounted has the mode and the owner that it has on the host"
                    self.remarks.append(leaving.lost(path, message))
            elif mount.secret is not None:
                lines.append(("Secret", _secret(pod, mount)))
        return lines

    def _volume(self, pod: Pod, name: str, *, shared: bool) -> str:
        own = name if shared else f"{pod.name}-{name}"
        text = _Text()
        text.add("Volume", "VolumeName", own)
        self.files[f"{own}.volume"] = text.bytes()
        return f"{own}.volume"

    def _beside(self, pod: Pod, name: str) -> str:
        path = f"{pod.name}-files/{name}"
        self.files[path] = next(one.content for one in pod.files if one.name == name)
        return path

    def _health(self, health: HealthCheck | None) -> list[Line]:
        if health is None or health.http is not None or health.tcp is not None:
            return []
        if health.exec is None and not health.image:
            return [("HealthCmd", "none")]
        lines: list[Line] = []
        start = health.start_period
        if health.exec is not None:
            shell = health.exec[:2] == ("/bin/sh", "-c") and len(health.exec) == 3
            plain = shell and health.exec[2].isprintable() and health.exec[2][:1].isalnum()
            command = health.exec[2] if plain else json.dumps(["CMD", *health.exec], ensure_ascii=False)
            lines = [
                ("HealthCmd", value(command)),
                ("HealthOnFailure", "none" if health.on_failure == "none" else "kill"),
                ("Notify", "healthy"),
            ]
            start = 60.0 if start is None else start
        asked = health.exec is not None
        times = {
            "HealthInterval": health.interval,
            "HealthTimeout": health.timeout or (5.0 if asked else None),
            "HealthStartPeriod": start,
        }
        lines += [(key, format_duration(time)) for key, time in times.items() if time is not None]
        return lines + ([("HealthRetries", str(health.retries))] if health.retries else [])


def _is_alone(pod: Pod) -> bool:
    return len(pod.containers) == 1


def _unit(pod: Pod, container: Container) -> str:
    return pod.name if _is_alone(pod) else f"{pod.name}-{container.name}"


def _program(one: Container) -> list[Line]:
    lines: list[Line] = [("Image", value(one.image))] if one.image else []
    lines += [("Rootfs", value(one.rootfs))] if one.rootfs else []
    lines += [("Pull", one.pull)] if one.pull else []
    if one.command is not None:
        lines.append(("Entrypoint", value(json.dumps(list(one.command), ensure_ascii=False))))
    if one.args:
        lines.append(("Exec", " ".join(map(word, one.args))))
    lines += [("Environment", word(f"{name}={text}")) for name, text in one.env.items()]
    lines += [("WorkingDir", value(one.working_dir))] if one.working_dir else []
    if one.user:
        user, _, group = one.user.partition(":")
        lines += [("User", user), *([("Group", group)] if group else [])]
    lines += [("GroupAdd", group) for group in one.groups]
    lines += [("PodmanArgs", "--tty")] if one.tty else []
    lines += [("StopSignal", one.stop_signal)] if one.stop_signal else []
    if one.stop_grace != 10.0:
        lines.append(("StopTimeout", f"{one.stop_grace:.0f}"))
    return lines


def _security(one: Container, *, alone: bool) -> list[Line]:
    security = one.security
    lines: list[Line] = [] if security.privileged else [("NoNewPrivileges", "true")]
    lines += [("PodmanArgs", "--privileged")] if security.privileged else []
    lines += [("DropCapability", name.removeprefix("CAP_")) for name in security.drop]
    lines += [("AddCapability", name.removeprefix("CAP_")) for name in security.add]
    lines += [("SeccompProfile", value(security.seccomp))] if security.seccomp != "default" else []
    if security.apparmor != "default":
        lines.append(("PodmanArgs", word(f"--security-opt=apparmor={security.apparmor}")))
    lines += [("AddDevice", word(device)) for device in security.devices]
    lines += [("UserNS", "auto")] if security.userns == "auto" and alone else []
    return lines + ([("ReadOnly", "true")] if security.read_only_root else [])


def _limits(one: Container) -> list[Line]:
    limits = one.limits
    weight = limits.cpu_weight
    swap = None if limits.memory is None else limits.memory + (limits.swap or 0)
    flags = {
        "memory": limits.memory and format_memory(limits.memory).lower(),
        "memory-swap": swap and format_memory(swap).lower(),
        "memory-reservation": limits.memory_reservation and format_memory(limits.memory_reservation).lower(),
        "cpus": limits.cpu and f"{limits.cpu.quota / limits.cpu.period:g}",
        "cpu-shares": weight and str(2 + ((weight - 1) * 262_142) // 9999),
        "cpuset-cpus": limits.cpus,
    }
    lines: list[Line] = [("PodmanArgs", word(f"--{name}={text}")) for name, text in flags.items() if text]
    lines += [("PidsLimit", str(limits.pids))] if limits.pids else []
    lines += [("ShmSize", format_memory(one.shm_size).lower())] if one.shm_size else []
    return lines + [
        (
            "Ulimit",
            f"{name}={limit.soft}" if limit.soft == limit.hard else f"{name}={limit.soft}:{limit.hard}",
        )
        for name, limit in one.ulimits.items()
    ]


def _managed(source: str, mount: Mount) -> Line:
    """Return the line of a volume of podman; the short form has no directory in it."""
    if not mount.subpath:
        words = [*(["ro"] if mount.read_only else []), *([] if mount.from_image else ["nocopy"])]
        return "Volume", ":".join([source, value(mount.path), *([",".join(words)] if words else [])])
    options = f"type=volume,source={source},destination={mount.path},subpath={mount.subpath}"
    return "Mount", word(f"{options},ro" if mount.read_only else options)


def _secret(pod: Pod, mount: Mount) -> str:
    user, _, group = (mount.owner or "").partition(":")
    owner = f",uid={user},gid={group or user}" if user.isdigit() else ""
    return word(f"{pod.name}-{mount.secret},target={mount.path}{owner},mode={mount.permissions:04o}")


def _timer(pod: Pod) -> bytes:
    text = _Text()
    schedule = pod.schedule
    assert schedule is not None
    for time in calendar.times(schedule.cron):
        text.add("Timer", "OnCalendar", f"{time} {schedule.time_zone}".strip())
    if schedule.catch_up:
        text.add("Timer", "Persistent", "true")
    if not _is_alone(pod):
        text.add("Timer", "Unit", f"{pod.name}-pod.service")
    text.add("Install", "WantedBy", "timers.target")
    return text.bytes()
