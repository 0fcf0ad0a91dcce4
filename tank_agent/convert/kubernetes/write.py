"""Write a pod as objects of Kubernetes: a Deployment or a job, its Service, claims, and configuration."""

from __future__ import annotations

import base64
import posixpath
import re
from collections.abc import Sequence
from typing import Any

from tank_agent.convert.kubernetes.answers import ANSWERS
from tank_agent.convert.kubernetes.container import container_of, probes_of
from tank_agent.convert.leaving import Exported, Leaving, losses
from tank_agent.convert.model import Remark
from tank_agent.convert.yaml_text import yaml_text
from tank_agent.spec.model import HOST_GATEWAY, Container, Mount, RestartPolicy

_SIZE = "1Gi"
_SCRATCH = ("/tmp", "/run", "/var/tmp")  # noqa: S108
_PLACEHOLDER = "REPLACE-ME"
_NOT_READ = "a mounted secret is root's, and closed to this user; mode 0440 and fsGroup open it"
_NO_KEY = re.compile(r"[^A-Za-z0-9._-]")

Object = dict[str, Any]


def write(pods: Sequence[Leaving]) -> Exported:
    """Return one file of objects for each pod."""
    files: dict[str, bytes] = {}
    remarks: list[Remark] = []
    claimed: set[str] = set()
    for one in pods:
        objects = _Objects(one, claimed)
        texts = [yaml_text(clean(found)) for found in objects.all()]
        files[f"{one.pod.name}.yaml"] = "---\n".join(texts).encode()
        remarks += [*losses(one, ANSWERS), *objects.remarks]
    return Exported(files=files, remarks=tuple(remarks))


def clean(value: Any) -> Any:
    """Return a value without keys that have nothing; an empty list of words stays."""
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items() if item is not None and item != {}}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return value


