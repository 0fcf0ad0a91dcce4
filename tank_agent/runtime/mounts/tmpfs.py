"""File systems in memory: those that a pod asks for, and those of a read-only root file system.

What is in them counts to the memory of the container. crun mounts them, but for one that is inside of a
volume: other containers with the volume could lead crun elsewhere, so there the agent does it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tank_agent.errors import Retry
from tank_agent.linux import mounts
from tank_agent.runtime.container.oci import ANY_SIZE, Tmpfs
from tank_agent.runtime.mounts.volumes import innermost
from tank_agent.spec.model import Container, Mount

_DIRECTORY = "tmpfs"
# Where programs expect to write, whatever the rest is.
_WRITABLE = ("/run", "/tmp", "/var/tmp")  # noqa: S108 - of the container
_MODE = 0o1777


def mounts_of(container: Container) -> tuple[Mount, ...]:
    """Return the mounts of a container, with those of a read-only root file system."""
    if not container.security.read_only_root:
        return container.mounts
    paths = [mount.path for mount in container.mounts]
    free = (path for path in _WRITABLE if path not in paths and innermost(path, paths) is None)
    return (*container.mounts, *(Mount(tmpfs=ANY_SIZE, path=path) for path in free))


def is_usual(mount: Mount) -> bool:
    """Return whether a mount is one of a read-only root file system, which nobody asked for."""
    return mount.tmpfs == ANY_SIZE


def split(wanted: Sequence[Mount], *, mapped: bool) -> tuple[list[Tmpfs], list[Mount]]:
    """Return what crun mounts, and what the agent does, of the file systems in memory.

    For a user namespace (`mapped`), crun mounts all.
    """
    volumes = [mount.path for mount in wanted if mount.volume is not None]
    paths = [mount.path for mount in wanted]
    ours, others = [], []
    for mount in wanted:
        if mount.tmpfs is None:
            continue
        if not mapped and innermost(mount.path, paths) in volumes:
            ours.append(mount)
            continue
        mode = mount.mode if mount.mode is not None else _MODE
        others.append(Tmpfs(target=mount.path, size=mount.tmpfs, mode=mode, read_only=mount.read_only))
    return others, ours


def make(wanted: Sequence[Mount], bundle: Path, stack: ExitStack) -> Mapping[str, int]:
    """Mount some in a bundle and return their descriptors, which `stack` closes, by path; else Retry."""
    made: dict[str, int] = {}
    for number, mount in enumerate(wanted):
        target = bundle / _DIRECTORY / str(number)
        mode = mount.mode if mount.mode is not None else _MODE
        size = f",size={mount.tmpfs}" if mount.tmpfs else ""
        try:
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = mounts.MS_NOSUID | mounts.MS_NODEV
            mounts.mount("tmpfs", target, "tmpfs", flags, f"mode={mode:o}{size}")
            made[mount.path] = mounts.clone(target)
        except OSError as error:
            raise Retry(f"mount {mount.path}: cannot mount a tmpfs: {error.strerror}") from error
        stack.callback(os.close, made[mount.path])
    return made


def detach(bundle: Path) -> None:
    """Detach those of a bundle from the host's tree; the container keeps them."""
    mounts.unmount_below(bundle / _DIRECTORY)
