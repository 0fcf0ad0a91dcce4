"""Detect mounts that a running container lost, and restore them.

The container goes on, and its programs may swap links and directories all the while. So a path inside is
resolved from the container's root, in its own mount namespace, to a descriptor; that is checked, and then the
same descriptor is mounted on, or unmounted. A mount goes only into the container's own root file system or
the volume that the path is in, never into a file system of the kernel; only a file of the pod is unmounted.
Where the path leads elsewhere, the container's next start mends it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

from msgspec import Struct

from tank_agent.errors import Retry
from tank_agent.linux import mounts
from tank_agent.linux.fault import point
from tank_agent.linux.namespaces import in_mount_namespace
from tank_agent.linux.paths import Closing, open_in_root
from tank_agent.runtime.container.oci import BindMount
from tank_agent.runtime.mounts.rootfs import FILES
from tank_agent.runtime.mounts.volumes import Volumes, depth, innermost
from tank_agent.runtime.run import LiveRun, RunRecord
from tank_agent.runtime.security.user_namespace import mapping_of
from tank_agent.spec.model import Mount, Volume

# Below the bundle: where sources are bound in the meantime.
_SCRATCH = "again"
# A path that the container's own programs removed, or made into something else.
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
# How many mounts of deleted files may be stacked at one place.
_STALE_MAX = 16
# The most mounts in a namespace, which gains one each time that a program moves a mount away.
_MOUNTS_MAX = 1000
_FILE_PATHS = frozenset(f"/etc/{name}" for name in FILES)
Inode = tuple[int, int]
# The path of a volume, and the volume's inode.
_Place = tuple[str, Inode]
_NEXT_START = "a restart of the container makes all its mounts anew"


class _Lost(Struct, frozen=True, kw_only=True):
    """A mount to restore: its descriptor, its path, and the volume that the path is in, if any."""

    copy: int
    target: str
    below: _Place | None


def file_mounts(files: Path) -> tuple[BindMount, ...]:
    """Return the mounts of the pod's files, which are in the directory `files`, in a container."""
    return tuple(BindMount(source=files / name, target=f"/etc/{name}", read_only=True) for name in FILES)


def lost(process: int, record: RunRecord, files: Path) -> tuple[str, ...]:
    """Return the paths in a container, of which `process` is a pidfd, at which mounts of its pod are missing.

    A file of the directory `files`, which are the pod's, counts as lost if another inode is there, since its
    changes would not be seen. Raises OSError if the container has ended.
    """
    wanted: dict[str, Inode | None] = {mount.target: _inode(mount.source) for mount in file_mounts(files)}
    wanted |= dict.fromkeys(record.volumes)

    def look(root: int) -> tuple[str, ...]:
        return tuple(path for path, inode in wanted.items() if not _is_mounted(root, path, inode))

    return in_mount_namespace(process, look, record.root)


def restore(
    run: LiveRun, mounts_: Sequence[Mount], volumes: Sequence[Volume], files: Path, binder: Volumes
) -> None:
    """Restore the mounts of volumes and of the pod's files that a run lost. Can be repeated after a crash."""
    record, process, scratch = run.record, run.process, run.directory / _SCRATCH
    if process is None:
        return
    try:
        paths = lost(process, record, files)
        try:
            bound = _bind_files(scratch, [mount for mount in file_mounts(files) if mount.target in paths])
            missing = {number: mount for number, mount in enumerate(mounts_) if mount.path in paths}
            bound += _bind_volumes(scratch, record, missing, volumes, binder)
            point("runtime:bound-again")
            volume_of = {mount.path: mount.volume for mount in mounts_}

            def below(target: str) -> _Place | None:
                outer = innermost(target, record.volumes)
                return (outer, binder.inode(record.pod, volumes, volume_of[outer])) if outer else None

            _mount(process, record, bound, below)
            point("runtime:mounted-again")
        finally:
            mounts.unmount_tree(scratch)
        paths = lost(process, record, files)
    except OSError as error:
        what = f" at {os.fsdecode(error.filename)}" if error.filename else ""
        message = f"container {record.container}: cannot mount again{what}: {error.strerror}"
        raise Retry(message, hint=_NEXT_START) from error
    if paths:
        raise Retry(f"container {record.container}: what is mounted at {', '.join(paths)} does not stay")


