"""Read the pod files of one directory: never hang, never take half a file, and parse only what changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import Problem
from tank_agent.linux.locks import has_writer
from tank_agent.linux.paths import read_all
from tank_agent.spec.document import is_pod_file_name
from tank_agent.spec.parse import ParsedPod, parse_pod_file
from tank_agent.spec.selectors import Host, selects

MAX_SIZE = 1 << 20
# File times move in steps of a clock tick (up to 10 ms), so a file that changed twice within one can look the
# same; one that is older than this can't.
SETTLE = 0.1

# Identifies one state of a file: device, inode, size, and both times in nanoseconds.
FileKey = tuple[int, int, int, int, int]


class Content(Struct, frozen=True):
    """A file's bytes; `settled_in` seconds from now, `key` is sure to change with any write (0: already)."""

    data: bytes
    key: FileKey
    settled_in: float


class Busy(Struct, frozen=True):
    """The file is being written; `settled_in` is when to look again, in seconds, if no event will come."""

    settled_in: float = 0.0


class Gone(Struct, frozen=True):
    """The file vanished between listing and reading."""


class Unusable(Struct, frozen=True):
    """The file can't be a pod file; `message` says why and what to do."""

    message: str


def file_key(status: os.stat_result) -> FileKey:
    """Return what identifies this state of a file."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def refusal(status: os.stat_result) -> str | None:
    """Return why a file of this kind or size is not read, or None."""
    if stat.S_ISDIR(status.st_mode):
        return "is a directory; pod files stand directly in it"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file; put the pod's text in a file of this name"
    if status.st_size > MAX_SIZE:
        return f"has {status.st_size} bytes; a pod file has at most {MAX_SIZE}"
    return None


def read_file(directory_fd: int, name: str, clock: Callable[[], float]) -> Content | Busy | Gone | Unusable:
    """Read a file completely, if no process has it open for writing; `clock` is Unix time in seconds."""
    try:
        # Looked at first, because opening a device can have effects. O_NONBLOCK: nor may a fifo hang us.
        why = refusal(os.stat(name, dir_fd=directory_fd))
        if why is not None:
            return Unusable(why)
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=directory_fd)
    except FileNotFoundError:
        return _missing(directory_fd, name)
    except OSError as error:
        return _cannot(error)
    try:
        return _read_open(fd, clock)
    except OSError as error:
        return _cannot(error)
    finally:
        os.close(fd)


def _read_open(fd: int, clock: Callable[[], float]) -> Content | Busy | Unusable:
    before = os.fstat(fd)
    why = refusal(before)
    if why is not None:
        return Unusable(why)
    writer = has_writer(fd)
    if writer:
        return Busy()
    data = read_all(fd, before.st_size)
    after = os.fstat(fd)
    if file_key(before) != file_key(after):
        return Busy(settled_in=SETTLE)
    if len(data) != after.st_size:
        # It would look as if it were being written for ever.
        return Unusable(
            "has another size than the file system says, as in /proc; put the pod's text in a file"
        )
    age = clock() - after.st_ctime
    # A time in the future (the clock was set back) says nothing; then every look reads, but none is hurried.
    young = SETTLE - age if 0 <= age < SETTLE else 0.0
    if writer is None and young:
        return Busy(settled_in=young)
    return Content(data, file_key(after) if age >= SETTLE else (0, 0, 0, 0, 0), young)


def _missing(directory_fd: int, name: str) -> Gone | Unusable:
    try:
        target = os.readlink(name, dir_fd=directory_fd)
    except OSError:
        return Gone()
    shown = os.fsencode(target).decode(errors="replace")
    return Unusable(f"is a link to {shown}, which is not there")


def _cannot(error: OSError) -> Unusable:
    return Unusable(f"can't be read: {error.strerror}")


BEING_WRITTEN = "is being written; waiting until it is closed"


class PodFile(Struct, frozen=True, kw_only=True):
    """What a file says: its valid pods, and all problems.

    With any problem, what the file was meant to say is not completely known.
    """

    file: str
    revision: str
    pods: tuple[ParsedPod, ...] = ()
    problems: tuple[Problem, ...] = ()


class Listing(Struct, frozen=True):
    """The files of a directory by name, and in how many seconds to look again (None: no need)."""

    files: Mapping[str, PodFile]
    settled_in: float | None


class _Known(Struct, frozen=True):
    key: FileKey
    file: PodFile


def parse_bytes(data: bytes, file: str) -> PodFile:
    """Parse and check a pod file's bytes."""
    revision = hashlib.sha256(data).hexdigest()[:12]
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        return PodFile(file=file, revision=revision, problems=(Problem(file, line, "", message),))
    parsed = parse_pod_file(text, file)
    return PodFile(file=file, revision=revision, pods=parsed.pods, problems=parsed.problems)


class PodFiles:
    """Reads the pod files of a directory, and remembers them.

    Args:
        path: the directory as messages name it.
        clock: Unix time in seconds, as files have it.
        parse: makes a PodFile of a file's bytes.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], float], parse: Callable[[bytes, str], PodFile] = parse_bytes
    ) -> None:
        self._path = path
        self._clock = clock
        self._parse = parse
        self._known: dict[str, _Known] = {}

    def list(self, directory_fd: int) -> Listing:
        """Return what the directory holds now.

        Raises:
            OSError: the directory can't be found.
        """
        known: dict[str, _Known] = {}
        delays: list[float] = []
        with os.scandir(directory_fd) as entries:
            for entry in entries:
                if not is_pod_file_name(entry.name):
                    continue
                found, delay = self._look(directory_fd, entry)
                if found is not None:
                    known[entry.name] = found
                if delay:
                    delays.append(delay)
        self._known = known
        files = {name: known[name].file for name in sorted(known)}
        return Listing(files, max(delays, default=None))

    def _look(self, directory_fd: int, entry: os.DirEntry[str]) -> tuple[_Known | None, float]:
        name = entry.name
        file = f"{self._path}/{name}"
        if not name.isprintable():
            shown = f"{self._path}/{name.encode(errors='surrogateescape')!r}"
            return _unusable(shown, "has a name that can't be printed; rename it"), 0.0
        before = self._known.get(name)
        if before is not None and _key_of(entry) == before.key:
            return before, 0.0
        read = read_file(directory_fd, name, self._clock)
        match read:
            case Gone():
                return None, 0.0
            case Unusable(message):
                return _unusable(file, message), 0.0
            case Busy(settled_in):
                return _unusable(file, BEING_WRITTEN), settled_in
            case Content(data, key, settled_in):
                return self._parsed(before, data, key, file), settled_in

    def _parsed(self, before: _Known | None, data: bytes, key: FileKey, file: str) -> _Known:
        if before is not None and before.file.revision == hashlib.sha256(data).hexdigest()[:12]:
            return msgspec.structs.replace(before, key=key)
        return _Known(key, self._parse(data, file))


def _key_of(entry: os.DirEntry[str]) -> FileKey | None:
    try:
        return file_key(entry.stat())
    except OSError:
        return None


def _unusable(file: str, message: str) -> _Known:
    problem = Problem(file, 0, "", message)
    return _Known((0, 0, 0, 0, 0), PodFile(file=file, revision="", problems=(problem,)))


Parse = Callable[[bytes, str], PodFile]


def parser_for(host: Host, parse: Parse = parse_bytes) -> Parse:
    """Return a parser that leaves out the pods whose selectors do not match a host."""

    def parse_and_select(data: bytes, file: str) -> PodFile:
        found = parse(data, file)
        return replace(found, pods=tuple(item for item in found.pods if selects(item.selector, host)))

    return parse_and_select
