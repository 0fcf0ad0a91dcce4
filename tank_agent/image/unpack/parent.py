"""Unpack layers as they arrive, in confined children (see child.py): the agent's side."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from tank_agent.errors import Retry, Stalled
from tank_agent.image.store.files import LayerRecord
from tank_agent.image.unpack.child import PIPE, LayerRequest
from tank_agent.linux import pidfd
from tank_agent.linux.channels import enlarge_pipe
from tank_agent.linux.paths import Closing, open_in_root
from tank_agent.linux.process import ENVIRONMENT, start_helper
from tank_agent.settings.image import UnpackLimits

_LONGEST_REPORT = 256 << 20
_LONGEST_LINE = 16 << 10
_START_TIMEOUT = 30.0
_BOOT = "import sys; sys.path[:0] = sys.argv[1:]; from tank_agent.image.unpack.child import serve; serve()"


class RefusedLayerError(Exception):
    """The layer itself is at fault: damaged, hostile, or larger than allowed."""


class UnpackServer:
    """The process that forks a child for each layer. The first one starts it. Thread-safe."""

    def __init__(self, limits: UnpackLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """End the process after its children; a later layer starts a new one."""
        with self._lock:
            self._stop()

    def start(self, directory: Path, *, hint: str = "") -> LayerUnpack:
        """Begin to unpack a layer into an empty directory."""
        tar = shutil.which("tar", path=ENVIRONMENT["PATH"])
        if tar is None:
            raise Stalled("cannot unpack images: tar is not installed", hint="see `tank doctor`")
        limits = (getattr(self._limits, name) for name in LayerRequest._fields[3:])
        request = LayerRequest(os.fspath(directory), hint, tar, *limits)
        source, feed = os.pipe()
        report, report_end = os.pipe()
        try:
            with Closing(source), Closing(report_end):
                pidfd = self._ask(request, [source, report_end])
        except OSError as error:
            os.close(feed)
            os.close(report)
            raise Retry(f"cannot start to unpack: {error}") from error
        return LayerUnpack(directory, feed, report, pidfd, self._limits.stall)

    def _ask(self, request: LayerRequest, descriptors: list[int]) -> int:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._stop()
                self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self._socket.settimeout(_START_TIMEOUT)
                with theirs:
                    self._process = start_helper(_BOOT, *_library_roots(), channel=theirs, site=False)
            assert self._socket is not None
            try:
                socket.send_fds(self._socket, [request.encode()], descriptors)
                _, received, _, _ = socket.recv_fds(self._socket, 1, 1)
                if not received:
                    raise OSError("the unpacking process died")
            except BaseException:
                # A late answer would be taken for the next layer's. The process's other children continue.
                self._process.kill()
                self._stop()
                raise
            return received[0]

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            try:
                self._process.wait(_START_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._socket = self._process = None


class LayerUnpack(AbstractContextManager["LayerUnpack"]):
    """One layer that is being unpacked; leaving it early kills the child. Retry if that makes no progress."""

    def __init__(self, directory: Path, feed: int, report: int, pidfd: int, stall: float) -> None:
        self._directory, self._stall = directory, stall
        self._feed, self._report, self._pidfd = feed, report, pidfd
        os.set_blocking(feed, False)
        enlarge_pipe(feed, PIPE)

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: bytes | memoryview) -> bool:
        """Pass compressed bytes on; False once the child reads no more: then `finish` raises the reason."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._feed, view) :]
            except BlockingIOError:
                self._wait(self._feed, select.POLLOUT)
            except BrokenPipeError:
                return False
        return True

    def finish(self, implicit: BinaryIO) -> LayerRecord:
        """Wait for the end, mark opaque directories, and return the layer; RefusedLayerError if it is bad.

        `implicit` gets the list of directories that no entry described.
        """
        self._close_feed()
        opaque_root = False
        with Closing(os.open(self._directory, os.O_PATH | os.O_DIRECTORY)) as root:
            for line in self._report_lines():
                kind, _, text = line.decode(errors="replace").partition(" ")
                if kind == "opaque":
                    opaque_root = opaque_root or not text
                    _mark_opaque(root, bytes.fromhex(text))
                elif kind == "implicit":
                    implicit.write(f"{text}\n".encode())
                elif kind == "refused":
                    raise RefusedLayerError(text)
                elif kind == "ok":
                    digest, size, entries = f"sha256:{text}".split()
                    return LayerRecord(
                        diff_id=digest, size=int(size), entries=int(entries), opaque_root=opaque_root
                    )
                else:
                    raise Retry(f"cannot unpack: {text or kind}", where=os.fspath(self._directory))
        raise Retry("the unpacking process died", hint="look for out-of-memory kills in the kernel's log")

    def close(self) -> None:
        """Kill the child if it still runs, and wait until it is gone. Idempotent."""
        self._close_feed()
        if self._pidfd >= 0:
            pidfd.send_signal(self._pidfd, signal.SIGKILL)
            try:
                self._wait(self._pidfd, select.POLLIN)
            finally:
                os.close(self._pidfd)
                os.close(self._report)
                self._pidfd = self._report = -1

    def _close_feed(self) -> None:
        if self._feed >= 0:
            os.close(self._feed)
            self._feed = -1

    def _report_lines(self) -> Iterator[bytes]:
        """Yield the lines of the report as they come, without their ends; leave out one that was cut off."""
        rest, total = b"", 0
        while more := self._read_report():
            total += len(more)
            *lines, rest = (rest + more).split(b"\n")
            if total > _LONGEST_REPORT or len(rest) > _LONGEST_LINE:
                raise RefusedLayerError("it has too many directories that no entry describes")
            yield from lines

    def _read_report(self) -> bytes:
        self._wait(self._report, select.POLLIN)
        return os.read(self._report, 1 << 16)

    def _wait(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(self._stall * 1000):
            raise Retry(f"unpacking made no progress for {self._stall:g} s", where=os.fspath(self._directory))


def _mark_opaque(root: int, path: bytes) -> None:
    """Let a directory hide those of lower layers (overlayfs.rst); this needs CAP_SYS_ADMIN."""
    with Closing(open_in_root(root, path or b".", os.O_RDONLY | os.O_DIRECTORY)) as opened:
        os.setxattr(opened, "trusted.overlay.opaque", b"y")


def _library_roots() -> list[str]:
    """Return the directories of tank_agent and the decompressors: the child does not load site-packages."""
    specs = (find_spec(name) for name in ("tank_agent", "isal", "zstandard"))
    origins = [spec.origin for spec in specs if spec is not None and spec.origin is not None]
    return list(dict.fromkeys(os.fspath(Path(origin).parent.parent) for origin in origins))
