"""The process that unpacks layers: it forks a child for each, which confines itself and runs GNU tar.

    python -I -S -c '...; serve()' ROOT LIBRARIES     with a SOCK_SEQPACKET socket as standard input

A request is one message: the words of `LayerRequest`, separated by NUL, with two descriptors: the compressed
layer to read, and where to report. The answer is a pidfd of the child. The process ends when the socket does.

Before they read the layer, the child and its tar give up all but the layer's directory, which becomes their
`/`, and six capabilities; no network is left, and memory, CPU time and file size are limited. The child also
decompresses, hashes and parses headers, so that a bug there does not reach the agent. Links of the layer lead
where they lead in a container, whether absolute or with `..`, since the layer's directory is the root.

The report is lines of words: `opaque HEX-PATH` and `implicit LINE` (stream.packed) in any number, and last
`ok DIFF_ID SIZE ENTRIES`, `refused MESSAGE` (the layer is at fault) or `failed MESSAGE` (the machine is). A
report without its last line does not count.

Python starts once per pull and not once per layer, since loading OpenSSL alone takes longer than unpacking a
small layer. So this module imports little, and only one thread ever runs here: fork needs that.
"""

from __future__ import annotations

import _socket
import errno
import gc
import os
import select
import signal
import stat
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import NamedTuple, NoReturn

from tank_agent.image.unpack import stream
from tank_agent.image.unpack.stream import BadLayerError
from tank_agent.linux import confine
from tank_agent.linux.channels import enlarge_pipe, unread
from tank_agent.linux.paths import Closing, open_in_root

_INT = struct.calcsize("i")
_CHANGE = (confine.CHOWN, confine.DAC_OVERRIDE, confine.FOWNER, confine.FSETID)
_KEPT = (*_CHANGE, confine.MKNOD, confine.SETFCAP)
PIPE = 1 << 20
_MESSAGE = 4000
_START_TIMEOUT = 30.0
_REAP = 0.02
TAR_OPTIONS = (
    *("--extract", "--file=-", "--delay-directory-restore", "--blocking-factor=512", "--warning=none"),
    *("--numeric-owner", "--same-owner", "--same-permissions", "--no-selinux", "--xattrs"),
    # tar's root is the layer's directory. Without this it makes links last, and can't follow them before.
    "--absolute-names",
    # overlayfs would obey trusted.*, and the host's policies security.* other than this.
    *(f"--xattrs-include={name}" for name in ("user.*", "security.capability", "system.posix_acl_*")),
)


class LayerRequest(NamedTuple):
    """One layer: its empty directory, a hint of its compression (`zstd` or ""), tar, and `UnpackLimits`."""

    directory: str
    hint: str
    tar: str
    size: int
    file_size: int
    entries: int
    depth: int
    headers: int
    cpu_time: int
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
    """Answer requests until the other end closes the socket."""
    connection, agent = _socket.socket(fileno=0), os.getppid()
    children: set[int] = set()
    stream.load_library(stream.GZIP)
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
            stream.load_library(stream.ZSTD)
        child = os.fork()
        if child == 0:
            connection.close()
            _run(request, source, report)
        children.add(child)
        with Closing(source), Closing(report), Closing(os.pidfd_open(child)) as pidfd:
            connection.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", pidfd))])
    while _reap(children):
        if os.getppid() != agent:
            # The agent died, so nobody waits for the layers; a child that hangs must not stay.
            for child in children:
                os.kill(child, signal.SIGKILL)
        time.sleep(_REAP)


def _reap(children: set[int]) -> bool:
    """Reap children that ended, so that their cost counts as the server's; return whether any are left."""
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
            try:
                for line in _unpack(request):
                    output.write(line + b"\n")
            except Exception as error:
                # The agent gets every error, also one that is a bug.
                output.write(_verdict(error) + b"\n")
        code = 0
    finally:
        os._exit(code)


def _verdict(error: Exception) -> bytes:
    match error:
        case BadLayerError():
            verdict = f"refused {error}"
        case MemoryError():
            verdict = "refused it takes too much memory"
        case confine.UnfitError():
            verdict = f"failed {error}"
        case _:
            verdict = f"failed {type(error).__name__}: {error}"
    return " ".join(verdict.split())[:_MESSAGE].encode(errors="replace")


