"""Make pod files of a set of Quadlet's units: a pod of each container, and one of all that share a .pod."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tank_agent.convert.draft import settled
from tank_agent.convert.model import Conversion, NewPodFile, Remark
from tank_agent.convert.names import free, valid
from tank_agent.convert.quadlet import keys, network, service, storage, systemd_keys
from tank_agent.convert.quadlet.draft import ContainerDraft, PodDraft, Remarks
from tank_agent.convert.quadlet.read import Units, read_units
from tank_agent.convert.quadlet.rules import Runner
from tank_agent.convert.quadlet.unit import Unit
from tank_agent.spec.file import ContainerTable, PodTable

_STRENGTH = ("never", "on-failure", "always")
_HOST_NAME = re.compile("[a-z0-9][a-z0-9_.-]{0,62}")
_LAST = ("sysctls", "update", "volumes", "files", "secrets", "containers")


def convert(paths: Sequence[Path], home: str, real: Callable[[str], str] = str) -> Conversion:
    """Return the pod files of units: files, or directories with all below.

    `home` is what %h means, and `real` returns what a path of the host is behind symbolic links.

    Raises:
        TankError: a path can't be read, or there is no unit of Quadlet in any.
    """
    return _Conversion(replace(read_units(paths, home), real=real)).done()


class _Conversion:
    def __init__(self, units: Units) -> None:
        self.units = units
        self.remarks = Remarks()
        self.remarks.all += units.remarks
        self.pods: dict[str, PodDraft] = {}
        self.of_unit: dict[str, tuple[PodDraft, str]] = {}
        self.heads: list[tuple[PodDraft, ContainerDraft]] = []

    def done(self) -> Conversion:
        for unit in self.units.of("pod"):
            self._pod(unit)
        containers = [unit for unit in self.units.of("container") if self._is_whole(unit)]
        for unit in containers:
            self._container(unit)
        for pod, head in self.heads:
            _give(pod, head)
        for kind in ("network", "volume", "image", "build", "kube"):
            for unit in self.units.of(kind):
                self._other(unit)
        self._timers()
        services = service.Services(self.units, lambda unit: self.of_unit.get(unit.file), self.remarks)
        for unit in self.units.found:
            services.order(unit)
        self._share()
        files = [file for pod in self.pods.values() if (file := self._file(pod))]
        order = {unit.file: at for at, unit in enumerate(self.units.found)}
        remarks = sorted(self.remarks.all, key=lambda one: (order.get(one.place.file, 0), one.place.line))
        return Conversion(files=tuple(files), remarks=tuple(remarks))

    def _is_whole(self, unit: Unit) -> bool:
        if unit.name.endswith("@"):
            message = f"is a template; make a link {unit.name}NAME.container to it for each instance"
            self.remarks.lost(unit.place, message, "Install.DefaultInstance")
            return False
        if not unit.all("Container", "Image") and not unit.all("Container", "Rootfs"):
            self.remarks.lost(
                unit.place, "there is nothing to run, neither Image nor Rootfs", "Container.Image"
            )
            return False
        return True

    def _new_pod(self, wanted: str, unit: Unit) -> PodDraft:
        name = free(valid(wanted), self.pods)
        pod = self.pods[name] = PodDraft(name, unit.place)
        called = f"systemd-{unit.name}"
        mentioned = any(called in entry.text for other in self.units.found for entry in other.entries)
        for alias in (wanted.lower(), *([called] if mentioned else ())):
            if alias != name and _HOST_NAME.fullmatch(alias):
                pod.add_network("aliases", alias)
        return pod

    def _pod(self, unit: Unit) -> None:
        pod = self._new_pod(unit.text("Pod", "PodName") or unit.name, unit)
        head = ContainerDraft(unit, self.units, pod, self.remarks, "")
        self.of_unit[unit.file] = (pod, "")
        self.heads.append((pod, head))
        self._run(unit, "Pod", head)

    def _container(self, unit: Unit) -> tuple[PodDraft, str]:
        if unit.file in self.of_unit:
            return self.of_unit[unit.file]
        own = unit.text("Container", "ContainerName") or unit.name
        pod = self._shared_pod(unit) or self._new_pod(own, unit)
        # Podman's names are the machine's; ours are the pod's.
        name = free(valid(own).removeprefix(f"{pod.name}-"), {one.name for one in pod.containers})
        draft = ContainerDraft(unit, self.units, pod, self.remarks, name)
        pod.containers.append(draft)
        self.of_unit[unit.file] = (pod, name)
        self._run(unit, "Container", draft)
        return pod, name

    def _shared_pod(self, unit: Unit) -> PodDraft | None:
        """Return the pod that a container joins by Pod=, or by the network of another container."""
        named = unit.text("Container", "Pod")
        other = self.units.named(named) if named else None
        if other is not None:
            return self.of_unit[other.file][0]
        if named:
            entry = unit.last("Container", "Pod")
            self.remarks.lost(entry or unit.place, f"there is no {named} among the units; it has its own pod")
            return None
        for entry in unit.all("Container", "Network"):
            mode, _, name = entry.text.partition(":")
            name = mode if mode.endswith(".container") else f"{name}.container" if mode == "container" else ""
            joined = self.units.named(name) if name else None
            if joined is not None and joined is not unit and joined.name != unit.name:
                return self._container(joined)[0]
        return None

    def _run(self, unit: Unit, section: str, draft: ContainerDraft) -> None:
        runner = Runner(draft, self.units)
        runner.run(section, keys.SECTIONS[section])
        runner.podman_args(section)
        runner.run("Quadlet", keys.QUADLET)
        for name, table in systemd_keys.SECTIONS.items():
            runner.run(name, table)
        runner.other_sections(section)
        for key in ("Description",):
            text = unit.text("Unit", key)
            if text and text not in draft.pod.comments:
                draft.pod.comments.append(text)
        has_timer = any(timer.name == unit.name for timer in self.units.of("timer"))
        in_pod = bool(unit.text("Container", "Pod"))
        service.at_boot(unit, self.remarks, has_timer=has_timer, in_pod=in_pod)

    def _other(self, unit: Unit) -> None:
        """Say what becomes of a unit that is no pod by itself."""
        draft = ContainerDraft(unit, self.units, PodDraft("x", unit.place), self.remarks, "")
        runner = Runner(draft, self.units)
        if unit.kind == "kube":
            message = "is Kubernetes's YAML, which is not read here: write a pod file, see `tank schema`"
            self.remarks.lost(unit.last("Kube", "Yaml") or unit.place, message, "Kube.Yaml")
            return
        section = unit.kind.capitalize()
        runner.run(section, keys.SECTIONS[section])
        if unit.kind == "volume":
            self._volume(unit)
        if unit.kind == "network" and unit.text("Network", "Driver") not in ("", "bridge", "macvlan"):
            entry = unit.last("Network", "Driver")
            self.remarks.lost(entry or unit.place, "the LAN is reached by macvlan here", "Network.Driver")

    def _volume(self, unit: Unit) -> None:
        entry = unit.last("Volume", "Device") or unit.last("Volume", "Driver")
        mounted = unit.text("Volume", "Device") or unit.text("Volume", "Driver") not in ("", "local")
        if entry is not None and mounted and not storage.bound_directory(unit):
            message = (
                "no file system is mounted for a volume: mount it on the host (/etc/fstab), and give that "
                f"directory as host of the volume {valid(unit.name)}"
            )
            self.remarks.lost(entry, message)

    def _timers(self) -> None:
        for pod in self.pods.values():
            policies = {}
            for one in pod.containers:
                policies[one.name] = service.restart(one.unit, self.remarks)
            strongest = max(policies.values(), key=_STRENGTH.index, default="never")
            for one in pod.containers:
                if policies[one.name] != strongest:
                    entry = one.unit.last("Service", "Restart")
                    message = f"a pod has one policy, {strongest} here, since another container has it"
                    self.remarks.lost(entry or one.unit.place, message, "Service.Restart")
            pod.keys["restart"] = strongest
        for timer in self.units.of("timer"):
            target = timer.text("Timer", "Unit") or f"{timer.name}.service"
            unit = self.units.named(f"{target.removesuffix('.service')}.container")
            if unit is None or unit.file not in self.of_unit:
                message = f"starts {target}, which is none of these containers"
                self.remarks.lost(timer.place, message, "Timer.Unit")
                continue
            pod = self.of_unit[unit.file][0]
            Runner(ContainerDraft(timer, self.units, pod, self.remarks, ""), self.units).run(
                "Timer", systemd_keys.TIMER
            )
            service.schedule(pod, timer, self.remarks)
            service.timeout(unit, pod)

    def _share(self) -> None:
        """Make one volume for all of those that several pods have of podman's store."""
        users: dict[str, int] = {}
        for pod in self.pods.values():
            for store in set(pod.stores.values()):
                users[store] = users.get(store, 0) + 1
        for pod in self.pods.values():
            for name, store in list(pod.stores.items()):
                if users[store] > 1:
                    _rename(pod, name, valid(store.removeprefix("systemd-")))

    def _file(self, pod: PodDraft) -> NewPodFile | None:
        if not pod.containers:
            self.remarks.lost(pod.place, "no container of these units is in this pod", "Pod.PodName")
            return None
        published = [
            entry
            for unit in self.units.found
            for entry in unit.entries
            if entry.key == "PublishPort" and self.of_unit.get(unit.file, (None,))[0] is pod
        ]
        network.finish(pod, published, self.remarks)
        table: dict[str, Any] = dict(pod.keys)
        if pod.volumes:
            table["volumes"] = [{"name": name, **given} for name, given in pod.volumes.items()]
        table["containers"] = [_container_table(one) for one in pod.containers]
        comments = (
            *pod.comments,
            f"from {', '.join(dict.fromkeys(one.unit.file for one in pod.containers))}",
        )
        made = NewPodFile(name=pod.name, pod=_sorted(table), beside=pod.beside, comments=comments)
        remarks: list[Remark] = []
        file = settled(made, pod.containers[0].unit.place, remarks)
        self.remarks.all += remarks
        return file


