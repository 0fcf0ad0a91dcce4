"""Read the pod files of one directory: never hang, never take half a file, parse only changed files."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import Problem
from tank_agent.linux.locks import has_writer
from tank_agent.linux.paths import Closing, directory_identity, read_all
from tank_agent.source.snapshot import Declared
from tank_agent.spec.document import is_pod_file_name
from tank_agent.spec.model import Host, selects
from tank_agent.spec.parse import ParsedPod, parse_pod_file

MAX_SIZE = 1 << 20
# File times move in steps of a clock tick (up to 10 ms), so a file can change twice and have the same times.
# That is ruled out for a file that is older than this.
SETTLE = 0.1
BEING_WRITTEN = "is being written; waiting until it is closed"

# Identifies one state of a file: device, inode, size, and both times in nanoseconds.
FileKey = tuple[int, int, int, int, int]
_NO_KEY = (0, 0, 0, 0, 0)


class Content(Struct, frozen=True):
    """A file's bytes; any write that comes `settled_in` seconds from now or later changes `key`."""

    data: bytes
    key: FileKey
    settled_in: float


class Unusable(Struct, frozen=True):
    """Why the file is not read; if no event will come, look again in `settled_in` seconds."""

    message: str
    settled_in: float = 0.0


class PodFile(Struct, frozen=True, kw_only=True):
    """The content of a file: its valid pods, and all problems.

    If there is any problem, `pods` may not be all that the file declares.
    """

    file: str
    revision: str
    pods: tuple[ParsedPod, ...] = ()
    problems: tuple[Problem, ...] = ()

    def declared(self, owner: str) -> Iterator[Declared]:
        """Yield the pods as their owner declares them."""
        for found in self.pods:
            yield Declared(
                pod=found.pod, owner=owner, revision=self.revision, file=self.file, line=found.line
            )


Parse = Callable[[bytes, str], PodFile]


class Listing(Struct, frozen=True):
    """The files of a directory by name, in how many seconds to look at some again, and its identity."""

    files: Mapping[str, PodFile]
    delays: Sequence[float]
    identity: bytes


class _Known(Struct, frozen=True):
    key: FileKey
    file: PodFile


def _file_key(status: os.stat_result) -> FileKey:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _refusal(status: os.stat_result) -> str | None:
    """Return why a file of this kind or size is not read, or None."""
    if stat.S_ISDIR(status.st_mode):
        return "is a directory; pod files stand directly in it"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file; put the pod's text in a file of this name"
    if status.st_size > MAX_SIZE:
        return f"has {status.st_size} bytes; a pod file has at most {MAX_SIZE}"
    return None


def read_file(directory_fd: int, name: str) -> Content | Unusable | None:
    """Read a file completely, if no process has it open for writing; None if it vanished meanwhile."""
    try:
        # The status first, because opening a device can have effects. O_NONBLOCK: a fifo must not hang us.
        why = _refusal(os.stat(name, dir_fd=directory_fd))
        if why is not None:
            return Unusable(why)
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        with Closing(os.open(name, flags, dir_fd=directory_fd)) as fd:
            return _read_open(fd)
    except FileNotFoundError:
        with suppress(OSError):
            target = os.fsencode(os.readlink(name, dir_fd=directory_fd)).decode(errors="replace")
            return Unusable(f"is a link to {target}, which is not there")
        return None
    except OSError as error:
        return Unusable(f"can't be read: {error.strerror}")


def _read_open(fd: int) -> Content | Unusable:
    before = os.fstat(fd)
    why = _refusal(before)
    if why is not None:
        return Unusable(why)
    writer = has_writer(fd)
    if writer:
        return Unusable(BEING_WRITTEN)
    data = read_all(fd, before.st_size)
    after = os.fstat(fd)
    if _file_key(before) != _file_key(after):
        return Unusable(BEING_WRITTEN, SETTLE)
    if len(data) != after.st_size:
        # Otherwise it would seem to be written for ever.
        return Unusable(
            "has another size than the file system says, as in /proc; put the pod's text in a file"
        )
    age = time.time() - after.st_ctime
    # A time in the future (the clock was set back) is no age: every look reads then, and none is added.
    young = SETTLE - age if 0 <= age < SETTLE else 0.0
    if writer is None and young:
        return Unusable(BEING_WRITTEN, young)
    return Content(data, _file_key(after) if age >= SETTLE else _NO_KEY, young)


def parse_bytes(data: bytes, file: str) -> PodFile:
    """Parse and check a pod file's bytes."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        return PodFile(file=file, revision=_revision(data), problems=(Problem(file, line, "", message),))
    parsed = parse_pod_file(text, file)
    return PodFile(file=file, revision=_revision(data), pods=parsed.pods, problems=parsed.problems)


def parser_for(host: Host) -> Parse:
    """Return a parser that leaves out the pods whose selectors do not match a host."""

    def parse_and_select(data: bytes, file: str) -> PodFile:
        found = parse_bytes(data, file)
        return replace(found, pods=tuple(item for item in found.pods if selects(item.selector, host)))

    return parse_and_select


def _revision(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


class PodFiles:
    """Reads the pod files of a directory, and remembers them."""

    def __init__(self, path: Path, parse: Parse) -> None:
        self._path = path
        self._parse = parse
        self._known: dict[str, _Known] = {}

    def list(self) -> Listing:
        """Return the pod files that the directory holds now.

        Raises:
            OSError: the directory can't be read.
        """
        known: dict[str, _Known] = {}
        delays: list[float] = []
        # One descriptor for all of it: no other directory that is mounted here meanwhile can mix in.
        with Closing(os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if not is_pod_file_name(entry.name):
                        continue
                    found, delay = self._look(fd, entry)
                    if found is not None:
                        known[entry.name] = found
                    if delay:
                        delays.append(delay)
            identity = directory_identity(fd)
        self._known = known
        files = {name: known[name].file for name in sorted(known)}
        return Listing(files, delays, identity)

    def _look(self, directory_fd: int, entry: os.DirEntry[str]) -> tuple[_Known | None, float]:
        name, file = entry.name, f"{self._path}/{entry.name}"
        if not name.isprintable():
            shown = f"{self._path}/{name.encode(errors='surrogateescape')!r}"
            return _unusable(shown, "has a name that can't be printed; rename it"), 0.0
        before = self._known.get(name)
        with suppress(OSError):
            if before is not None and _file_key(entry.stat()) == before.key:
                return before, 0.0
        read = read_file(directory_fd, name)
        if read is None:
            return None, 0.0
        if isinstance(read, Unusable):
            return _unusable(file, read.message), read.settled_in
        if before is not None and before.file.revision == _revision(read.data):
            return replace(before, key=read.key), read.settled_in
        return _Known(read.key, self._parse(read.data, file)), read.settled_in


def _unusable(file: str, message: str) -> _Known:
    problem = Problem(file, 0, "", message)
    return _Known(_NO_KEY, PodFile(file=file, revision="", problems=(problem,)))
