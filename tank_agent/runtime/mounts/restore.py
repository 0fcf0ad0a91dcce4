"""Detect mounts that a running container lost, restore them, and put new files in the place of others.

The container goes on, and its programs may swap links and directories all the while. So a path inside is
resolved from the container's root, in its own mount namespace, to a descriptor; that is checked, and then the
same descriptor is mounted on, or unmounted. A mount goes only into the container's own root file system or
the volume that the path is in, never into a file system of the kernel; only a file of the agent is unmounted.
Where the path leads elsewhere, the container's next start mends it.

A file is replaced without a moment in which its path has none, or the file below all mounts: the new one is
mounted beneath the former, and seen as that is unmounted (docs/decisions/0023-delivery.md).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType

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
# The path of a volume, and the volume's inode; None for a file system in memory.
_Place = tuple[str, Inode | None]
_NO_CONTENTS: Mapping[str, Path | None] = MappingProxyType({})
_NEXT_START = "a restart of the container makes all its mounts anew"


class _Lost(Struct, frozen=True, kw_only=True):
    """A mount to restore: its descriptor, its path, and the volume that the path is in, if any.

    `content`: it is a file or a secret of the pod, which takes the place of what is there.
    """

    copy: int
    target: str
    below: _Place | None
    content: bool = False


class _Inside(Struct, frozen=True, kw_only=True):
    """A container's root, our own /proc/self/fd, and its mounts by number (proc_pid_mountinfo(5))."""

    root: int
    descriptors: int
    mounts: Mapping[int, Sequence[bytes]]


def file_mounts(files: Path) -> tuple[BindMount, ...]:
    """Return the mounts of the pod's files, which are in the directory `files`, in a container."""
    return tuple(BindMount(source=files / name, target=f"/etc/{name}", read_only=True) for name in FILES)


def lost(
    process: int, record: RunRecord, files: Path, contents: Mapping[str, Path | None] = _NO_CONTENTS
) -> tuple[str, ...]:
    """Return the paths in a container, of which `process` is a pidfd, at which mounts of its pod are missing.

    A file of the directory `files`, which are the pod's, counts as lost if another inode is there, since its
    changes would not be seen; so does one of `contents`, by path. Raises OSError if the container has ended.
    """
    wanted: dict[str, Inode | None] = {mount.target: _inode(mount.source) for mount in file_mounts(files)}
    wanted |= dict.fromkeys(record.volumes)
    wanted |= {path: _inode(source) if source is not None else None for path, source in contents.items()}

    def look(root: int) -> tuple[str, ...]:
        return tuple(path for path, inode in wanted.items() if not _is_mounted(root, path, inode))

    return in_mount_namespace(process, look, record.root)


def restore(
    run: LiveRun,
    mounts_: Sequence[Mount],
    volumes: Sequence[Volume],
    files: Path,
    binder: Volumes,
    *,
    contents: Mapping[str, Path | None] = _NO_CONTENTS,
) -> None:
    """Restore the mounts of volumes and of files that a run lost. Can be repeated after a crash.

    Args:
        mounts_: those of its container, also those of a read-only root file system.
        contents: the files and secrets that it has, by path; None where the agent's own is gone.
    """
    record, process = run.record, run.process
    if process is None:
        return
    with _explaining(record, "mount again"):
        paths = lost(process, record, files, contents)
        wanted = [mount for mount in file_mounts(files) if mount.target in paths]
        _mount_all(run, mounts_, volumes, binder, files=wanted, contents=_bound(contents, paths), paths=paths)
        point("runtime:mounted-again")
        paths = lost(process, record, files, contents)
    if paths:
        raise Retry(f"container {record.container}: what is mounted at {', '.join(paths)} does not stay")


