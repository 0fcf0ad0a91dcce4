"""Make the socket that the agent listens at: atomically, with the right mode, never for two agents."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tank_agent.errors import Stalled
from tank_agent.linux.locks import locked_directory

# `sun_path` holds 108 bytes with its NUL (unix(7)).
MAX_SOCKET_PATH = 107
_LOCK_TIMEOUT = 5.0


def short_path(directory: int, name: str) -> str:
    """Return a path short enough for a socket address, whatever the length of the directory's own path.

    Raises:
        Stalled: the name alone is too long.
    """
    path = f"/proc/self/fd/{directory}/{name}"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise Stalled(
            f"the socket's name is too long: {name}", hint="use a shorter file name, such as tank.sock"
        )
    return path


def group_id(name: str) -> int | None:
    """Return the number of a group, or None if this machine has none of that name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def listen(path: Path, group: int | None, backlog: int) -> socket.socket:
    """Listen at a path: 0660 and the given group, or 0600 without one. A dead agent's socket is replaced.

    The socket gets its mode under a temporary name, so that at its own name it never has a wider one.

    Raises:
        Stalled: an agent answers there, or something that is no socket is in the way.
        OSError: the directory can't be made or written.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _locked(path.parent) as directory, ExitStack() as undo:
        _refuse_live(directory, path)
        temporary = f".{secrets.token_hex(4)}.sock"
        listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(short_path(directory, temporary))
        undo.callback(os.unlink, temporary, dir_fd=directory)
        if group is not None:
            os.chown(temporary, -1, group, dir_fd=directory)
        os.chmod(temporary, 0o660 if group is not None else 0o600, dir_fd=directory)
        listener.listen(backlog)
        os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        undo.pop_all()
    return listener


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the socket at a path; None if there is no socket."""
    try:
        status = path.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISSOCK(status.st_mode) else None


def remove(path: Path, listener: socket.socket) -> None:
    """Unlink the socket's name, unless another agent has taken it over.

    A listening socket answers for its own inode only, so an attempt to connect shows whether it is another's.
    """
    listener.close()
    with contextlib.suppress(FileNotFoundError), _locked(path.parent) as directory:
        if not _answers(directory, path.name):
            os.unlink(path.name, dir_fd=directory)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold the directory's lock, so that two agents that start at once see each other."""
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(locked_directory(path, _LOCK_TIMEOUT))
        except TimeoutError:
            raise Stalled(
                "another process holds the lock of the run directory", where=os.fspath(path)
            ) from None
        yield directory


def _refuse_live(directory: int, path: Path) -> None:
    try:
        mode = os.stat(path.name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Stalled("a file that is no socket is in the way", where=os.fspath(path), hint="move it away")
    if _answers(directory, path.name):
        raise Stalled(
            "an agent is already running and listens there",
            where=os.fspath(path),
            hint="stop it first, or give this one its own --run-dir and --data-dir",
        )


def _answers(directory: int, name: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(short_path(directory, name))
    if code == errno.ENOENT:
        return False
    # EAGAIN: its queue of callers is full, so it lives.
    return code != errno.ECONNREFUSED
