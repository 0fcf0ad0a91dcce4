"""Copy directory trees that somebody else filled, by walks of `tree_walk`.

Owners, modes, times, hard links, extended attributes (ACLs and capabilities are some) and holes
are copied; the flags of chattr(1) are not, but for NOCOW, without which btrfs cannot share a file's blocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from tank_agent.linux.paths import RESOLVE_NO_XDEV, Closing, Ignoring, open_at
from tank_agent.linux.tree_walk import DIRECTORY, RESOLVE, Level, Walk, WalkCancelledError, identity
from tank_agent.linux.trees import remove_tree

# linux/fs.h
_FICLONE, _GET_FLAGS, _SET_FLAGS = 0x40049409, 0x80086601, 0x40086602
_IMMUTABLE, _APPEND, _NOCOW = 0x10, 0x20, 0x00800000
_CHUNK = 32 << 20
_CANNOT_CLONE = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.ENOSYS})
_CANNOT_COPY_RANGE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS, errno.EINVAL})
# All others belong to a file system, such as btrfs.compression.
_ATTRIBUTES = ("user.", "trusted.", "security.", "system.posix_acl_")
# It signs the inode, which is another one.
_UNCOPIED = frozenset({"security.evm"})
_ACLS = ("system.posix_acl_default", "system.posix_acl_access")


class CopyProgress(Struct, kw_only=True):
    """The progress of a copy, for other threads: bytes of files so far, and what is left out.

    `mounts` counts mount points, `special` devices, FIFOs and sockets. `shared`: blocks are shared so far.
    """

    done: int = 0
    mounts: int = 0
    special: int = 0
    shared: bool = True


class _Copy(Walk):
    def __init__(
        self, top: Path, target: Path, parent: int, progress: CopyProgress, cancelled: Callable[[], bool]
    ) -> None:
        super().__init__(top, cancelled)
        self._target, self._parent, self._progress = target, parent, progress
        self._always, self._special = False, True
        self._ranges = True
        # Holds one name more of each file that has several, until all of them are copied.
        self._link_names = target.with_name(f"{target.name}.links")
        self._links = -1

    def copy(self, root: int, *, always: bool, special: bool = True) -> None:
        self._always, self._special = always, special
        try:
            self.run(root)
        finally:
            if self._links >= 0:
                os.close(self._links)
                remove_tree(self._link_names)

    def opened(self, level: Level) -> None:
        above = self.levels[-2].target if level.name else self._parent
        name = level.name or self._target.name
        os.mkdir(name, 0o700, dir_fd=above)
        level.target = os.open(name, DIRECTORY, dir_fd=above)
        level.made = identity(level.target)
        if not level.name:
            # What it would have from the directory around it, every directory in it would have, too.
            for acl in _ACLS:
                with Ignoring(errno.ENODATA, errno.EOPNOTSUPP):
                    os.removexattr(level.target, acl)
        if self._progress.shared:
            _take_nocow(level.source, level.target)

    def left(self, level: Level) -> None:
        _copy_attributes(level.source, level.target, level.status)
        os.utime(level.target, ns=(level.status.st_atime_ns, level.status.st_mtime_ns))

    def mount_point(self, level: Level, name: str) -> None:
        self._progress.mounts += 1
        os.mkdir(name, 0o755, dir_fd=level.target)

    def visit(self, level: Level, name: str) -> None:
        try:
            entry = open_at(level.source, name, os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE)
        except OSError as error:
            if error.errno == errno.EXDEV:
                self._progress.mounts += 1
                return
            if error.errno == errno.ENOENT:
                return
            raise
        with Closing(entry):
            status = os.fstat(entry)
            if stat.S_ISDIR(status.st_mode):
                raise OSError(errno.ESTALE, "a program changed it meanwhile")
            if not self._special and not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                self._progress.special += 1
                return
            first = status.st_nlink <= 1 or not self._link(level, name, status)
            if first:
                if stat.S_ISREG(status.st_mode):
                    self._file(level, name, entry, status)
                else:
                    _special(level.target, name, entry, status)
                if status.st_nlink > 1:
                    os.link(
                        name,
                        _key(status),
                        src_dir_fd=level.target,
                        dst_dir_fd=self._links,
                        follow_symlinks=False,
                    )

    def _link(self, level: Level, name: str, status: os.stat_result) -> bool:
        """Give a file that was copied already one more name; False for the first of its names."""
        if self._links < 0:
            self._link_names.mkdir(0o700)
            self._links = os.open(self._link_names, DIRECTORY)
        key = _key(status)
        try:
            known = os.stat(key, dir_fd=self._links, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if known.st_nlink >= status.st_nlink:
            # The last one: a file may have no more names than this.
            os.rename(key, name, src_dir_fd=self._links, dst_dir_fd=level.target)
        else:
            os.link(key, name, src_dir_fd=self._links, dst_dir_fd=level.target, follow_symlinks=False)
        return True

    def _file(self, level: Level, name: str, entry: int, status: os.stat_result) -> None:
        # By the descriptor, so that it is the file that was looked at.
        source = os.open(f"/proc/self/fd/{entry}", os.O_RDONLY | os.O_NOATIME | os.O_CLOEXEC)
        with Closing(source):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with Closing(os.open(name, flags, 0o600, dir_fd=level.target)) as target:
                if status.st_size and not self._clone(source, target, status.st_size):
                    self._content(source, target, status.st_size)
                _copy_attributes(source, target, status)
                os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _clone(self, source: int, target: int, size: int) -> bool:
        """Share a file's blocks; False if its content must be copied."""
        if not self._progress.shared:
            return False
        try:
            try:
                fcntl.ioctl(target, _FICLONE, source)
            except OSError as error:
                if error.errno != errno.EINVAL or not _take_nocow(source, target):
                    raise
                fcntl.ioctl(target, _FICLONE, source)
        except OSError as error:
            if self._always or error.errno not in (*_CANNOT_CLONE, errno.EINVAL):
                raise
            if error.errno != errno.EINVAL:
                self._progress.shared = False
            return False
        self._progress.done += size
        return True

    def _content(self, source: int, target: int, size: int) -> None:
        """Copy content without its holes."""
        at = 0
        while at < size:
            try:
                start = os.lseek(source, at, os.SEEK_DATA)
                end = min(os.lseek(source, start, os.SEEK_HOLE), size)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            while start < end:
                copied = self._range(source, target, start, min(_CHUNK, end - start))
                if not copied:
                    # It was cut meanwhile.
                    return
                start += copied
                self._progress.done += copied
                if self.cancelled():
                    raise WalkCancelledError("it was cancelled")
            at = max(end, at + 1)
        os.ftruncate(target, size)

    def _range(self, source: int, target: int, start: int, count: int) -> int:
        if self._ranges:
            try:
                return os.copy_file_range(source, target, count, start, start)
            except OSError as error:
                if error.errno not in _CANNOT_COPY_RANGE:
                    raise
                self._ranges = False
        return os.pwrite(target, os.pread(source, min(count, 1 << 20), start), start)


