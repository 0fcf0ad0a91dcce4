"""What of its pod a running container has mounted, looked at; and mounted again where it was taken away.

The container goes on. The sources are bound in the bundle first, by what binds them for a new run, and every
path inside is resolved from the container's root, in its own mount namespace: whatever its programs made of
their files, nothing is mounted anywhere else.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tank_agent.errors import Retry
from tank_agent.linux import mounts
from tank_agent.linux.fault import point
from tank_agent.linux.mount_namespaces import attach_mount, clone_mount, in_mount_namespace, is_mount_root
from tank_agent.linux.paths import open_in_root
from tank_agent.runtime.instance import Record
from tank_agent.runtime.oci import BindMount
from tank_agent.runtime.rootfs import FILES
from tank_agent.runtime.user_namespace import mapping_of
from tank_agent.runtime.volumes import Volumes
from tank_agent.spec.model import Mount, Volume

# Below the bundle: where sources are bound meanwhile.
_SCRATCH = "again"
# A path that the container's own programs removed, or made into something else.
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def file_mounts(files: Path) -> tuple[BindMount, ...]:
    """Return where a container sees the pod's files that lie in the directory `files`."""
    return tuple(BindMount(source=files / name, target=f"/etc/{name}", read_only=True) for name in FILES)


def lost(process: int, volumes: Sequence[str], files: Path) -> tuple[str, ...]:
    """Return the paths in a container at which nothing of its pod is mounted any more.

    Of the pod's files another inode counts as nothing: what is written to the pod's own never gets there.

    Args:
        process: a pidfd of the container.
        volumes: where it has volumes, parents first.
        files: the directory with the pod's files.

    Raises:
        OSError: the container has ended.
    """
    wanted: dict[str, tuple[int, int] | None] = {
        mount.target: _inode(mount.source) for mount in file_mounts(files)
    }
    wanted |= dict.fromkeys(volumes)

    def look(root: int) -> tuple[str, ...]:
        return tuple(path for path, inode in wanted.items() if not _is_mounted(root, path, inode))

    return in_mount_namespace(process, look)


def mount_again(
    process: int,
    record: Record,
    bundle: Path,
    *,
    wanted: Sequence[Mount],
    volumes: Sequence[Volume],
    files: Path,
    binder: Volumes,
) -> None:
    """Bring back what a container lost of its mounts. Can be repeated after a crash.

    Args:
        process: a pidfd of the container.
        record: the run's.
        bundle: its directory.
        wanted: the mounts of the container's spec.
        volumes: the pod's.
        files: the directory with the pod's files.
        binder: what binds volumes.

    Raises:
        Stalled, Retry: a volume cannot be bound, or the container has no such path any more.
    """
    scratch = bundle / _SCRATCH
    try:
        paths = lost(process, record.volumes, files)
        try:
            bound = _bind_files(scratch, [mount for mount in file_mounts(files) if mount.target in paths])
            missing = [numbered for numbered in parents_first(wanted) if numbered[1].path in paths]
            bound += _bind_volumes(scratch, record, missing, volumes, binder)
            point("runtime:bound-again")
            _mount(process, bound)
            point("runtime:mounted-again")
        finally:
            mounts.unmount_tree(scratch)
        paths = lost(process, record.volumes, files)
    except OSError as error:
        what = f" at {os.fsdecode(error.filename)}" if error.filename else ""
        raise Retry(
            f"container {record.container}: cannot mount again{what}: {error.strerror}",
            hint="a restart of the container makes all its mounts anew",
        ) from error
    if paths:
        raise Retry(f"container {record.container}: what is mounted at {', '.join(paths)} does not stay")


def parents_first(mounts: Sequence[Mount]) -> list[tuple[int, Mount]]:
    """Return mounts with their numbers so that none covers one before it, as /data would /data/cache."""
    return sorted(enumerate(mounts), key=lambda pair: pair[1].path.count("/"))


def _bind_files(scratch: Path, wanted: Sequence[BindMount]) -> list[BindMount]:
    scratch.mkdir(mode=0o700, exist_ok=True)
    bound = []
    for mount in wanted:
        target = scratch / mount.source.name
        target.touch()
        source = os.open(mount.source, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            mounts.bind(source, target, read_only=True)
        finally:
            os.close(source)
        bound.append(BindMount(source=target, target=mount.target, read_only=True))
    return bound


def _bind_volumes(
    scratch: Path,
    record: Record,
    missing: Sequence[tuple[int, Mount]],
    volumes: Sequence[Volume],
    binder: Volumes,
) -> list[BindMount]:
    bound: list[BindMount] = []
    with ExitStack() as stack:
        mapping = stack.enter_context(mapping_of(record.ids)) if record.ids and missing else None
        for number, mount in missing:
            place = scratch / str(number)
            place.mkdir(mode=0o700, exist_ok=True)
            # Without an owner: one that is gone is not made anew, and empty, under what runs.
            bound += binder.bind(record.pod, volumes, [mount], place, owner=None, mapping=mapping)
    return bound


def _mount(process: int, bound: Sequence[BindMount]) -> None:
    with ExitStack() as stack:
        copies = []
        for mount in bound:
            copy = clone_mount(mount.source)
            stack.callback(os.close, copy)
            copies.append((copy, mount.target))

        def attach(root: int) -> None:
            for copy, target in copies:
                _attach(root, copy, target)

        in_mount_namespace(process, attach)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _is_mounted(root: int, path: str, inode: tuple[int, int] | None) -> bool:
    try:
        found = open_in_root(root, path, os.O_PATH)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return False
        raise
    try:
        status = os.fstat(found)
        return is_mount_root(found) and inode in (None, (status.st_dev, status.st_ino))
    finally:
        os.close(found)


def _attach(root: int, copy: int, target: str) -> None:
    directory, _, name = target.rpartition("/")
    parent = open_in_root(root, directory or "/", os.O_PATH | os.O_DIRECTORY)
    try:
        # What is left of it, such as the mount of a file that was deleted; the next must not pile up on it.
        os.fchdir(parent)
        mounts.unmount(name)
    finally:
        os.close(parent)
    found = open_in_root(root, target, os.O_PATH)
    try:
        attach_mount(copy, found)
    finally:
        os.close(found)