def _bind_files(scratch: Path, wanted: Sequence[BindMount]) -> list[BindMount]:
    scratch.mkdir(mode=0o700, exist_ok=True)
    bound = []
    for mount in wanted:
        target = scratch / mount.source.name
        target.touch()
        with Closing(os.open(mount.source, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as source:
            mounts.bind(source, target, read_only=True)
        bound.append(BindMount(source=target, target=mount.target, read_only=True))
    return bound


def _bind_volumes(
    scratch: Path, record: RunRecord, missing: dict[int, Mount], volumes: Sequence[Volume], binder: Volumes
) -> list[BindMount]:
    bound: list[BindMount] = []
    with mapping_of(record.ids) if record.ids and missing else nullcontext() as mapping:
        for number, mount in sorted(missing.items(), key=lambda pair: depth(pair[1].path)):
            place = scratch / str(number)
            place.mkdir(mode=0o700, exist_ok=True)
            # Without an owner: a volume that is gone is not made anew, and empty, under a running container.
            bound += binder.bind(record.pod, volumes, [mount], place, owner=None, mapping=mapping)
    return bound


def _mount(
    process: int, record: RunRecord, bound: Sequence[BindMount], below: Callable[[str], _Place | None]
) -> None:
    with ExitStack() as stack:
        copies = []
        for mount in bound:
            copy = stack.enter_context(Closing(mounts.clone(mount.source)))
            copies.append(_Lost(copy=copy, target=mount.target, below=below(mount.target)))
        # Of the host's /proc, since the agent is not in the container's.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptors = stack.enter_context(Closing(os.open("/proc/self/fd", flags)))

        def attach(root: int) -> None:
            own = f"../task/{threading.get_native_id()}/mountinfo"
            with open(os.open(own, os.O_RDONLY | os.O_CLOEXEC, dir_fd=descriptors), "rb") as file:
                count = sum(1 for _ in file)
            if count > _MOUNTS_MAX:
                raise Retry("cannot mount again: its programs moved mounts away too often", hint=_NEXT_START)
            for lost_mount in copies:
                _attach(root, descriptors, lost_mount)

        in_mount_namespace(process, attach, record.root)


def _inode(path: Path) -> Inode | None:
    try:
        status = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _is_mounted(root: int, path: str, inode: Inode | None) -> bool:
    try:
        with Closing(open_in_root(root, path, os.O_PATH)) as found:
            status = os.fstat(found)
            return mounts.place_of(found).is_root and inode in (None, (status.st_dev, status.st_ino))
    except OSError as error:
        if error.errno in _NOT_THERE:
            return False
        raise


def _attach(root: int, descriptors: int, lost_mount: _Lost) -> None:
    """Mount on the place to which a path leads, if it may lead there."""
    for _ in range(_STALE_MAX):
        with Closing(open_in_root(root, lost_mount.target, os.O_PATH)) as found:
            place = mounts.place_of(found)
            if not place.is_root:
                if place.mount != _allowed(root, lost_mount):
                    break
                mounts.attach(lost_mount.copy, found)
                return
            # A former file of the pod may be there still.
            if not (lost_mount.target in _FILE_PATHS and _is_stale(found, lost_mount.copy)):
                break
            # The new mount must not be stacked on it.
            mounts.unmount_descriptor(found, descriptors)
    reason = "the container's programs made the path lead elsewhere"
    raise Retry(f"cannot mount again at {lost_mount.target}: {reason}", hint=_NEXT_START)


def _allowed(root: int, lost_mount: _Lost) -> int | None:
    """Return the number of the mount that a path must lead to; None if that is not there."""
    if lost_mount.below is None:
        return mounts.place_of(root).mount
    outer, inode = lost_mount.below
    with Closing(open_in_root(root, outer, os.O_PATH)) as found:
        status, place = os.fstat(found), mounts.place_of(found)
        return place.mount if place.is_root and (status.st_dev, status.st_ino) == inode else None


def _is_stale(found: int, copy: int) -> bool:
    """Return whether the root of a mount is a former file of the pod, in the place of the present one."""
    there, ours = os.fstat(found), os.fstat(copy)
    return stat.S_ISREG(there.st_mode) and there.st_dev == ours.st_dev