def copy_tree(
    source: Path,
    target: Path,
    *,
    always: bool = False,
    progress: CopyProgress,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Copy a directory to a name that does not exist, beside which `<name>.links` is made for a while.

    Args:
        always: fail where blocks can't be shared (reflinks), instead of copying them.

    Raises:
        OSError: with the path of the first entry at which it failed; what is copied by then stays.
        WalkCancelledError: `cancelled` said so.
    """
    with (
        Closing(os.open(target.parent, DIRECTORY)) as parent,
        Closing(os.open(source, DIRECTORY)) as root,
    ):
        _Copy(source, target, parent, progress, cancelled).copy(root, always=always)


def copy_opened(
    source: int,
    shown: Path,
    target: Path,
    *,
    progress: CopyProgress,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Copy an open directory as `copy_tree` does, without devices, FIFOs and sockets.

    `shown` is its path in errors.
    """
    with Closing(os.open(target.parent, DIRECTORY)) as parent:
        _Copy(shown, target, parent, progress, cancelled).copy(source, always=False, special=False)


def shares_blocks(source: Path, target: Path) -> bool:
    """Return whether a file in one directory can share its blocks with a file in another (FICLONE)."""
    flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
    try:
        with Closing(os.open(source, flags, 0o600)) as one, Closing(os.open(target, flags, 0o600)) as other:
            os.write(one, bytes(4096))
            fcntl.ioctl(other, _FICLONE, one)
    except OSError as error:
        if error.errno in (*_CANNOT_CLONE, errno.EINVAL, errno.EISDIR):
            return False
        raise
    return True


def is_mount_point(path: Path) -> bool:
    """Return whether something is mounted at a directory; such a one cannot be renamed."""
    with Closing(os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as parent:
        try:
            os.close(open_at(parent, path.name, os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_XDEV))
        except OSError as error:
            if error.errno == errno.EXDEV:
                return True
            raise
    return False


def let_rename(path: Path) -> None:
    """Take the flags off a directory with which it can't be renamed, if it has them (chattr(1) +i, +a)."""
    with (
        suppress(OSError),
        Closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as found,
    ):
        flags = _flags(found)
        if flags & (_IMMUTABLE | _APPEND):
            fcntl.ioctl(found, _SET_FLAGS, _buffer(flags & ~(_IMMUTABLE | _APPEND)))


def _special(directory: int, name: str, entry: int, status: os.stat_result) -> None:
    """Make a symbolic link, a device, a fifo or a socket like another one, which is not opened."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink("", dir_fd=entry), name, dir_fd=directory)
    else:
        os.mknod(name, kind | 0o600, status.st_rdev, dir_fd=directory)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=directory, follow_symlinks=False)
    found = f"/proc/self/fd/{entry}"
    if names := _listed(found):
        with Closing(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)) as made:
            for attribute in names:
                os.setxattr(f"/proc/self/fd/{made}", attribute, os.getxattr(found, attribute))
    if kind != stat.S_IFLNK:
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=directory)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


def _copy_attributes(source: int, target: int, status: os.stat_result) -> None:
    """Copy owner, extended attributes and mode, in the order in which none undoes another."""
    os.fchown(target, status.st_uid, status.st_gid)
    for name in _listed(source):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError:
            if name.startswith(_ATTRIBUTES):
                raise
    os.fchmod(target, stat.S_IMODE(status.st_mode))


def _listed(place: int | str) -> list[str]:
    with Ignoring(errno.EOPNOTSUPP):
        return [name for name in os.listxattr(place) if name not in _UNCOPIED]
    return []


def _take_nocow(source: int, target: int) -> bool:
    """Make a new file or directory NOCOW if the other one is; False if it was not, or cannot be."""
    with suppress(OSError):
        flags, own = _flags(source), _flags(target)
        if flags & _NOCOW and not own & _NOCOW:
            fcntl.ioctl(target, _SET_FLAGS, _buffer(own | _NOCOW))
            return True
    return False


def _flags(descriptor: int) -> int:
    flags = bytearray(8)
    fcntl.ioctl(descriptor, _GET_FLAGS, flags)
    return int.from_bytes(flags[:4], sys.byteorder)


def _buffer(flags: int) -> bytes:
    return flags.to_bytes(8, sys.byteorder)


def _key(status: os.stat_result) -> str:
    return f"{status.st_dev:x}-{status.st_ino:x}"
