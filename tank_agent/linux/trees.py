"""Remove directory trees that somebody else filled: of any depth, through directory descriptors only.

A container's program can make a tree that is deeper than a process may have open files or stack frames, and
in which no path is short enough to be opened. So directories deeper than a few levels are moved to the top,
and removed from there.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from tank_agent.errors import TankError
from tank_agent.linux.paths import RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, Closing, open_at

_log = structlog.get_logger()
_STOP_DEADLINE = 5.0
# The suffix of a file that holds why the tree beside it is still there.
REASON = ".why"
# Two descriptors are open for each level.
_LEVELS = 32
# An entry may be left out of a listing while others of its directory are removed (readdir(3)).
_PASSES = 3
_NOT_EMPTY = frozenset({errno.ENOTEMPTY, errno.EEXIST})


def remove_tree(path: Path) -> None:
    """Remove a directory and all below it, or a file, if it is there; links in it are not followed.

    All that can be removed is; then an OSError names the first path that could not. Mounts are not entered.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    # If it is not found, somebody else was faster.
    with contextlib.suppress(FileNotFoundError), Closing(os.open(path.parent, flags)) as parent:
        _Removal(path, parent).run()


def try_remove_tree(path: Path) -> None:
    """Remove a tree as far as possible, and ignore errors."""
    with contextlib.suppress(OSError):
        remove_tree(path)


@contextlib.contextmanager
def left_for_later(what: str) -> Iterator[None]:
    """Log that something cannot be removed, and go on: the next agent tries again."""
    try:
        yield
    except (OSError, TankError) as error:
        _log.warning("cannot remove what a former agent left", what=what, error=str(error))


class Trash:
    """Deletes trees in a thread of its own, since a container may have written millions of files.

    What cannot be deleted stays, with the reason in a file beside it, for `tank doctor`. The next agent tries
    it again, and deletes what a killed agent left. The directory is private, on the file system of the trees.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._waiting: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._directory.chmod(0o700)
        # Trees that could not be deleted come last.
        reasons = {path.stem for path in self._directory.glob(f"*{REASON}")}
        left = [path for path in self._directory.iterdir() if path.suffix != REASON]
        for path in sorted(left, key=lambda path: path.name in reasons):
            self._waiting.put(path)
        self._thread = threading.Thread(target=self._run, name="trash", daemon=True)
        self._thread.start()

    def throw(self, path: Path) -> None:
        """Take a tree away, if it is there; OSError if it cannot be moved."""
        target = self._directory / secrets.token_hex(8)
        with contextlib.suppress(FileNotFoundError):
            path.rename(target)
            self._waiting.put(target)

    def close(self) -> None:
        """End the thread after the tree that it deletes, or leave it running if that takes long."""
        self._waiting.put(None)
        self._thread.join(_STOP_DEADLINE)

    def _run(self) -> None:
        while (path := self._waiting.get()) is not None:
            reason = path.with_suffix(REASON)
            try:
                remove_tree(path)
                reason.unlink(missing_ok=True)
            except Exception as error:
                # Of any kind: the trees after this one must be deleted all the same.
                _log.warning("cannot delete what a container left", path=str(path), error=str(error))
                with contextlib.suppress(OSError):
                    reason.write_text(str(error) or type(error).__name__, errors="replace")


class _Removal:
    def __init__(self, path: Path, parent: int) -> None:
        self._path, self._parent, self._top = path, parent, -1
        self._names: list[str] = []
        self._error: OSError | None = None
        self._removed = self._moved = 0

    def run(self) -> None:
        name = self._path.name
        try:
            self._top = _open_directory(self._parent, name)
        except NotADirectoryError:
            os.unlink(name, dir_fd=self._parent)
            return
        except OSError as error:
            raise _with_path(error, self._path) from error
        try:
            for number in itertools.count(1):
                self._error, self._removed, moved = None, 0, self._moved
                self._empty(self._top)
                if self._attempt(os.rmdir, name, self._parent):
                    return
                if self._moved == moved and (not self._removed or number >= _PASSES):
                    break
        finally:
            os.close(self._top)
        raise self._error or OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(self._path))

    def _empty(self, directory: int) -> None:
        with os.scandir(directory) as entries:
            for entry in entries:
                self._names.append(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    self._remove_directory(directory, entry.name)
                else:
                    self._attempt(os.unlink, entry.name, directory)
                self._names.pop()

    def _remove_directory(self, directory: int, name: str) -> None:
        # Most directories are empty. The error of another one is noted below.
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=directory)
            self._removed += 1
            return
        if len(self._names) > _LEVELS:
            self._attempt(self._move, name, directory)
            return
        try:
            child = _open_directory(directory, name)
        except OSError as error:
            self._failed(error)
            return
        with Closing(child):
            self._empty(child)
        self._attempt(os.rmdir, name, directory)

    def _move(self, name: str, *, dir_fd: int) -> None:
        target = f".{secrets.token_hex(8)}"
        os.rename(name, target, src_dir_fd=dir_fd, dst_dir_fd=self._top)
        self._moved += 1

    def _attempt(self, function: Callable[..., object], name: str, directory: int) -> bool:
        """Do something to an entry; False, with the error noted, if that cannot be done."""
        try:
            function(name, dir_fd=directory)
        except FileNotFoundError:
            return True
        except OSError as error:
            # The entries of a directory that is not empty have errors of their own.
            if error.errno not in _NOT_EMPTY:
                self._failed(error)
            return False
        self._removed += 1
        return True

    def _failed(self, error: OSError) -> None:
        named = _with_path(error, self._path.joinpath(*self._names))
        if error.errno == errno.EROFS and os.fstatvfs(self._top).f_flag & os.ST_RDONLY:
            # Nothing else here can be removed, however much there is. Only a part may be read-only, too: a
            # container can make such a subvolume of btrfs.
            raise named from error
        self._error = self._error or named


def _open_directory(parent: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        return open_at(parent, name, flags, resolve=RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from error
        if error.errno == errno.EXDEV:
            message = f"{os.strerror(errno.EBUSY)}: something is mounted there"
            raise OSError(errno.EBUSY, message, name) from error
        raise


def _with_path(error: OSError, path: Path) -> OSError:
    return OSError(error.errno, error.strerror, str(path))