def replace_contents(
    run: LiveRun,
    mounts_: Sequence[Mount],
    volumes: Sequence[Volume],
    binder: Volumes,
    contents: Mapping[str, Path | None],
) -> int:
    """Mount new files at their paths in a container, each in one moment. Can be repeated after a crash.

    Returns:
        How many are stacked at a path now, at most. The files below the top must not be deleted: the kernel
        would unmount what is mounted on them.
    """
    record, process = run.record, run.process
    if process is None:
        return 0
    with _explaining(record, "deliver"):
        return _mount_all(
            run, mounts_, volumes, binder, files=(), contents=_bound(contents, contents), paths=()
        )


def _bound(contents: Mapping[str, Path | None], paths: Collection[str]) -> list[BindMount]:
    gone = [path for path in paths if path in contents and contents[path] is None]
    if gone:
        raise Retry(f"the agent's own file of {gone[0]} was removed", hint=_NEXT_START)
    found = ((path, contents.get(path)) for path in paths)
    return [BindMount(source=source, target=path, read_only=True) for path, source in found if source]


@contextmanager
def _explaining(record: RunRecord, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" at {os.fsdecode(error.filename)}" if error.filename else ""
        message = f"container {record.container}: cannot {what}{where}: {error.strerror}"
        raise Retry(message, hint=_NEXT_START) from error


def _mount_all(
    run: LiveRun,
    mounts_: Sequence[Mount],
    volumes: Sequence[Volume],
    binder: Volumes,
    *,
    files: Sequence[BindMount],
    contents: Sequence[BindMount],
    paths: Collection[str],
) -> int:
    """Mount files, contents, and the volumes at some paths; returns as `replace_contents` does."""
    record, process, scratch = run.record, run.process, run.directory / _SCRATCH
    assert process is not None
    spec = {mount.path: mount for mount in mounts_}
    memory = [mount.path for mount in mounts_ if mount.tmpfs is not None]

    def below(target: str) -> _Place | None:
        outer = innermost(target, (*record.volumes, *memory))
        if outer is None or outer not in spec:
            return None
        volume, subpath = spec[outer].volume, spec[outer].subpath
        return outer, binder.inode(record.pod, volumes, volume, subpath) if volume is not None else None

    try:
        bound = _bind_files(scratch, [*files, *contents])
        missing = {
            number: mount
            for number, mount in enumerate(mounts_)
            if mount.path in paths and mount.volume is not None
        }
        bound += _bind_volumes(scratch, record, missing, volumes, binder)
        point("runtime:bound-again")
        return _mount(process, record, bound, below, frozenset(mount.target for mount in contents))
    finally:
        mounts.unmount_tree(scratch)


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
    process: int,
    record: RunRecord,
    bound: Sequence[BindMount],
    below: Callable[[str], _Place | None],
    contents: Collection[str],
) -> int:
    with ExitStack() as stack:
        copies = []
        for mount in bound:
            copy, target = stack.enter_context(Closing(mounts.clone(mount.source))), mount.target
            place = below(target)
            copies.append(_Lost(copy=copy, target=target, below=place, content=target in contents))
        # Of the host's /proc, since the agent is not in the container's.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptors = stack.enter_context(Closing(os.open("/proc/self/fd", flags)))

        def attach(root: int) -> int:
            own = f"../task/{threading.get_native_id()}/mountinfo"
            with open(os.open(own, os.O_RDONLY | os.O_CLOEXEC, dir_fd=descriptors), "rb") as file:
                lines = [line.split() for line in file]
            if len(lines) > _MOUNTS_MAX:
                raise Retry("cannot mount again: its programs moved mounts away too often", hint=_NEXT_START)
            known = {int(fields[0]): fields for fields in lines}
            inside = _Inside(root=root, descriptors=descriptors, mounts=known)
            return max((_attach(inside, lost_mount) for lost_mount in copies), default=0)

        return in_mount_namespace(process, attach, record.root)


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


