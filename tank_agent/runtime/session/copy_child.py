"""The two processes of `tank cp` in a container: one watches, and one is inside and moves the bytes.

    python -I -S -c '...; serve()' LIBRARY REQUEST

The archive is standard input or output, notes go to standard error as lines, and the result is one line in
the report: `ok`, or `failed MESSAGE`, a NUL, and a hint.

The one inside enters the container's mount namespace, and its user namespace if it has one, and makes the
container's root its own: every path leads where it leads in the container, and there is no way out, whatever
the container swaps meanwhile. It is not in the container's PID namespace, so that nothing there sees it. It
keeps the capabilities for owners and modes only, no network, and little memory. Nothing of the container is
loaded: all that it needs is imported before, users and groups stay numbers, and times UTC.

The one that watches ends it when the container or the agent ends, and when no byte has moved for long.
"""

from __future__ import annotations

import errno
import gc
import io
import json
import mmap
import os
import resource
import select
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple, NoReturn

from tank_agent.linux import confine, mounts
from tank_agent.linux.copy_target import A_DIRECTORY, is_contents, open_target, split_source
from tank_agent.linux.kernel_files import KernelFiles
from tank_agent.linux.paths import Closing, open_in_root, real_path_in_root
from tank_agent.linux.roots import find_root, open_directory
from tank_agent.linux.tar_stream import CopyError, TarReader, shown
from tank_agent.linux.tree_pack import Notes, Packer
from tank_agent.linux.tree_unpack import Options, Unpacker

_KEPT = (confine.CHOWN, confine.DAC_OVERRIDE, confine.FOWNER, confine.FSETID)
_MEMORY = 512 << 20
_DESCRIPTORS = 2048
_MESSAGE = 3000
_LOOK = 1.0
_KILLED_WITHIN = 5.0
_BEAT = struct.Struct("=Q")
_BUFFER = 1 << 20
_PIECE = 64 << 10
_ENDED = "the container ended while it was copied"
_WORDS = {
    errno.ESRCH: _ENDED,
    errno.ENOENT: "there is no {path} in the container",
    errno.ENOTDIR: "{path} is no directory in the container, or below something that is none",
    errno.ELOOP: "{path} leads through links in circles, or into /proc",
    errno.EACCES: "{path} may not be read",
    errno.ESTALE: "the container's root directory was not found",
    errno.ENOSPC: "the file system is full",
}


class CopyRequest(NamedTuple):
    """What to copy; `base` None stands for an archive of any names.

    `process` and `report` are descriptors, `root` device and inode of the container's root (empty: that of
    its main process), `silence` is in seconds.
    """

    process: int
    report: int
    path: str
    read: bool
    own_users: bool
    root: tuple[int, ...] = ()
    base: str | None = None
    contents: bool = False
    owners: bool = False
    follow: bool = False
    silence: float = 300.0


def serve() -> None:
    """Start the process inside, and watch it until its end."""
    request = CopyRequest(*json.loads(sys.argv[2]))
    confine.die_with_parent()
    beats = mmap.mmap(-1, mmap.PAGESIZE)
    gc.freeze()
    watcher = os.getpid()
    worker = os.fork()
    if worker == 0:
        _work(request, beats, watcher)
    inside = os.pidfd_open(worker)
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    if reason := _watch(request, inside, beats):
        _end(inside, _KILLED_WITHIN)
        _report(request.report, f"failed {reason}\0")
        return
    _, status = os.waitpid(worker, 0)
    if os.WIFSIGNALED(status):
        _report(request.report, f"failed the copying process was killed by signal {os.WTERMSIG(status)}\0")


def _watch(request: CopyRequest, inside: int, beats: mmap.mmap) -> str:
    """Return why to kill the process inside; empty once it has ended."""
    poller = select.poll()
    poller.register(inside, select.POLLIN)
    poller.register(request.process, select.POLLIN)
    last, silent = -1, 0.0
    while True:
        ready = dict(poller.poll(_LOOK * 1000))
        if inside in ready:
            return ""
        if request.process in ready:
            return _ENDED
        (now,) = _BEAT.unpack_from(beats)
        silent = 0.0 if now != last else silent + _LOOK
        last = now
        if silent >= request.silence:
            return f"nothing moved for {request.silence:g} s"


def _end(process: int, within: float) -> None:
    """Kill a process, and wait for its end.

    Not for ever: a file system that answers no more (FUSE of the container's own, NFS) holds it until then.
    """
    signal.pidfd_send_signal(process, signal.SIGKILL)
    poller = select.poll()
    poller.register(process, select.POLLIN)
    poller.poll(within * 1000)


def _work(request: CopyRequest, beats: mmap.mmap, watcher: int) -> NoReturn:
    """Copy in the forked child, which never returns."""
    code = 1
    try:
        _report(request.report, _verdict(request, beats, watcher))
        code = 0
    finally:
        os._exit(code)