class _Objects:
    def __init__(self, leaving: Leaving, claimed: set[str]) -> None:
        self._leaving = leaving
        self._pod = leaving.pod
        self._claimed = claimed
        self._labels = {"app.kubernetes.io/name": leaving.pod.name}
        self.remarks: list[Remark] = []
        self.volumes: dict[str, Object] = {}

    def all(self) -> list[Object]:
        """Return the objects in the order in which they need each other."""
        template = self._template()
        return [*self._contents(), *self._claims(), self._workload(template), *self._service()]

    def _object(self, version: str, kind: str, name: str, **keys: Any) -> Object:
        metadata = {"name": name, "labels": dict(self._labels)}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **keys}

    def _workload(self, template: Object) -> Object:
        pod, schedule = self._pod, self._pod.schedule
        if pod.restart is RestartPolicy.ALWAYS:
            spec = {
                "replicas": 1,
                "selector": {"matchLabels": dict(self._labels)},
                # Two at a time would have one volume, or one port of the node.
                "strategy": {"type": "Recreate"},
                "template": template,
            }
            return self._object("apps/v1", "Deployment", pod.name, spec=spec)
        # A failed run is not begun anew, as restart says; else as often as Kubernetes does.
        limit = 0 if pod.restart is RestartPolicy.NEVER else None
        timeout = None if schedule is None or schedule.timeout is None else int(schedule.timeout)
        job = {"backoffLimit": limit, "activeDeadlineSeconds": timeout, "template": template}
        if schedule is None:
            return self._object("batch/v1", "Job", pod.name, spec=job)
        spec = {
            "schedule": schedule.cron,
            "timeZone": schedule.time_zone or None,
            "concurrencyPolicy": "Forbid",
            # Kubernetes makes up for a missed run unless it is too late; a minute is "not at all".
            "startingDeadlineSeconds": None if schedule.catch_up else 60,
            "jobTemplate": {"spec": job},
        }
        return self._object("batch/v1", "CronJob", pod.name, spec=spec)

    def _template(self) -> Object:
        pod, network = self._pod, self._pod.network
        main = [one for one in pod.containers if not one.init]
        policy = {"always": "Always", "on-failure": "OnFailure", "never": "Never"}[pod.restart.value]
        hosts = {name: at for name, at in network.extra_hosts.items() if at != HOST_GATEWAY}
        for name in network.extra_hosts.keys() - hosts.keys():
            path = ("network", "extra_hosts", name)
            self.remarks.append(self._leaving.lost(path, "the node has no name in a pod; write its address"))
        resolver = {
            "nameservers": list(network.dns) or None,
            "searches": list(network.dns_search) or None,
            "options": [_option(text) for text in network.dns_options] or None,
        }
        asked = {key: value for key, value in resolver.items() if value}
        groups = sorted({int(group) for one in pod.containers for group in one.groups if group.isdigit()})
        security = {
            "sysctls": [{"name": name, "value": text} for name, text in pod.sysctls.items()] or None,
            "supplementalGroups": groups or None,
        }
        spec: Object = {
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": max(1, round(max(one.stop_grace for one in pod.containers))),
            "hostname": pod.hostname or None,
            "hostNetwork": network.mode == "host" or None,
            "hostUsers": False if any(one.security.userns == "auto" for one in pod.containers) else None,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "dnsPolicy": "None" if network.dns else None,
            "dnsConfig": asked or None,
            "hostAliases": [{"ip": at, "hostnames": [name]} for name, at in hosts.items()] or None,
            "securityContext": {key: value for key, value in security.items() if value} or None,
            "initContainers": [self._container(one) for one in pod.containers if one.init] or None,
            "containers": [self._container(one, published=one is main[0]) for one in main],
        }
        if self.volumes:
            spec["volumes"] = list(self.volumes.values())
        return {"metadata": {"labels": dict(self._labels)}, "spec": spec}

    def _container(self, one: Container, *, published: bool = False) -> Object:
        mounts = [self._mount(one, mount) for mount in one.mounts]
        taken = {mount.path for mount in one.mounts}
        if one.security.read_only_root:
            mounts += [self._memory(one, path, None) for path in _SCRATCH if path not in taken]
        if one.shm_size is not None:
            mounts.append(self._memory(one, "/dev/shm", one.shm_size))  # noqa: S108
        at = self._pod.containers.index(one)
        found, messages = container_of(one)
        self.remarks += [self._leaving.lost(("containers", at, *path), text) for path, text in messages]
        self.remarks += [
            self._leaving.lost(("containers", at, "mounts", number), _NOT_READ)
            for number, mount in enumerate(one.mounts)
            if _is_closed_to_user(one, mount)
        ]
        ports = [
            {
                "containerPort": port.pod + offset,
                "hostPort": port.host + offset,
                "hostIP": port.address,
                "protocol": port.protocol.upper(),
            }
            for port in self._pod.ports
            for offset in range(port.count)
        ]
        probes = (
            {}
            if one.init or self._pod.restart is not RestartPolicy.ALWAYS
            else probes_of(one.health, one.env)
        )
        ports_key = {"ports": ports} if published and ports else {}
        return found | ports_key | probes | ({"volumeMounts": mounts} if mounts else {})

    def _mount(self, one: Container, mount: Mount) -> Object:
        found: Object = {"mountPath": mount.path, "readOnly": True if mount.read_only else None}
        if mount.tmpfs is not None:
            return self._memory(one, mount.path, mount.tmpfs)
        if mount.volume is not None:
            volume = next(volume for volume in self._pod.volumes if volume.name == mount.volume)
            source = {"persistentVolumeClaim": {"claimName": self._claim(volume.name, volume.shared)}}
            if volume.host is not None:
                source = {"hostPath": {"path": volume.host}}
            self._add(f"volume-{volume.name}", source)
            return {"name": f"volume-{volume.name}"[:63], **found, "subPath": mount.subpath or None}
        kind = "file" if mount.file is not None else "secret"
        name = mount.file or mount.secret or ""
        volume_name = f"{kind}-{name}-{mount.permissions:o}"
        # Podman has one volume of all that mount the same object, and knows no mode of an item.
        keys: Object = {"items": [{"key": name, "path": name}], "defaultMode": mount.permissions}
        whole = f"{self._pod.name}-{kind}s"
        # Podman 4.3 ends in a panic without "optional".
        contents: Object = (
            {"configMap": {"name": whole, **keys, "optional": False}}
            if kind == "file"
            else {"secret": {"secretName": whole, **keys, "optional": False}}
        )
        self._add(volume_name, contents)
        return {"name": volume_name[:63], **found, "subPath": name, "readOnly": True}

    def _memory(self, one: Container, path: str, size: int | None) -> Object:
        name = f"memory-{one.name}-{_NO_KEY.sub('-', posixpath.normpath(path).strip('/').lower())}"
        name = name.replace("/", "-").replace(".", "-").replace("_", "-")[:63].strip("-")
        limit = None if size is None else str(size)
        self._add(name, {"emptyDir": {"medium": "Memory", "sizeLimit": limit}})
        return {"name": name, "mountPath": path}

    def _add(self, name: str, source: Object) -> None:
        self.volumes[name] = {"name": name[:63], **source}

    def _claim(self, name: str, shared: bool) -> str:
        return name if shared else f"{self._pod.name}-{name}"

    def _claims(self) -> list[Object]:
        found = []
        for at, volume in enumerate(self._pod.volumes):
            name = self._claim(volume.name, volume.shared)
            if volume.host is not None or name in self._claimed:
                continue
            self._claimed.add(name)
            spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": _SIZE}}}
            found.append(self._object("v1", "PersistentVolumeClaim", name, spec=spec))
            message = f"asks for {_SIZE} of the cluster's default storage; write how much it needs"
            note = Remark(
                kind="note",
                place=self._leaving.place(("volumes", at)),
                key=f"volumes[{at}]",
                message=message,
            )
            self.remarks.append(note)
        return found

    def _contents(self) -> list[Object]:
        pod, found = self._pod, []
        if pod.files:
            texts, binary = {}, {}
            for one in pod.files:
                try:
                    texts[one.name] = one.content.decode()
                except UnicodeDecodeError:
                    binary[one.name] = base64.b64encode(one.content).decode()
            data = {"data": texts or None, "binaryData": binary or None}
            found.append(self._object("v1", "ConfigMap", f"{pod.name}-files", **data))
        if pod.secrets:
            values = {one.name: _PLACEHOLDER for one in pod.secrets}
            found.append(
                self._object("v1", "Secret", f"{pod.name}-secrets", type="Opaque", stringData=values)
            )
        return found

    def _service(self) -> list[Object]:
        """Return the name by which other pods reach this one; it stands for all of its ports."""
        if self._pod.network.mode not in ("bridge", "nics") or self._pod.restart is not RestartPolicy.ALWAYS:
            return []
        spec = {"clusterIP": "None", "selector": dict(self._labels)}
        return [self._object("v1", "Service", self._pod.name, spec=spec)]


def _is_closed_to_user(one: Container, mount: Mount) -> bool:
    """Return whether a secret is the container's user's here, and readable by root alone there."""
    is_other = one.user is not None and one.user.partition(":")[0] not in {"0", "root"}
    return mount.secret is not None and mount.owner is None and is_other and not mount.permissions & 0o004


def _option(text: str) -> dict[str, str]:
    name, colon, value = text.partition(":")
    return {"name": name, "value": value} if colon else {"name": name}
