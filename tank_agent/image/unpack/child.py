"""The process that unpacks layers: for each one it makes a child that shuts itself in and lets GNU tar write.

    python -I -S -c '...; serve()' ROOT LIBRARIES     with a SOCK_SEQPACKET socket as standard input

A request is one message: the words of `LayerRequest`, separated by NUL, with two descriptors: the compressed
layer to read, and where to report. The answer is a pidfd of the child. The process ends when the socket does.

What the child and its tar can reach once they read the layer: the layer's directory, which is `/` to them. No
other file, no network, six capabilities, limits on memory, CPU time and file size. Decompression, digest and
headers are done there too: a bug in them is no bug in the agent. Links of the layer lead where they lead in a
container, whether absolute or with `..`, since the layer's directory is the root.

The report is lines of words: `opaque HEX-PATH` and `implicit LINE` (tarfilter.packed) in any number, and at
last one of `ok DIFF_ID SIZE ENTRIES`, `refused MESSAGE` (the layer is to blame), `failed MESSAGE` (the
machine is). A report without its last line is none.

Python starts once per pull and not once per layer, since loading OpenSSL alone takes longer than unpacking a
small layer. So this module imports little, and only one thread ever runs here: fork needs that.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import fcntl
import gc
import os
import resource
import select
import signal
import stat
import struct
import sys
import termios
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from tank_agent.image.unpack.decompress import GZIP, HEAD, ZSTD, BadLayerError, load_library, plain
from tank_agent.image.unpack.tarfilter import BLOCK, TarFilter, packed
from tank_agent.linux import mounts
from tank_agent.linux.allowances import enlarge_pipe, lower_limit
from tank_agent.linux.libc import SYS_MOUNT_SETATTR, SYS_MOVE_MOUNT, SYS_OPEN_TREE, call, syscall
from tank_agent.linux.paths import open_in_root

# linux/sched.h, linux/mount.h, linux/fcntl.h, linux/prctl.h, linux/capability.h
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x20000, 0x8000000, 0x40000000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH, _AT_EMPTY_PATH = 1, 4, 0x1000
_MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV, _MOUNT_ATTR_NOEXEC = 2, 4, 8
_INT = struct.calcsize("i")
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_CAPABILITY_VERSION_3 = 0x20080522
_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _MKNOD, _SETFCAP = 0, 1, 3, 4, 27, 31
_KEPT = (_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _MKNOD, _SETFCAP)

_TREES = ("bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
PIPE = 1 << 20
_MESSAGE = 4000
_START_TIMEOUT = 30.0
_REAP = 0.02
TAR_OPTIONS = (
    "--extract",
    # Its root is the layer's directory. Without this it keeps links back until the end, and can't go through.
    "--absolute-names",
    "--file=-",
    "--numeric-owner",
    "--same-owner",
    "--same-permissions",
    "--delay-directory-restore",
    "--xattrs",
    # trusted.* would speak to overlayfs, security.* other than this to the host's policies.
    "--xattrs-include=user.*",
    "--xattrs-include=security.capability",
    "--xattrs-include=system.posix_acl_*",
    "--no-selinux",
    "--warning=none",
    "--blocking-factor=512",
)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")) * 1


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


class _UnfitError(Exception):
    """The machine has to be set up otherwise; the message says how."""


class LayerRequest(NamedTuple):
    """One layer: its empty directory, what its media type says (`zstd` or ""), tar, and `UnpackLimits`."""

    directory: str
    hint: str
    tar: str
    size: int
    file_size: int
    entries: int
    depth: int
    headers: int
    cpu_seconds: int
    memory: int

    def encode(self) -> bytes:
        """Return the message."""
        return b"\0".join(os.fsencode(str(word)) for word in self)

    @classmethod
    def decode(cls, message: bytes) -> LayerRequest:
        """Read a message."""
        directory, hint, tar, *numbers = (os.fsdecode(word) for word in message.split(b"\0"))
        return cls(directory, hint, tar, *(int(number) for number in numbers))


def serve() -> None:
    """Response requests until the other end closes the socket."""
    connection = _socket.socket(fileno=0)
    agent = os.getppid()
    children: set[int] = set()
    load_library(GZIP)
    gc.freeze()
    space = _socket.CMSG_SPACE(2 * _INT)
    while True:
        message, ancillary, _, _ = connection.recvmsg(1 << 16, space)
        if not message:
            break
        _reap(children)
        source, report = struct.unpack("ii", ancillary[0][2])
        request = LayerRequest.decode(message)
        if request.hint == "zstd":
            load_library(ZSTD)
        child = os.fork()
        if child == 0:
            connection.close()
            _run(request, source, report)
        children.add(child)
        os.close(source)
        os.close(report)
        pidfd = os.pidfd_open(child)
        connection.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", pidfd))])
        os.close(pidfd)
    while _reap(children):
        if os.getppid() != agent:
            # It died, so nobody waits for the layers; and a child that hangs must not stay.
            for child in children:
                os.kill(child, signal.SIGKILL)
        time.sleep(_REAP)


def _reap(children: set[int]) -> bool:
    """Collect children that ended, so that what they cost counts as ours; return whether any are left."""
    children -= {child for child in children if os.waitpid(child, os.WNOHANG)[0]}
    return bool(children)


def _run(request: LayerRequest, source: int, report: int) -> NoReturn:
    """Unpack in the forked child, which never returns."""
    code = 1
    try:
        os.dup2(source, 0)
        os.dup2(report, 1)
        os.closerange(3, 256)
        with os.fdopen(1, "wb", closefd=False) as output:
            for line in _report(request):
                output.write(line + b"\n")
        code = 0
    finally:
        os._exit(code)


def _report(request: LayerRequest) -> Iterator[bytes]:
    try:
        yield from _unpack(request)
    except BadLayerError as error:
        yield _verdict("refused", str(error))
    except MemoryError:
        yield _verdict("refused", "it takes too much memory")
    except _UnfitError as error:
        yield _verdict("failed", str(error))
    except Exception as error:
        # The last line of defence: whatever it was, the agent gets to know it.
        yield _verdict("failed", f"{type(error).__name__}: {error}")


def _verdict(word: str, message: str) -> bytes:
    return " ".join([word, *message.split()])[:_MESSAGE].encode(errors="replace")


def _unpack(request: LayerRequest) -> Iterator[bytes]:
    head = b""
    while len(head) < HEAD and (more := os.read(0, HEAD - len(head))):
        head += more
    load_library(head)
    diff_id = sha256()
    _enter(request.directory)
    _limit(request.file_size, request.cpu_seconds, request.memory)
    tar = _start_tar(request.tar)
    _leave_programs()
    _drop_capabilities()
    archive = TarFilter(
        size=request.size, entries=request.entries, depth=request.depth, headers=request.headers
    )
    _feed_tar(tar, archive, plain(head, lambda wanted: os.read(0, wanted)), diff_id)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    for path in _apply_whiteouts(root, archive):
        yield b"opaque " + path.hex().encode()
    for line in packed(path for path in archive.implicit if _is_directory(root, path)):
        yield b"implicit " + line
    yield f"ok {diff_id.hexdigest()} {archive.size} {archive.entries}".encode()


def _enter(directory: str) -> None:
    """Make `/` an empty file system with the host's programs, read-only, and the layer as `/layer`."""
    call("unshare", _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC)
    try:
        mounts.mount("none", "/", "", mounts.MS_REC | mounts.MS_PRIVATE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise _UnfitError(
            "/ is not a mount point: before the chroot, mount --bind its directory on itself"
        ) from error
    tree = syscall(
        SYS_OPEN_TREE, -100, os.fsencode(directory), _OPEN_TREE_CLONE | os.O_CLOEXEC, path=directory
    )
    attributes = _MountAttributes(_MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV | _MOUNT_ATTR_NOEXEC, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    syscall(SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size, path=directory)
    mounts.mount("none", directory, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=0700,size=64k")
    os.chdir(directory)
    Path("layer").mkdir()
    syscall(SYS_MOVE_MOUNT, tree, b"", -100, b"layer", _MOVE_MOUNT_F_EMPTY_PATH, path=directory)
    os.close(tree)
    read_only = mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV
    for name in _TREES:
        _bind(name, read_only)
    call("pivot_root", b".", b".")
    mounts.unmount(".")
    mounts.mount("none", "/", "", read_only | mounts.MS_NOEXEC)
    os.chdir("/layer")


def _bind(name: str, read_only: int) -> None:
    source = Path("/", name)
    if source.is_symlink():
        Path(name).symlink_to(source.readlink())
    elif source.exists():
        Path(name).mkdir()
        mounts.mount(f"/{name}", name, "", mounts.MS_BIND)
        mounts.mount("none", name, "", read_only)


def _limit(file_size: int, cpu_seconds: int, memory: int) -> None:
    for what, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, 128),
    ):
        lower_limit(what, value)


def _drop_capabilities() -> None:
    capability = 0
    while True:
        try:
            if capability not in _KEPT:
                call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            break
        capability += 1
    low = sum(1 << kept for kept in _KEPT)
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    sets = (_CapabilitySets * 2)(_CapabilitySets(low, low, 0), _CapabilitySets(0, 0, 0))
    call("capset", ctypes.byref(header), ctypes.byref(sets))
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Directories that the archive needs and does not describe are root's, 0755.
    os.umask(0o022)


class _Tar(NamedTuple):
    """A running tar: where it reads from, where its messages come, and its process."""

    feed: int
    messages: int
    pid: int


def _feed_tar(tar: _Tar, archive: TarFilter, stream: Iterator[bytes], diff_id: Any) -> None:
    try:
        for chunk in stream:
            diff_id.update(chunk)
            for piece in archive.feed(chunk):
                _write(tar.feed, piece)
        _write(tar.feed, memoryview(archive.finish()))
    except BrokenPipeError:
        pass  # tar gave up; its message says why.
    finally:
        os.close(tar.feed)
        complaint = _read_bounded(tar.messages)
        _, status = os.waitpid(tar.pid, 0)
    if status:
        _blame(os.waitstatus_to_exitcode(status), complaint)


def _start_tar(tar: str) -> _Tar:
    """Start tar and wait until it reads: by then it has loaded all that it needs of the host's files."""
    read_end, write_end = os.pipe()
    messages, messages_end = os.pipe()
    # A hostile archive can make tar complain without end: what does not fit the pipe is not waited for.
    os.set_blocking(messages_end, False)
    pid = os.fork()
    if pid == 0:
        _become_tar(tar, read_end, messages_end)
    os.close(read_end)
    os.close(messages_end)
    enlarge_pipe(write_end, PIPE)
    _write(write_end, memoryview(_greeting()))
    gone = select.poll()
    gone.register(write_end, 0)
    deadline = time.monotonic() + _START_TIMEOUT
    while any(fcntl.ioctl(write_end, termios.FIONREAD, bytes(_INT))):
        if gone.poll(1):
            raise OSError(f"tar did not start: {_read_bounded(messages)}")
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            raise TimeoutError("tar did not start in time")
    return _Tar(write_end, messages, pid)


def _become_tar(tar: str, archive: int, messages: int) -> NoReturn:
    try:
        os.dup2(archive, 0)
        os.dup2(messages, 1)
        os.dup2(messages, 2)
        # Whatever it waits for: it does not stay when we are killed.
        call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _drop_capabilities()
        # "UTC" would be looked up in a file.
        environment = {"LC_ALL": "C", "TZ": "UTC0"}
        os.execve(tar, ["tar", *TAR_OPTIONS], environment)  # noqa: S606
    except OSError as error:
        os.write(2, f"{tar}: {error.strerror}".encode())
    finally:
        os._exit(127)


def _greeting() -> bytes:
    """Return a global header that says nothing."""
    record = b"17 comment=ready\n"
    block = bytearray(b"pax_global_header".ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2)
    block += b"%011o\0" % len(record) + b"00000000000\0" + b" " * 8 + b"g"
    block = block.ljust(257, b"\0") + b"ustar\x0000"
    block = block.ljust(BLOCK, b"\0")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + record.ljust(BLOCK, b"\0")


def _leave_programs() -> None:
    """Make the layer's directory `/`, for tar, too: pivot_root(2) moves all whose root the old one is."""
    os.chdir("/layer")
    call("pivot_root", b".", b".")
    mounts.unmount(".")
    os.chdir("/")
    # What is not imported yet would come from the layer.
    sys.meta_path.clear()


def _write(to: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(to, piece) :]


def _read_bounded(descriptor: int) -> str:
    kept = b""
    while more := os.read(descriptor, 1 << 16):
        kept = (kept + more)[:_MESSAGE]
    os.close(descriptor)
    return kept.decode(errors="replace")


def _blame(code: int, complaint: str) -> None:
    lines = [
        line.removeprefix("tar: ") for line in complaint.splitlines() if "Exiting with failure" not in line
    ]
    message = "; ".join(lines[:3]) or f"tar ended with {code}"
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
        if os.strerror(number) in message:
            raise OSError(number, os.strerror(number))
    if code == -25:
        message = "a file is larger than allowed"
    raise BadLayerError(message)


def _apply_whiteouts(root: int, archive: TarFilter) -> list[bytes]:
    """Make the character devices that hide lower files; return the directories that hide lower ones."""
    opaque = dict.fromkeys(archive.opaque)
    for path in opaque:
        os.close(_open_parent(root, path))
    for path in archive.whiteouts:
        parent, _, name = path.rpartition(b"/")
        if parent in opaque:
            continue
        directory = _open_parent(root, parent)
        try:
            # What the layer itself has at that name stays: a whiteout speaks of lower layers only.
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory)
        except FileExistsError:
            if _is_directory(directory, name):
                opaque[path] = None
        finally:
            os.close(directory)
    return list(opaque)


def _open_parent(root: int, path: bytes) -> int:
    """Open a directory of the layer, and make it if it only exists in lower layers."""
    try:
        return open_in_root(root, path or b".", os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        parent, _, name = path.rpartition(b"/")
        above = _open_parent(root, parent)
        try:
            os.mkdir(name, 0o755, dir_fd=above)
            return open_in_root(above, name, os.O_PATH | os.O_DIRECTORY)
        except FileExistsError as error:
            raise BadLayerError(f"a whiteout is below {os.fsdecode(path)!a}, which is a link") from error
        finally:
            os.close(above)
    except OSError as error:
        raise BadLayerError(f"a whiteout is in {os.fsdecode(path)!a}, which is no directory") from error


def _is_directory(root: int, path: bytes) -> bool:
    try:
        descriptor = open_in_root(root, path or b".", os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return stat.S_ISDIR(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