def _container_table(draft: ContainerDraft) -> dict[str, Any]:
    table = dict(draft.keys)
    health = table.get("health")
    if isinstance(health, dict) and health.get("image") is False:
        table["health"] = {"image": False}
    security = table.get("security")
    if isinstance(security, dict) and security.get("privileged"):
        given = {key: security[key] for key in ("capabilities", "devices", "seccomp") if key in security}
        table["security"] = {key: value for key, value in security.items() if key not in given}
        if given:
            message = f"gives everything; {', '.join(given)} are left out, which change nothing then"
            draft.remarks.note(draft.unit.place, message, "Container.PodmanArgs --privileged")
    order = [name for name in ContainerTable.__struct_fields__ if name in table]
    return {"name": draft.name, **{name: table[name] for name in order}}


def _sorted(table: Mapping[str, Any]) -> dict[str, Any]:
    known = [name for name in PodTable.__struct_fields__ if name in table and name not in _LAST]
    new = [name for name in table if name not in PodTable.__struct_fields__]
    return {name: table[name] for name in (*known, *new, *(name for name in _LAST if name in table))}


def _give(pod: PodDraft, head: ContainerDraft) -> None:
    """Give all containers of a pod what its own unit asks for."""
    for container in pod.containers:
        for key, value in head.keys.items():
            if key == "mounts":
                mounts = container.keys.setdefault("mounts", [])
                paths = {mount["path"] for mount in mounts}
                mounts += [mount for mount in value if mount["path"] not in paths]
            elif isinstance(value, dict):
                container.keys[key] = {**value, **container.keys.get(key, {})}
            else:
                container.keys.setdefault(key, value)


def _rename(pod: PodDraft, name: str, wanted: str) -> None:
    """Give a volume the name that all pods call it by, and share it."""
    new = wanted if wanted not in pod.volumes or wanted == name else name
    pod.volumes = {
        (new if one == name else one): ({"shared": True} if one == name else given)
        for one, given in pod.volumes.items()
    }
    for container in pod.containers:
        for mount in container.keys.get("mounts", ()):
            if mount.get("volume") == name:
                mount["volume"] = new
