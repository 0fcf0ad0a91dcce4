"""Pods that leave for another tool: what its format says of each key of a pod file, and what it can't say."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from tank_agent.convert.model import Remark, SourcePlace
from tank_agent.spec.findings import KeyPath, key_text
from tank_agent.spec.model import EVERYWHERE, Pod, Selector
from tank_agent.spec.render import render_pod


class Leaving(Struct, frozen=True, kw_only=True):
    """A pod, its selector, and where it comes from: `lines` are those of its keys in `file`."""

    pod: Pod
    file: str
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    selector: Selector = EVERYWHERE

    def place(self, path: KeyPath) -> SourcePlace:
        """Return the line of a key, or of the nearest table around it."""
        for count in range(len(path), 0, -1):
            if path[:count] in self.lines:
                return SourcePlace(self.file, self.lines[path[:count]])
        return SourcePlace(self.file)

    def lost(self, path: KeyPath, message: str) -> Remark:
        """Return the remark that a key is not in the other format."""
        return Remark(kind="lost", place=self.place(path), key=key_text(path), message=message)


class Exported(Struct, frozen=True, kw_only=True):
    """The other tool's files by their names, and the remarks on keys that they can't say."""

    files: dict[str, bytes]
    remarks: tuple[Remark, ...] = ()


# The keys that every format has.
_SAID = """
    containers containers.name containers.image containers.pull containers.command containers.args
    containers.env containers.env_file containers.working_dir containers.user containers.groups
    containers.tty containers.stop_grace containers.mounts containers.mounts.volume
    containers.mounts.file containers.mounts.secret containers.mounts.tmpfs containers.mounts.path
    containers.mounts.read_only containers.mounts.subpath containers.mounts.mode
    containers.read_only containers.shm_size containers.limits containers.limits.memory
    containers.limits.cpu containers.limits.cpu.quota containers.limits.cpu.period
    containers.limits.memory_reservation containers.security containers.security.capabilities
    containers.security.capabilities.add containers.security.capabilities.drop
    containers.security.read_only_root containers.security.privileged containers.security.seccomp
    containers.security.apparmor containers.init containers.health containers.health.exec
    containers.health.image containers.health.interval containers.health.timeout
    containers.health.retries containers.health.start_period containers.health.on_failure name
    restart network network.dns network.dns_search network.dns_options network.extra_hosts ports
    volumes volumes.name volumes.host volumes.shared files files.name files.source files.content
    files.base64 secrets secrets.name sysctls hostname update
"""
SAID_BY_ALL = tuple(_SAID.split())
_OF_NICS = ("nics", "nics.name", "nics.mode", "nics.parent", "nics.ip", "nics.gateway")
_OF_ROLLOUTS = ("min_healthy", "deadline", "max_restarts", "rollback")


class Answers(Struct, frozen=True, kw_only=True):
    """What a format says of each key: `said` are those that it has, `lost` has a sentence for each other.

    Keys are paths without the numbers of lists, such as "containers.health.tcp".
    """

    said: Collection[str]
    lost: Mapping[str, str]


def without_nics(message: str) -> dict[str, str]:
    """Return the answer to each key of interfaces on the LAN."""
    return dict.fromkeys((f"network.{key}" for key in _OF_NICS), message)


def without_rollouts(message: str) -> dict[str, str]:
    """Return the answer to each key about what an update has to show."""
    return dict.fromkeys((f"update.{key}" for key in _OF_ROLLOUTS), message)


def losses(leaving: Leaving, answers: Answers) -> list[Remark]:
    """Return a remark on each key that the pod has and the format has not."""
    document: dict[str, Any] = tomllib.loads(render_pod(leaving.pod))
    selector = leaving.selector
    document |= {"hosts": list(selector.hosts)} if selector.hosts else {}
    document |= {"labels": dict(selector.labels)} if selector.labels else {}
    return [
        leaving.lost(path, answers.lost[name])
        for path, name in _paths(document, (), "", answers)
        if name in answers.lost
    ]


def _paths(value: object, path: KeyPath, name: str, answers: Answers) -> Iterator[tuple[KeyPath, str]]:
    """Yield each key of a document; a table whose keys the user chooses is one."""
    if isinstance(value, dict):
        for key, item in value.items():
            below = f"{name}.{key}".lstrip(".")
            if below in answers.said or below in answers.lost:
                yield (*path, key), below
                if below not in answers.lost:
                    yield from _paths(item, (*path, key), below, answers)
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _paths(item, (*path, at), name, answers)
