"""The host's kind of control groups, and the groups of this agent (cgroups(7)).

A host is `unified` (cgroup v2 at /sys/fs/cgroup), or `split` (v1 controllers, with or without an empty v2
beside them). All containers are below one group, so that a sweep misses none: `<base>/<pod>/<run>` in every
hierarchy.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

ROOT = Path("/sys/fs/cgroup")
_DEFAULT_RUN_DIR = Path("/run/tank")
# The unit beside the agent's, whose group is delegated to the agent: its processes outlive the agent.
_PODS_UNIT = "tank-pods.service"
_OWN_GROUP = re.compile(r"^0::(.*?)/tank-(?:agent|pods)\.service(?:/|$)", re.MULTILINE)


class CgroupHost(Struct, frozen=True, kw_only=True):
    """The host's cgroup layout.

    `hierarchies` are mount points: one on a unified host, one per controller otherwise. `base` is the agent's
    own group below each of them, with a leading slash; `monitors` is the group of the containers' monitors,
    None if they stay in the agent's.
    """

    mode: Literal["unified", "split"]
    hierarchies: tuple[Path, ...]
    base: str
    monitors: str | None = None

    def path(self, pod: str, run: str) -> str:
        """Return a container's group, in the form of OCI's `cgroupsPath`."""
        return f"{self.base}/{pod}/{run}"

    def place_monitor(self, pid: int) -> None:
        """Move a container's monitor into the group in which it outlives the agent."""
        if self.monitors is not None:
            group = self.hierarchies[0] / self.monitors.lstrip("/")
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(pid))

    def directories(self, path: str) -> Iterator[Path]:
        """Yield the directories of a group that exist."""
        for hierarchy in self.hierarchies:
            directory = hierarchy / path.lstrip("/")
            if directory.is_dir():
                yield directory

    def processes(self, path: str) -> frozenset[int]:
        """Return the processes in a group and below it."""
        found: set[int] = set()
        for group in self._tree(path):
            with contextlib.suppress(OSError):
                found.update(map(int, (group / "cgroup.procs").read_text().split()))
        return frozenset(found)

    def processes_of_one(self, path: str) -> frozenset[int]:
        """Return what `processes` does, by one hierarchy alone: in a tenth of the time on a split host."""
        found: set[int] = set()
        for group, _, _ in os.walk(f"{self.hierarchies[0]}{path}"):
            with contextlib.suppress(OSError), open(f"{group}/cgroup.procs") as file:
                found.update(map(int, file.read().split()))
        return frozenset(found)

    def frozen(self, path: str) -> bool:
        """Return whether a group is frozen, by itself or with one above it."""
        # Of v1, then of v2.
        for name, words in (("freezer.state", ("FROZEN", "FREEZING")), ("cgroup.events", ("frozen 1",))):
            for hierarchy in self.hierarchies:
                if self.mode == "split" and "freezer" not in hierarchy.name:
                    continue
                with contextlib.suppress(OSError), open(f"{hierarchy}{path}/{name}") as file:
                    text = file.read()
                    return any(word in text for word in words)
        return False

    def thaw(self, path: str) -> None:
        """Thaw a group and all below it, if they are frozen: on v1 no signal ends a frozen process."""
        for group in self._tree(path):
            for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                if (group / name).exists():
                    # Gone with its last process.
                    with contextlib.suppress(OSError):
                        (group / name).write_text(value)

    def remove(self, path: str) -> bool:
        """Remove a group, all below it, and its pod's if it is empty; False if a process is still in it."""
        gone = [_remove_directory(group) for group in self._tree(path, topdown=False)]
        for pod in self.directories(path.rpartition("/")[0]):
            _remove_directory(pod)
        return all(gone)

    def sweep(self, keep: Collection[str]) -> tuple[str, ...]:
        """Remove every group that is not in `keep` and holds no process; return those that remain."""
        pods = [pod for hierarchy in self.hierarchies for pod in _children(hierarchy / self.base.lstrip("/"))]
        groups = {self.path(pod.name, run.name) for pod in pods for run in _children(pod)}
        busy = tuple(path for path in groups.difference(keep) if not self.remove(path))
        for pod in pods:
            _remove_directory(pod)
        return busy

    def remove_base(self) -> None:
        """Remove the agent's own groups if they are empty."""
        for directory in self.directories(self.base):
            for pod in _children(directory):
                _remove_directory(pod)
            _remove_directory(directory)
        for directory in self.directories(self.monitors) if self.monitors is not None else ():
            _remove_directory(directory)

    def _tree(self, path: str, *, topdown: bool = True) -> Iterator[Path]:
        for directory in self.directories(path):
            for below, _, _ in os.walk(directory, topdown=topdown):
                yield Path(below)


def detect(run_dir: Path, *, root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> CgroupHost:
    """Find out which kind of host this is, and choose the agent's group.

    It is named after run_dir, so that two agents of one machine never sweep each other's containers. Under
    the package's units it is in the group of the pods' unit, which systemd delegates
    (docs/decisions/0010-packaging.md).
    """
    digest = hashlib.sha256(os.fsencode(run_dir)).hexdigest()
    name = "tank" if run_dir == _DEFAULT_RUN_DIR else f"tank-{digest[:8]}"
    if (root / "cgroup.controllers").exists():
        delegated = _delegated(own, root)
        return CgroupHost(
            mode="unified",
            hierarchies=(root,),
            base=f"{delegated}/{name}",
            monitors=f"{delegated}/{name}-monitors" if delegated else None,
        )
    hierarchies = tuple(sorted(entry for entry in _children(root) if not entry.is_symlink()))
    split = tuple(entry for entry in hierarchies if not (entry / "cgroup.controllers").exists())
    return CgroupHost(mode="split", hierarchies=split, base=f"/{name}")


def _delegated(own: Path, root: Path) -> str:
    """Return the group of the pods' unit, or nothing where neither it nor the agent's unit runs the agent."""
    found = _OWN_GROUP.search(own.read_text())
    group = f"{found[1]}/{_PODS_UNIT}" if found is not None else ""
    return group if group and (root / group.lstrip("/")).is_dir() else ""


def _children(directory: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _remove_directory(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True
