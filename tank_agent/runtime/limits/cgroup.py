"""Control groups: which kind of host this is, and the groups that are ours (cgroups(7)).

A host is `unified` (cgroup v2 at /sys/fs/cgroup), or `split` (v1 controllers, with or without an empty v2
beside them). Containers are put below one group of ours, so that nothing of ours can be missed when sweeping:
`<base>/<pod>/<run>` in every hierarchy.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

ROOT = Path("/sys/fs/cgroup")
_DEFAULT_RUN_DIR = Path("/run/tank")
# The agent's unit, and beside it the unit whose group is delegated to us: what is in it outlives the agent.
_AGENT_UNIT = "tank-agent.service"
_PODS_UNIT = "tank-pods.service"


class CgroupHost(Struct, frozen=True, kw_only=True):
    """The host's cgroup layout.

    `hierarchies` are the mount points that hold groups of ours: one on a unified host, one per controller
    otherwise. `base` is our own group, as a path below each of them, with a leading slash. `monitors` is the
    group for the containers' monitors, None where they stay with the agent.
    """

    mode: Literal["unified", "split"]
    hierarchies: tuple[Path, ...]
    base: str
    monitors: str | None = None

    def path(self, pod: str, run: str) -> str:
        """Return a container's group, the way OCI's `cgroupsPath` wants it."""
        return f"{self.base}/{pod}/{run}"

    def place_monitor(self, pid: int) -> None:
        """Put a container's monitor where it outlives the agent.

        Raises:
            OSError: the kernel refused it.
        """
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
        for directory in self.directories(path):
            for below, _, _ in os.walk(directory):
                with contextlib.suppress(OSError):
                    found.update(map(int, (Path(below) / "cgroup.procs").read_text().split()))
        return frozenset(found)

    def thaw(self, path: str) -> None:
        """Let a group, and what is below it, go on if somebody froze it: on v1 no signal ends it before."""
        for directory in self.directories(path):
            for below, _, _ in os.walk(directory):
                for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                    file = Path(below) / name
                    if file.exists():
                        # Gone with its last process.
                        with contextlib.suppress(OSError):
                            file.write_text(value)

    def remove(self, path: str) -> bool:
        """Remove a group and all groups below it; False if a process is still in one of them.

        The pod's group goes with the last of its containers'.
        """
        gone = True
        for directory in self.directories(path):
            for below, _, _ in os.walk(directory, topdown=False):
                gone = _remove_directory(Path(below)) and gone
        for pod in self.directories(path.rpartition("/")[0]):
            _remove_directory(pod)
        return gone

    def sweep(self, keep: Collection[str]) -> tuple[str, ...]:
        """Remove every group of ours that is not in `keep` and holds no process; return those that remain."""
        busy = []
        for path in self._groups():
            if path not in keep and not self.remove(path):
                busy.append(path)
        for hierarchy in self.hierarchies:
            base = hierarchy / self.base.lstrip("/")
            for pod in _children(base):
                _remove_directory(pod)
        return tuple(busy)

    def remove_base(self) -> None:
        """Remove our own top group where nothing is left in it."""
        for directory in self.directories(self.base):
            for pod in _children(directory):
                _remove_directory(pod)
            _remove_directory(directory)
        for directory in self.directories(self.monitors) if self.monitors is not None else ():
            _remove_directory(directory)

    def _groups(self) -> frozenset[str]:
        found: set[str] = set()
        for hierarchy in self.hierarchies:
            base = hierarchy / self.base.lstrip("/")
            for pod in _children(base):
                found.update(self.path(pod.name, run.name) for run in _children(pod))
        return frozenset(found)


def detect(run_dir: Path, *, root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> CgroupHost:
    """Find out what kind of host this is, and choose our group.

    Each agent has a group of its own, named after its run_dir, so that two agents on one machine never sweep
    each other's containers. Where the package's units run us, it is inside of the group of the pods' unit,
    which systemd delegates to us (docs/decisions/0010-packaging.md).
    """
    name = (
        "tank"
        if run_dir == _DEFAULT_RUN_DIR
        else f"tank-{hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:8]}"
    )
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
    """Return the group of the pods' unit, or nothing where neither it nor the agent's unit runs us."""
    for line in own.read_text().splitlines():
        if line.startswith("0::"):
            parts = line[3:].split("/")
            for index, part in enumerate(parts):
                if part in (_AGENT_UNIT, _PODS_UNIT):
                    group = "/".join([*parts[:index], _PODS_UNIT])
                    return group if (root / group.lstrip("/")).is_dir() else ""
    return ""


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
