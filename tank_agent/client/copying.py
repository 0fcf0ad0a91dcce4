"""Files to and from a container: the client's side, which packs and unpacks here while the session runs.

What comes from a container is as hostile as the container: it is unpacked by the rules of tree_unpack.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tank_agent.client.fast import http
from tank_agent.client.fast.session import Session
from tank_agent.client.fast.streams import Streams
from tank_agent.errors import CannotCopy
from tank_agent.linux.copy_target import open_target, own_descriptors, split_source
from tank_agent.linux.kernel_files import KernelFiles
from tank_agent.linux.paths import Closing
from tank_agent.linux.tar_stream import CopyError, TarReader, shown
from tank_agent.linux.tree_pack import Notes, Packer
from tank_agent.linux.tree_unpack import Options, Unpacker

_BUFFER = 1 << 20
_STARTS_WITHIN = 30.0
_PLACE = re.compile(r"([a-z0-9][a-z0-9-]*(?:/[a-z0-9][a-z0-9-]*)?):(.*)", re.DOTALL)
_SWITCHING_PROTOCOLS = 101


class Copied(NamedTuple):
    """What was copied: the number of files and directories, and the bytes of their content."""

    files: int
    size: int


class _Side:
    """The part of a copy that works here, in a thread of its own; `work` returns what it copied."""

    def __init__(self, work: Callable[[], Copied]) -> None:
        self._work = work
        self._thread = threading.Thread(target=self._run, name="copy", daemon=True)
        self.copied = Copied(0, 0)
        self.error: Exception | None = None
        self._thread.start()

    def _run(self) -> None:
        try:
            self.copied = self._work()
        except Exception as error:
            self.error = error

    def join(self) -> Copied:
        """Wait for its end, and raise its error."""
        self._thread.join()
        if isinstance(self.error, CopyError):
            raise CannotCopy(str(self.error), hint=self.error.hint or None)
        if self.error is not None:
            raise self.error
        return self.copied


def container_place(text: str) -> tuple[str, str] | None:
    """Return the container and the path that `NAME[/CONTAINER]:PATH` names; None for a path here."""
    found = _PLACE.fullmatch(text)
    return (found[1], found[2] or "/") if found else None


def copy(
    socket: str,
    source: str,
    target: str,
    *,
    note: Callable[[str], None],
    owners: bool = False,
    follow: bool = False,
) -> Copied:
    """Copy between a path here and one in a container; CannotCopy if both are of one kind."""
    inside, to = container_place(source), container_place(target)
    if inside is not None and to is None:
        return download(socket, *inside, target, note=note, owners=owners, follow=follow)
    if inside is None and to is not None:
        return upload(socket, *to, source, note=note, owners=owners, follow=follow)
    raise CannotCopy("one of the two places must be in a container", hint="write it NAME[/CONTAINER]:PATH")


def download(
    socket: str,
    name: str,
    path: str,
    target: str,
    *,
    note: Callable[[str], None],
    owners: bool = False,
    follow: bool = False,
) -> Copied:
    """Copy a path of a container to one here, by the rules of `docker cp`; `name` is POD or POD/CONTAINER.

    Raises:
        NotRunning: the container does not run.
        CannotCopy: one of the two paths is at fault, or the archive.
    """
    _, base, contents = split_source(path)
    with ExitStack() as stack:
        try:
            place = open_target(target, os.path.realpath, os.open)
        except CopyError as error:
            raise CannotCopy(str(error), hint=error.hint or None) from None
        stack.enter_context(Closing(place.anchor))
        descriptors = stack.enter_context(own_descriptors())
        reader, writer = os.pipe()

        def unpack() -> Copied:
            with open(reader, "rb", buffering=_BUFFER) as source:
                unpacker = Unpacker(
                    TarReader(source), place, descriptors, Notes(note), KernelFiles(allowed=True)
                )
                unpacker.unpack(Options(base, contents, owners, _umask()))
                if unpacker.link:
                    # The container has chosen it.
                    leads = shown(unpacker.link)
                    note(f"{place.shown} is a link now, and a copy to it would follow it: {leads}")
                return Copied(unpacker.files, unpacker.size)

        side = _Side(unpack)
        with Closing(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) as nothing, _preferring(side):
            try:
                receive(socket, name, path, writer, stdin=nothing, follow=follow)
            finally:
                os.close(writer)
        return side.join()


def upload(
    socket: str,
    name: str,
    path: str,
    source: str,
    *,
    note: Callable[[str], None],
    owners: bool = False,
    follow: bool = False,
) -> Copied:
    """Copy a path here to one of a container; arguments and errors as of `download`."""
    _, base, contents = split_source(source if source.startswith("/") else f"{Path.cwd()}/{source}")
    entered = contents or source.endswith("/")
    flags = os.O_PATH | os.O_CLOEXEC | (os.O_DIRECTORY if entered else 0)
    with ExitStack() as stack:
        top = os.open(source, flags | (0 if entered or follow else os.O_NOFOLLOW))
        stack.enter_context(Closing(top))
        descriptors = stack.enter_context(own_descriptors())
        reader, writer = os.pipe()

        def pack() -> Copied:
            with open(writer, "wb", buffering=_BUFFER) as sink:
                packer = Packer(sink.write, descriptors, Notes(note), KernelFiles(allowed=True))
                try:
                    packer.pack(top, base)
                except BaseException:
                    # What is buffered must not be taken for a whole archive, nor hide the error.
                    with contextlib.suppress(OSError):
                        sink.flush()
                    raise
                return Copied(packer.files, packer.size)

        side = _Side(pack)
        with _preferring(side):
            try:
                send(socket, name, path, reader, base=base, contents=contents, owners=owners)
            finally:
                os.close(reader)
        return side.join()


def _umask() -> int:
    """Return this process's umask, which umask(2) could only tell by changing it for all threads."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))


@contextlib.contextmanager
def _preferring(side: _Side) -> Iterator[None]:
    """Raise the error of the side here, if it is the cause of the session's."""
    try:
        yield
    except Exception as error:
        try:
            side.join()
        except BrokenPipeError:
            # The agent's side ended first.
            raise error from None
        except CannotCopy:
            if isinstance(error, BrokenPipeError) or _is_cut(error):
                raise
            raise error from None
        raise


def _is_cut(error: Exception) -> bool:
    return isinstance(error, CannotCopy) and "ends too early" in error.message


def receive(socket: str, name: str, path: str, stdout: int, *, stdin: int, follow: bool = False) -> None:
    """Write the archive of a container's path to a descriptor."""
    query = {"path": path} | ({"follow": "1"} if follow else {})
    _session(socket, "GET", name, query, Streams(stdin, stdout, None))


def send(
    socket: str,
    name: str,
    path: str,
    stdin: int,
    *,
    base: bytes | None = None,
    contents: bool = False,
    owners: bool = False,
) -> None:
    """Store the archive from a descriptor at a container's path; `base` None: with the names that it has."""
    query = {"path": path, "confirm": "1"} | ({} if base is None else {"base": os.fsdecode(base)})
    query |= {"contents": "1"} if contents else {}
    query |= {"owners": "1"} if owners else {}
    with Closing(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)) as nothing:
        _session(socket, "PUT", name, query, Streams(stdin, nothing, None))


def _session(socket: str, method: str, name: str, query: dict[str, str], streams: Streams) -> None:
    target = http.target_path(name, "files", query)
    asked = http.ask_for_session(socket, target, within=_STARTS_WITHIN, method=method)
    Session(socket, asked.answer(expected=_SWITCHING_PROTOCOLS), streams, b"").run(
        raw=False, interrupts=False
    )