def _unpack(request: LayerRequest) -> Iterator[bytes]:
    head = b""
    while len(head) < stream.HEAD and (more := os.read(0, stream.HEAD - len(head))):
        head += more
    stream.load_library(head)
    diff_id = sha256()
    confine.see_only(request.directory, "layer")
    memory, cpu, file_size = request.memory, request.cpu_time, request.file_size
    confine.limit(memory=memory, cpu_seconds=cpu, file_size=file_size, descriptors=128)
    archive = stream.TarFilter(request.size, request.entries, request.depth, request.headers)
    with _running_tar(request.tar) as feed:
        confine.see_nothing_but("/layer")
        # What is not imported yet would come from the layer.
        sys.meta_path.clear()
        _give_up_privileges()
        for chunk in stream.plain(head, lambda wanted: os.read(0, wanted)):
            diff_id.update(chunk)
            for piece in archive.feed(chunk):
                _write(feed, piece)
        _write(feed, memoryview(archive.finish()))
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    for path in _apply_whiteouts(root, archive):
        yield b"opaque " + path.hex().encode()
    for line in stream.packed(path for path in archive.implicit if _is_directory(root, path)):
        yield b"implicit " + line
    yield f"ok {diff_id.hexdigest()} {archive.size} {archive.entries}".encode()


def _give_up_privileges() -> None:
    confine.keep_capabilities(_KEPT)
    confine.gain_no_privileges()
    # Directories that the archive needs and does not describe are root's, 0755.
    os.umask(0o022)


@contextmanager
def _running_tar(tar: str) -> Iterator[int]:
    """Start tar, yield its input once it has loaded all that it needs from the host, and wait for its end."""
    read_end, write_end = os.pipe()
    messages, messages_end = os.pipe()
    # A hostile archive can make tar complain without end: tar must not wait for a reader of that.
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
    while unread(write_end):
        if gone.poll(1):
            raise OSError(f"tar did not start: {_read_bounded(messages)}")
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            raise TimeoutError("tar did not start in time")
    try:
        yield write_end
    except BrokenPipeError:
        pass  # tar gave up; its message has the reason.
    finally:
        os.close(write_end)
        complaint = _read_bounded(messages)
        _, status = os.waitpid(pid, 0)
    if status:
        _blame(os.waitstatus_to_exitcode(status), complaint)


def _become_tar(tar: str, archive: int, messages: int) -> NoReturn:
    try:
        os.dup2(archive, 0)
        os.dup2(messages, 1)
        os.dup2(messages, 2)
        confine.die_with_parent()
        _give_up_privileges()
        # "UTC" would be looked up in a file.
        os.execve(tar, ["tar", *TAR_OPTIONS], {"LC_ALL": "C", "TZ": "UTC0"})  # noqa: S606
    except OSError as error:
        os.write(2, f"{tar}: {error.strerror}".encode())
    finally:
        os._exit(127)


def _greeting() -> bytes:
    """Return a global header without meaning, for tar to read before the layer."""
    record = b"17 comment=ready\n"
    block = bytearray(b"pax_global_header".ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2)
    block += b"%011o\0" % len(record) + b"00000000000\0" + b" " * 8 + b"g"
    block = (block.ljust(257, b"\0") + b"ustar\x0000").ljust(stream.BLOCK, b"\0")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + record.ljust(stream.BLOCK, b"\0")


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
    lines = [line for line in complaint.splitlines() if "Exiting with failure" not in line]
    message = "; ".join(line.removeprefix("tar: ") for line in lines[:3]) or f"tar ended with {code}"
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
        if os.strerror(number) in message:
            raise OSError(number, os.strerror(number))
    if code == -25:
        message = "a file is larger than allowed"
    raise BadLayerError(message)


def _apply_whiteouts(root: int, archive: stream.TarFilter) -> list[bytes]:
    """Make the character devices that hide lower files; return the directories that hide lower ones."""
    opaque = dict.fromkeys(archive.opaque)
    for path in opaque:
        os.close(_open_parent(root, path))
    for path in archive.whiteouts:
        parent, _, name = path.rpartition(b"/")
        if parent in opaque:
            continue
        with Closing(_open_parent(root, parent)) as directory:
            try:
                # A whiteout hides only lower layers; what this layer has at that name stays.
                os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory)
            except FileExistsError:
                if _is_directory(directory, name):
                    opaque[path] = None
    return list(opaque)


def _open_parent(root: int, path: bytes) -> int:
    """Open a directory of the layer; make it if only lower layers have it."""
    try:
        return open_in_root(root, path or b".", os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        parent, _, name = path.rpartition(b"/")
        with Closing(_open_parent(root, parent)) as above:
            try:
                os.mkdir(name, 0o755, dir_fd=above)
                return open_in_root(above, name, os.O_PATH | os.O_DIRECTORY)
            except FileExistsError as error:
                raise BadLayerError(f"a whiteout is below {os.fsdecode(path)!a}, which is a link") from error
    except OSError as error:
        raise BadLayerError(f"a whiteout is in {os.fsdecode(path)!a}, which is no directory") from error


def _is_directory(root: int, path: bytes) -> bool:
    try:
        descriptor = open_in_root(root, path or b".", os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return False
    with Closing(descriptor):
        return stat.S_ISDIR(os.fstat(descriptor).st_mode)
