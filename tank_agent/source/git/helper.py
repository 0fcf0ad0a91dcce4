"""The process that talks to the remote and parses what it says: bounded, without rights, short-lived.

Started by `child` with a socket as its stdin. Order matters: load the code while it can be read, take the
descriptors, build a view of the file system in which only the scratch directory can be written, set limits,
give up root, and only then look at anything that a stranger wrote.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from tank_agent.linux import mounts
from tank_agent.linux.allowances import lower_limit
from tank_agent.linux.libc import SYS_MOUNT_SETATTR, SYS_MOVE_MOUNT, SYS_OPEN_TREE, call, syscall
from tank_agent.source.git import protocol
from tank_agent.source.git.objects import BadObjectError, printable
from tank_agent.source.git.protocol import (
    Done,
    Failed,
    Fetch,
    Fetched,
    ListRefs,
    ReadHistory,
    ReadTree,
    Refs,
    Setup,
)
from tank_agent.source.git.transport import Context, GitError, GitTransport, advise

# linux/sched.h, linux/prctl.h, linux/mount.h, linux/fcntl.h
_CLONE_NEWNS = 0x20000
_MS_SLAVE = 1 << 19
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_OPEN_TREE_CLONE = 1
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_AT_FDCWD = -100
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_RDONLY = 1
# Directories that every system has and that hold nothing we need: our own little tree is mounted over one.
_STAGES = ("/mnt", "/media", "/srv")


class Places(Struct, frozen=True, kw_only=True):
    """Where the helper finds its directories: `private` for key files, `local` the remote if it is here."""

    private: Path
    scratch: Path
    objects: Path
    local: Path | None = None


def main(*, reserve: bool = False) -> None:
    """Serve one agent until it hangs up; `reserve` loads what a push will need before it comes."""
    call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Bound to be needed, and perhaps not readable any more once we are somebody else.
    import dulwich.client
    import dulwich.repo  # noqa: F401

    if reserve:
        import tank_agent.source.git.reader
        import tank_agent.source.git.with_dulwich  # noqa: F401

    channel = socket.socket(fileno=os.dup(0))
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.close(devnull)
    try:
        setup, descriptors = protocol.receive_setup(channel)
    except EOFError:
        return
    try:
        session = _Session(setup, confine(setup, descriptors))
        while True:
            session.answer(channel, protocol.receive(channel, protocol.REQUEST))
    except EOFError:
        return
    except GitError as error:
        protocol.send(channel, Failed(error.kind, error.message, error.hint))


def confine(setup: Setup, descriptors: list[int]) -> Places:
    """Take away all that this session does not need, and return where things are now.

    Raises:
        GitError: as root, if the file system cannot be made read-only.
    """
    given = dict(zip(setup.descriptors, descriptors, strict=True))
    limits = setup.limits
    if "http" in setup.remote.scheme and setup.transport == "dulwich":
        import urllib3  # noqa: F401
    places = _stage(given, setup.uid) if os.geteuid() == 0 else _unstaged(given)
    # Each is a way round the read-only view: from it, .. leads through the machine's own mounts.
    for descriptor in descriptors:
        os.close(descriptor)
    for kind, value in (
        (resource.RLIMIT_FSIZE, limits.file_size),
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_CPU, limits.cpu),
        (resource.RLIMIT_NOFILE, 1024),
        (resource.RLIMIT_CORE, 0),
    ):
        lower_limit(kind, value)
    if setup.uid is not None and setup.gid is not None and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(setup.gid, setup.gid, setup.gid)
        os.setresuid(setup.uid, setup.uid, setup.uid)
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Cleared by the change of user.
    call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.umask(0o022)
    tempfile.tempdir = os.fspath(places.scratch)
    os.chdir(places.private)
    return places


class _Attributes(ctypes.Structure):
    """struct mount_attr (mount_setattr(2))."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def _stage(given: dict[str, int], uid: int | None) -> Places:
    """Mount what was given in a private mount namespace, in which all else is read-only.

    Paths through /proc/self/fd would do for us, but git resolves them, and then needs every directory above.
    """
    stage = next((path for path in map(Path, _STAGES) if path.is_dir()), None)
    if stage is None:
        raise GitError("refused", f"none of {', '.join(_STAGES)} exists", hint="create the directory /mnt")
    try:
        trees = {
            name: syscall(SYS_OPEN_TREE, fd, b"", _OPEN_TREE_CLONE | _AT_EMPTY_PATH)
            for name, fd in given.items()
        }
        call("unshare", _CLONE_NEWNS)
        # A slave: the host's later unmounts still reach us, so that we keep no container's file system busy.
        mounts.mount("none", "/", "none", mounts.MS_REC | _MS_SLAVE)
        attributes = _Attributes(attr_set=_MOUNT_ATTR_RDONLY)
        size = ctypes.sizeof(attributes)
        syscall(SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(attributes), size)
        flags = mounts.MS_NOSUID | mounts.MS_NODEV
        mounts.mount("tmpfs", stage, "tmpfs", flags, "size=4m,mode=0755")
        for name, tree in trees.items():
            place = stage / name
            place.mkdir()
            if name != "scratch":
                syscall(SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
            syscall(SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(place), _MOVE_MOUNT_F_EMPTY_PATH)
            os.close(tree)
    except OSError as error:
        raise GitError(
            "refused", f"cannot confine the git helper: {error}", hint="see `tank doctor`"
        ) from error
    private = stage / "private"
    private.mkdir(mode=0o700)
    if uid is not None:
        os.chown(private, uid, -1)
    return Places(private=private, **{name: stage / name for name in given})


def _unstaged(given: dict[str, int]) -> Places:
    """Use the directories as they are: without root there is nothing to confine and nobody to protect."""
    places = {name: Path(f"/proc/self/fd/{fd}").readlink() for name, fd in given.items()}
    private = places["scratch"] / "private"
    private.mkdir(mode=0o700, exist_ok=True)
    return Places(private=private, **places)


class _Session:
    """Answers requests, one after the other."""

    def __init__(self, setup: Setup, places: Places) -> None:
        self._setup = setup
        self._places = places

    def answer(self, channel: socket.socket, request: protocol.Request) -> None:
        """Send everything that answers one request; the last message ends the answer."""
        # The agent kills us at its deadline; this is for the case that it cannot any more.
        signal.setitimer(signal.ITIMER_REAL, self._setup.limits.wall + 5)
        try:
            for reply in self._replies(request):
                protocol.send(channel, reply)
        except GitError as error:
            protocol.send(channel, Failed(error.kind, error.message, error.hint))
        except MemoryError:
            protocol.send(channel, Failed("too-big", "the answer needs more memory than is allowed"))
        except OSError:
            raise
        except Exception as error:
            if isinstance(request, ListRefs | Fetch):
                text = printable(f"{type(error).__name__}: {error}", 200)
                protocol.send(channel, Failed("broken", f"the server's answer cannot be used: {text}"))
            else:
                text = printable(
                    str(error) if isinstance(error, BadObjectError) else f"{type(error).__name__}: {error}"
                )
                protocol.send(channel, Failed("corrupt", f"the local copy is damaged: {text}"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _replies(self, request: protocol.Request) -> Iterator[Struct]:
        match request:
            case ListRefs() | Fetch():
                yield self._reply_of_remote(request)
            case ReadHistory() | ReadTree():
                from tank_agent.source.git.reader import Reader

                reader = Reader(os.fspath(self._places.objects), self._setup.limits)
                try:
                    yield from (
                        reader.history(request) if isinstance(request, ReadHistory) else reader.tree(request)
                    )
                finally:
                    reader.close()
                yield Done()

    def _reply_of_remote(self, request: ListRefs | Fetch) -> Refs | Fetched:
        context = self._context()
        try:
            transport = self._transport(context)
            if isinstance(request, ListRefs):
                return Refs(transport.list_refs(request.names))
            self._stand_on_what_we_have()
            return Fetched(transport.fetch(request.wanted, self._places.scratch))
        except GitError as error:
            raise advise(error, context) from error

    def _stand_on_what_we_have(self) -> None:
        alternates = self._places.scratch / "objects/info/alternates"
        alternates.write_text(f"{self._places.objects}\n", encoding="utf-8")

    def _context(self) -> Context:
        setup, local = self._setup, self._places.local
        if local is not None and not os.access(local, os.R_OK | os.X_OK):
            # Git and dulwich would say that it is no repository.
            hint = "give it to the user who pushes, or let git.run_as read it"
            raise GitError("refused", "the repository may not be read", hint=hint)
        return Context(
            remote=setup.remote,
            access=setup.access,
            private=self._places.private,
            local=local,
            timeout=min(30.0, setup.limits.wall),
            largest_file=setup.limits.blob,
        )

    def _transport(self, context: Context) -> GitTransport:
        if self._setup.transport == "git":
            from tank_agent.source.git.with_git import CommandTransport

            return CommandTransport(context)
        from tank_agent.source.git.with_dulwich import DulwichTransport

        return DulwichTransport(context)