def _attach(inside: _Inside, lost_mount: _Lost) -> int:
    """Mount on the place that a path leads to, if it may; return how many mounts are stacked there now."""
    for _ in range(_STALE_MAX):
        with Closing(open_in_root(inside.root, lost_mount.target, os.O_PATH)) as found:
            place = mounts.place_of(found)
            if not place.is_root:
                if place.mount != _allowed(inside, lost_mount):
                    break
                mounts.attach(lost_mount.copy, found)
                return 1
            if lost_mount.content:
                if not _is_in_its_place(inside, lost_mount, found):
                    break
                return _replace(inside, lost_mount, found, place.mount)
            # A former file of the pod may be there still.
            if not (lost_mount.target in _FILE_PATHS and _is_stale(found, lost_mount.copy)):
                break
            # The new mount must not be stacked on it.
            mounts.unmount_descriptor(found, inside.descriptors)
    reason = "the container's programs made the path lead elsewhere"
    raise Retry(f"cannot mount again at {lost_mount.target}: {reason}", hint=_NEXT_START)


def _is_in_its_place(inside: _Inside, lost_mount: _Lost, found: int) -> bool:
    """Return whether what is mounted at a path is a file, in a directory that the path must lead to."""
    if not stat.S_ISREG(os.fstat(found).st_mode):
        return False
    around = lost_mount.target.rpartition("/")[0] or "/"
    with Closing(open_in_root(inside.root, around, os.O_PATH | os.O_DIRECTORY)) as directory:
        return mounts.place_of(directory).mount == _allowed(inside, lost_mount)


def _replace(inside: _Inside, lost_mount: _Lost, found: int, number: int) -> int:
    """Let a file be seen at a path at which another one is mounted, with the number `number`."""
    there, ours = os.fstat(found), os.fstat(lost_mount.copy)
    stacked = _stacked(inside, number)
    if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
        return stacked
    if there.st_dev != ours.st_dev:
        # Its programs covered it.
        mounts.attach(lost_mount.copy, found)
        return stacked + 1
    try:
        mounts.attach(lost_mount.copy, found, beneath=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return _cover(inside, lost_mount, stacked)
    point("runtime:content-beneath")
    mounts.unmount_descriptor(found, inside.descriptors)
    return stacked


def _cover(inside: _Inside, lost_mount: _Lost, stacked: int) -> int:
    """Mount on top of former files; of many of them, only the first stays, and is seen for a moment."""
    if stacked >= _STALE_MAX:
        for _ in range(stacked - 1):
            with Closing(open_in_root(inside.root, lost_mount.target, os.O_PATH)) as top:
                mounts.unmount_descriptor(top, inside.descriptors)
        stacked = 1
    with Closing(open_in_root(inside.root, lost_mount.target, os.O_PATH)) as top:
        mounts.attach(lost_mount.copy, top)
    return stacked + 1


def _stacked(inside: _Inside, number: int) -> int:
    """Return how many mounts are stacked at the place of one, up to that, by its number."""
    stacked, fields = 1, inside.mounts.get(number, ())
    # The fields: number, that of the mount below it, device, root, mount point.
    while fields and (outer := inside.mounts.get(int(fields[1]), ())) and outer[4] == fields[4]:
        stacked, fields = stacked + 1, outer
    return stacked


def _allowed(inside: _Inside, lost_mount: _Lost) -> int | None:
    """Return the number of the mount that a path must lead to; None if that is not there."""
    if lost_mount.below is None:
        return mounts.place_of(inside.root).mount
    outer, inode = lost_mount.below
    with Closing(open_in_root(inside.root, outer, os.O_PATH)) as found:
        status, place = os.fstat(found), mounts.place_of(found)
        if inode is None:
            fields = inside.mounts.get(place.mount, ())
            same = b"-" in fields and fields[fields.index(b"-") + 1] == b"tmpfs"
        else:
            same = (status.st_dev, status.st_ino) == inode
        return place.mount if place.is_root and same else None


def _is_stale(found: int, copy: int) -> bool:
    """Return whether the root of a mount is a former file of the pod, in the place of the present one."""
    there, ours = os.fstat(found), os.fstat(copy)
    return stat.S_ISREG(there.st_mode) and there.st_dev == ours.st_dev
