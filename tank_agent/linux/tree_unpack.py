"""Store a tar stream below an open directory: hostile names and links lead nowhere else, nor do races.

Every step is by descriptor, and follows no link. Devices, FIFOs and sockets are left out. A file that stands
already is replaced as a whole by a rename, and so is a single new one; a new file of a tree gets its name
first, and is only its owner's to read until it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tank_agent.linux.copy_target import CopyTarget, names_for
from tank_agent.linux.kernel_files import KernelFiles
from tank_agent.linux.libc import AT_EMPTY_PATH, call
from tank_agent.linux.mounts import place_of
from tank_agent.linux.paths import Closing, Ignoring
from tank_agent.linux.tar_stream import (
    DIRECTORY,
    FILE,
    HARD_LINK,
    LINK,
    CopyError,
    TarEntry,
    TarReader,
    shown,
)
from tank_agent.linux.tree_pack import DEEPEST, Notes

_NO_LINKS = os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | _NO_LINKS
# File systems that can't make a file without a name, or give it one later.
_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EPERM, errno.EXDEV)
_WORDS = {
    errno.EROFS: "is read-only there",
    errno.ENOSPC: "does not fit: the file system is full",
    errno.EDQUOT: "does not fit: the quota is used up",
    errno.EACCES: "may not be written",
    errno.EPERM: "may not be written, or not be given its owner",
    errno.ENOTDIR: "is below something that is no directory; links in the target are not followed",
    errno.ELOOP: "is below a link; links in the target are not followed",
}
_HINTS = {
    errno.EROFS: "the root is read-only (read_only = true) or the mount is (read_only); copy to a volume",
    errno.EINVAL: "its owner may have no number in the container's user namespace; copy without -a",
}


class Options(NamedTuple):
    """How to store: `base` is the name that all entries begin with, None for an archive of any names.

    `owners` keeps owners and whole modes, set-user-ID bits included; else modes lose the bits of `umask`.
    `contents` stores what is in the source only.
    """

    base: bytes | None
    contents: bool = False
    owners: bool = False
    umask: int = 0


class _Level(NamedTuple):
    name: bytes
    directory: int
    entry: TarEntry | None


class Unpacker:
    """Stores one archive.

    Args:
        descriptors: our own /proc/self/fd, open.

    Attributes:
        files: how many entries were stored; `size` is how many bytes of content.
        link: where the target itself leads now that it has become a link; empty if it has not.
    """

    def __init__(
        self, reader: TarReader, target: CopyTarget, descriptors: int, notes: Notes, kernel: KernelFiles
    ) -> None:
        self._reader = reader
        self._target = target
        self._descriptors = descriptors
        self._notes = notes
        self._kernel = kernel
        self._levels: list[_Level] = []
        self._owners, self._umask = False, 0
        self._single = False
        self.files = self.size = 0
        self.link = b""

    def unpack(self, options: Options) -> None:
        """Store the archive.

        Raises:
            CopyError: the archive or the target is at fault; what came before is stored.
        """
        self._owners, self._umask = options.owners, options.umask
        self._kernel.check(self._target.anchor, self._target.shown)
        names: tuple[bytes, ...] | None = () if options.base is None else None
        try:
            for found in self._reader.entries():
                entry, path = found, _parts(found.path)
                if options.base is not None:
                    path = _without_base(path, options.base)
                    if names is None:
                        directory = entry.kind == DIRECTORY
                        self._single = not directory
                        contents = options.contents
                        base = options.base
                        names = names_for(self._target, base, directory=directory, contents=contents)
                    entry = self._renamed(entry, options.base, names)
                with _saying(entry.path):
                    self._store((*(names or ()), *path), entry)
            with _saying(b"/".join(level.name for level in self._levels)):
                self._leave(0)
        finally:
            while self._levels:
                os.close(self._levels.pop().directory)
        if names is None:
            raise CopyError("the archive is empty")
        self._notes.finish()

    def _renamed(self, entry: TarEntry, base: bytes, names: Sequence[bytes]) -> TarEntry:
        """Let a hard link lead to where its target is stored."""
        if entry.kind != HARD_LINK:
            return entry
        return entry._replace(target=b"/".join((*names, *_without_base(_parts(entry.target), base))))

    def _store(self, path: Sequence[bytes], entry: TarEntry) -> None:
        if not path:
            # The directory is there already, and stays as it is.
            return
        *above, name = path
        parent = self._enter(above)
        if entry.kind == DIRECTORY:
            self._make_directory(parent, name, entry)
        elif entry.kind == FILE:
            self._file(parent, name, entry)
        elif entry.kind == LINK:
            self._link(parent, name, entry)
        elif entry.kind == HARD_LINK:
            self._hard_link(parent, name, entry)
        else:
            self._notes.add(f"left out: {shown(entry.path)} is a device, a FIFO or a socket")
            return
        self.files += 1

    def _enter(self, path: Sequence[bytes]) -> int:
        """Return the directory of these names, which is made if need be."""
        shared = 0
        while shared < min(len(path), len(self._levels)) and self._levels[shared].name == path[shared]:
            shared += 1
        self._leave(shared)
        if len(path) > DEEPEST:
            raise CopyError(f"{shown(b'/'.join(path))} is deeper than {DEEPEST} directories")
        for name in path[shared:]:
            self._open(name, None)
        return self._levels[-1].directory if self._levels else self._target.anchor

    def _open(self, name: bytes, entry: TarEntry | None) -> None:
        above = self._levels[-1].directory if self._levels else self._target.anchor
        try:
            opened = os.open(name, _DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            os.mkdir(name, 0o700 if entry is not None else 0o755, dir_fd=above)
            opened = os.open(name, _DIRECTORY, dir_fd=above)
        try:
            self._kernel.check(opened, shown(name))
        except BaseException:
            os.close(opened)
            raise
        self._levels.append(_Level(name, opened, entry))

    def _leave(self, kept: int) -> None:
        """Close the directories below the first `kept`; each gets its mode and time now, when it is whole."""
        while len(self._levels) > kept:
            level = self._levels.pop()
            with Closing(level.directory):
                if level.entry is not None:
                    self._describe(level.directory, level.entry)

    def _make_directory(self, parent: int, name: bytes, entry: TarEntry) -> None:
        try:
            self._open(name, entry)
        except (NotADirectoryError, OSError) as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise CopyError(
                f"{shown(entry.path)} is there, and no directory; it is not replaced by one"
            ) from None

    def _describe(self, opened: int, entry: TarEntry) -> None:
        """Give an open file its owner, mode and time."""
        mode = entry.mode & 0o777 & ~self._umask
        if self._owners:
            os.fchown(opened, entry.uid, entry.gid)
            # After the owner, which takes set-user-ID away.
            mode = entry.mode
        os.fchmod(opened, mode)
        os.utime(opened, ns=(entry.mtime, entry.mtime))

    def _file(self, parent: int, name: bytes, entry: TarEntry) -> None:
        there = _kind(parent, name)
        if there is None and not self._single:
            self._make(parent, name, entry)
            return
        if there is not None:
            if stat.S_ISDIR(there.mode):
                raise CopyError(f"{shown(entry.path)} is a directory there; it is not replaced by a file")
            if not (stat.S_ISREG(there.mode) or stat.S_ISLNK(there.mode)):
                raise CopyError(f"{shown(name)} is a device, a FIFO or a socket there; it is not replaced")
            if there.mounted:
                self._in_place(parent, name, entry)
                return
        with self._nameless(parent) as new:
            if new is not None:
                self._fill(new, entry)
                self._describe(new, entry)
                if self._named(new, parent, name):
                    return
                os.lseek(new, 0, os.SEEK_SET)
            self._beside(parent, name, entry, new)

    @contextlib.contextmanager
    def _nameless(self, parent: int) -> Iterator[int | None]:
        """Make a file without a name, of which nothing stays if this process dies; None if that fails."""
        opened: int | None = None
        with Ignoring(*_NAMELESS):
            opened = os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            yield opened
        finally:
            if opened is not None:
                os.close(opened)

    def _named(self, new: int, parent: int, name: bytes) -> bool:
        """Give a file without a name this one, in place of any other; False if the file system can't."""
        temporary = _temporary()
        with Ignoring(*_NAMELESS):
            os.link(
                str(new).encode(),
                temporary,
                src_dir_fd=self._descriptors,
                dst_dir_fd=parent,
                follow_symlinks=True,
            )
            _rename(parent, temporary, name)
            return True
        return False

    def _beside(self, parent: int, name: bytes, entry: TarEntry, filled: int | None) -> None:
        """Write a file under another name, and rename it; `filled` has the content if it was read already."""
        temporary = _temporary()
        self._make(parent, temporary, entry, filled)
        _rename(parent, temporary, name)

    def _make(self, parent: int, name: bytes, entry: TarEntry, filled: int | None = None) -> None:
        """Make a new file; nothing of it stays after an error."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS
        with Closing(os.open(name, flags, 0o600, dir_fd=parent)) as new:
            try:
                if filled is None:
                    self._fill(new, entry)
                else:
                    while os.sendfile(new, filled, None, 1 << 24):
                        pass
                self._describe(new, entry)
            except BaseException:
                with Ignoring(errno.ENOENT):
                    os.unlink(name, dir_fd=parent)
                raise

    def _in_place(self, parent: int, name: bytes, entry: TarEntry) -> None:
        """Write into a file that is a mount point, which no other can replace."""
        with Closing(os.open(name, os.O_PATH | _NO_LINKS, dir_fd=parent)) as found:
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise CopyError(f"{shown(name)} changed while it was copied")
            self._kernel.check(found, shown(name))
            flags = os.O_WRONLY | os.O_TRUNC | os.O_NOCTTY | os.O_CLOEXEC
            with Closing(os.open(str(found), flags, dir_fd=self._descriptors)) as opened:
                self._fill(opened, entry)
        self._notes.add(f"{shown(name)} is a mount of its own, so it was written in place, not replaced")

    def _fill(self, opened: int, entry: TarEntry) -> None:
        """Write the entry's content; pieces that are all zeros become holes."""
        while piece := self._reader.content():
            self.size += len(piece)
            if not any(memoryview(piece)[::4096]) and piece.count(0) == len(piece):
                os.lseek(opened, len(piece), os.SEEK_CUR)
                continue
            view = memoryview(piece)
            while view:
                view = view[os.write(opened, view) :]
        os.ftruncate(opened, entry.size)

    def _link(self, parent: int, name: bytes, entry: TarEntry) -> None:
        there = _kind(parent, name)
        if there is not None and stat.S_ISDIR(there.mode):
            raise CopyError(f"{shown(entry.path)} is a directory there; it is not replaced by a link")
        temporary = _temporary()
        os.symlink(entry.target, temporary, dir_fd=parent)
        try:
            if self._owners:
                with Closing(os.open(temporary, os.O_PATH | _NO_LINKS, dir_fd=parent)) as made:
                    if stat.S_ISLNK(os.fstat(made).st_mode):
                        call("fchownat", made, b"", entry.uid, entry.gid, AT_EMPTY_PATH)
        except BaseException:
            os.unlink(temporary, dir_fd=parent)
            raise
        _rename(parent, temporary, name)
        if self._single and name == self._target.name:
            self.link = entry.target

    def _hard_link(self, parent: int, name: bytes, entry: TarEntry) -> None:
        *above, last = _parts(entry.target) or (b"",)
        directory = os.dup(self._target.anchor)
        try:
            for part in above:
                below = os.open(part, os.O_PATH | os.O_DIRECTORY | _NO_LINKS, dir_fd=directory)
                os.close(directory)
                directory = below
            found = _kind(directory, last)
            if found is None or not stat.S_ISREG(found.mode):
                raise CopyError(f"{shown(entry.path)} is a hard link to what is not in the archive")
            temporary = _temporary()
            os.link(last, temporary, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
            _rename(parent, temporary, name)
            with Ignoring(errno.ENOENT):
                # A rename onto another name of the same file does nothing.
                os.unlink(temporary, dir_fd=parent)
        finally:
            os.close(directory)


class _There(NamedTuple):
    mode: int
    mounted: bool


def _kind(parent: int, name: bytes) -> _There | None:
    try:
        found = os.open(name, os.O_PATH | _NO_LINKS, dir_fd=parent)
    except FileNotFoundError:
        return None
    with Closing(found):
        return _There(os.fstat(found).st_mode, place_of(found).is_root)


def _rename(parent: int, temporary: bytes, name: bytes) -> None:
    try:
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with Ignoring(errno.ENOENT):
            os.unlink(temporary, dir_fd=parent)
        raise


def _temporary() -> bytes:
    return b".tank-cp." + os.urandom(8).hex().encode()


def _parts(path: bytes) -> tuple[bytes, ...]:
    parts = tuple(part for part in path.split(b"/") if part not in (b"", b"."))
    if b".." in parts or b"\0" in path:
        raise CopyError(f"the archive has the path {shown(path)}, which leads out of it")
    return parts


def _without_base(path: tuple[bytes, ...], base: bytes) -> tuple[bytes, ...]:
    if base == b".":
        return path
    if not path or path[0] != base:
        raise CopyError("the archive has names that were not asked for")
    return path[1:]


@contextlib.contextmanager
def _saying(path: bytes) -> Iterator[None]:
    """Turn an error of the kernel into a sentence about this entry."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        words = _WORDS.get(number) or f"can't be stored: {os.strerror(number)}"
        raise CopyError(f"{shown(path)} {words}", _HINTS.get(number, "")) from error