def _verdict(request: CopyRequest, beats: mmap.mmap, watcher: int) -> str:
    try:
        with ExitStack() as stack:
            root, descriptors = _enter(request, watcher, stack)
            (_read if request.read else _write)(request, root, descriptors, _beating(beats))
    except CopyError as error:
        return f"failed {error}\0{error.hint}"
    except MemoryError:
        return "failed it takes too much memory\0"
    except OSError as error:
        words = _WORDS.get(error.errno or 0, f"{{path}} can't be copied: {error.strerror}")
        return f"failed {words.format(path=shown(os.fsencode(request.path)))}\0"
    except Exception as error:
        # The agent gets every error, also one that is a bug.
        return f"failed {type(error).__name__}: {error}\0"
    return "ok"


def _report(descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode(errors="replace")[:_MESSAGE])


def _enter(request: CopyRequest, watcher: int, stack: ExitStack) -> tuple[int, int]:
    """Enter the container's file system for good; return its root, and the directory of our descriptors."""
    confine.leave_network_and_ipc()
    # A copy of the mount, of which nothing above can be reached.
    descriptors = stack.enter_context(Closing(mounts.clone("/proc/self/fd", recursive=False)))
    own = open_directory(f"/proc/{_process_id(request.process)}/root", stack)
    confine.join(request.process, users=request.own_users)
    with ExitStack() as looking:
        top = open_directory("/", looking)
        found = find_root((request.root[0], request.root[1]), top, own, looking) if request.root else own
        os.fchdir(found)
        os.chroot(".")
    root = open_directory("/", stack)
    os.close(request.process)
    # What is not imported yet would come from the container.
    sys.meta_path.clear()
    sys.path.clear()
    if request.own_users:
        confine.become(0, 0)
    confine.keep_capabilities(_KEPT)
    confine.gain_no_privileges()
    confine.die_with_parent()
    if os.getppid() != watcher:
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
    confine.lower_limit(resource.RLIMIT_AS, _MEMORY)
    confine.lower_limit(resource.RLIMIT_CORE, 0)
    confine.lower_limit(resource.RLIMIT_NOFILE, _DESCRIPTORS)
    os.umask(0o022)
    return root, descriptors


def _process_id(process: int) -> int:
    with open(f"/proc/self/fdinfo/{process}", encoding="ascii") as file:
        fields = file.read().split()
    number = int(fields[fields.index("Pid:") + 1])
    if number <= 0:
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
    return number


def _beating(beats: mmap.mmap) -> Callable[[], None]:
    count = 0

    def beat() -> None:
        nonlocal count
        count += 1
        _BEAT.pack_into(beats, 0, count)

    return beat


def _read(request: CopyRequest, root: int, descriptors: int, beat: Callable[[], None]) -> None:
    """Write the archive of a path to standard output."""
    path, base, contents = split_source(request.path)
    entered = contents or request.path.endswith("/")
    flags = (
        os.O_PATH | (os.O_DIRECTORY if entered else 0) | (0 if entered or request.follow else os.O_NOFOLLOW)
    )
    with Closing(open_in_root(root, path, flags)) as top, open(1, "wb", buffering=_PIECE) as output:

        def put(data: bytes) -> None:
            output.write(data)
            beat()

        Packer(put, descriptors, Notes(_note), KernelFiles()).pack(top, base)


def _write(request: CopyRequest, root: int, descriptors: int, beat: Callable[[], None]) -> None:
    """Store the archive of standard input at a path."""

    def real(path: str) -> str:
        return real_path_in_root(root, path)

    def opened(path: str, flags: int) -> int:
        return open_in_root(root, path, flags)

    path = os.path.normpath("/" + request.path)
    ending = "/." if is_contents(request.path) else "/" if request.path.endswith("/") else ""
    target = open_target(path.replace("//", "/") + ending, real, opened)
    with Closing(target.anchor), io.FileIO(0, "rb", closefd=False) as raw:
        reader = TarReader(io.BufferedReader(_Beating(raw, beat), _BUFFER))
        unpacker = Unpacker(reader, target, descriptors, Notes(_note), KernelFiles())
        base = None if request.base is None else os.fsencode(request.base)
        if base is None and target.found != A_DIRECTORY:
            raise CopyError(
                f"{target.shown} is no directory in the container; an archive is unpacked into one"
            )
        unpacker.unpack(Options(base, request.contents, request.owners))


def _note(text: str) -> None:
    os.write(2, f"{text}\n".encode(errors="replace"))


class _Beating(io.RawIOBase):
    """A pipe to read that says when bytes come."""

    def __init__(self, raw: io.FileIO, beat: Callable[[], None]) -> None:
        self._raw = raw
        self._beat = beat

    def readable(self) -> bool:
        """Return whether it can be read."""
        return self._raw.readable()

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        """Read what is there."""
        size = self._raw.readinto(buffer)
        self._beat()
        return size
