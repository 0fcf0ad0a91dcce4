"""Read the pod files of one directory: never hang, never take half a file, parse only changed files."""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import Problem
from tank_agent.linux.paths import Closing, directory_identity
from tank_agent.linux.whole_files import (
    GONE,
    NO_KEY,
    Content,
    FileKey,
    Unusable,
    file_key,
    look_beside,
    read_beside,
    read_whole,
)
from tank_agent.source.snapshot import Declared, Elsewhere
from tank_agent.spec.beside import Beside, BesideError, Reading, nothing_beside
from tank_agent.spec.contents import named_in
from tank_agent.spec.model import Host
from tank_agent.spec.names import is_near_miss, is_pod_file_name
from tank_agent.spec.parse import ParsedPod, parse_pod_file
from tank_agent.spec.selection import mismatch

MAX_SIZE = 1 << 20
# Editors that keep a backup move the file away before they write the new one. A file that is missing for
# longer than this is gone.
VANISHED_FOR = 0.2
# The most files that may be taken for pod files of which a snapshot tells.
OVERLOOKED_MAX = 100


class PodFile(Struct, frozen=True, kw_only=True):
    """The content of a file: its valid pods, and all problems.

    If there is any problem, `pods` may not be all that the file declares. `beside` are the files that it
    names, as paths from its directory; their contents count in `revision`. `elsewhere` are valid pods for
    other machines, if it was parsed for one; they have no owner yet.
    """

    file: str
    revision: str
    beside: tuple[str, ...] = ()
    pods: tuple[ParsedPod, ...] = ()
    problems: tuple[Problem, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()

    def declared(self, owner: str) -> Iterator[Declared]:
        """Yield the pods as their owner declares them."""
        for found in self.pods:
            yield Declared(
                pod=found.pod,
                owner=owner,
                revision=self.revision,
                file=self.file,
                line=found.line,
                after_line=found.after_line,
            )

    def not_here(self, owner: str) -> Iterator[Elsewhere]:
        """Yield the pods that their owner declares for other machines."""
        for found in self.elsewhere:
            yield replace(found, owner=owner)


# Makes a PodFile of the bytes of a file, its name, and the files beside it.
Parse = Callable[[bytes, str, Beside], PodFile]


class Listing(Struct, frozen=True):
    """The files of a directory by name, in how many seconds to look at some again, and its identity.

    `overlooked` are the names of files that may be taken for pod files.
    """

    files: Mapping[str, PodFile]
    delays: Sequence[float]
    identity: bytes
    overlooked: Sequence[str] = ()


class _Known(Struct, frozen=True):
    """A file that was read.

    `digest` is of its own bytes. `beside` are the files beside it as they were; `vanished_at` is when one of
    them was missed, on the monotonic clock.
    """

    key: FileKey
    file: PodFile
    digest: str = ""
    beside: Mapping[str, FileKey] = {}
    vanished_at: float | None = None


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
    """Read a pod file completely, if no process has it open for writing; None if it vanished meanwhile."""
    try:
        return read_whole(directory_fd, name, _refusal, links=True)
    except FileNotFoundError:
        with suppress(OSError):
            target = os.fsencode(os.readlink(name, dir_fd=directory_fd)).decode(errors="replace")
            return Unusable(f"is a link to {target}, which is not there")
        return None
    except OSError as error:
        return Unusable(f"can't be read: {error.strerror}")


def parse_bytes(data: bytes, file: str, beside: Beside = nothing_beside) -> PodFile:
    """Parse and check a pod file's bytes."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        return PodFile(file=file, revision=_digest(data), problems=(Problem(file, line, "", message),))
    reading = Reading(beside)
    parsed = parse_pod_file(text, file, beside=reading)
    # With other problems, the parser may not have come as far as these.
    others = named_in(text) if parsed.problems else ()
    return PodFile(
        file=file,
        revision=revision_of(data, reading.found),
        beside=tuple(dict.fromkeys((*reading.found, *others))),
        pods=parsed.pods,
        problems=parsed.problems,
    )


def parser_for(host: Host) -> Parse:
    """Return a parser that puts the pods whose selectors do not match a host apart."""

    def parse_and_select(data: bytes, file: str, beside: Beside = nothing_beside) -> PodFile:
        found = parse_bytes(data, file, beside)
        here, elsewhere = apart(found.pods, found.file, host)
        return replace(found, pods=here, elsewhere=elsewhere) if elsewhere else found

    return parse_and_select


def apart(
    pods: Iterable[ParsedPod], file: str, host: Host
) -> tuple[tuple[ParsedPod, ...], tuple[Elsewhere, ...]]:
    """Return the pods of a file that are for a host, and those that are not."""
    checked = [(found, mismatch(found.selector, host)) for found in pods]
    here = tuple(found for found, why in checked if why is None)
    return here, tuple(Elsewhere.of(found, file, why) for found, why in checked if why is not None)


def only_beside(files: Collection[PodFile]) -> frozenset[str]:
    """Return the files that are no pod files, though their names say so: another one names them as its own.

    A file with a valid pod always counts as a pod file: no mistake in another one takes away what it runs.
    """
    invalid = {file.file for file in files if file.problems and not file.pods}
    if not invalid:
        return frozenset()
    named = {
        path
        for file in files
        for path in (posixpath.join(posixpath.dirname(file.file), name) for name in file.beside)
        if path != file.file
    }
    return frozenset(invalid & named)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def revision_of(data: bytes, beside: Mapping[str, bytes | str]) -> str:
    """Return the short hash of a file's content, and of the files beside it."""
    if not beside:
        return _digest(data)
    lines = [_digest(data)]
    lines += [
        f"{path}\0{hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else ''}"
        for path, content in sorted(beside.items())
    ]
    return _digest("\n".join(lines).encode())


class _DirectoryBeside:
    """Reads the files beside a pod file of an open directory, and notes in which state they were.

    Attributes:
        keys: of all that was asked for.
        settled_in: in how many seconds to look again even without an event.
    """

    def __init__(self, directory_fd: int) -> None:
        self._directory_fd = directory_fd
        self.keys: dict[str, FileKey] = {}
        self.settled_in = 0.0

    def __call__(self, path: str) -> bytes:
        # Before the reading: what changes in between differs at the next look.
        key = look_beside(self._directory_fd, path)
        found = read_beside(self._directory_fd, path)
        self.settled_in = max(self.settled_in, found.settled_in)
        if isinstance(found, Unusable):
            # A file that is there can become usable without a change, as when its writer closes it.
            self.keys[path] = NO_KEY if key[1] else key
            raise BesideError(found.message)
        self.keys[path] = found.key
        return found.data


class PodFiles:
    """Reads the pod files of a directory, and remembers them."""

    def __init__(self, path: Path, parse: Parse, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._parse = parse
        self._monotonic = monotonic
        self._known: dict[str, _Known] = {}

    def list(self) -> Listing:
        """Return the pod files that the directory holds now.

        Raises:
            OSError: the directory can't be read.
        """
        known: dict[str, _Known] = {}
        delays: list[float] = []
        overlooked: list[str] = []
        # One descriptor for all of it: no other directory that is mounted here meanwhile can mix in.
        with Closing(os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if not is_pod_file_name(entry.name):
                        overlooked += [entry.name] if is_near_miss(entry.name) else []
                        continue
                    found, delay = self._look(fd, entry)
                    if found is not None:
                        known[entry.name] = found
                    if delay:
                        delays.append(delay)
            identity = directory_identity(fd)
        self._known = known
        files = {name: known[name].file for name in sorted(known)}
        beside = {path for file in files.values() for path in file.beside}
        return Listing(files, delays, identity, sorted(set(overlooked) - beside)[:OVERLOOKED_MAX])

    def _look(self, directory_fd: int, entry: os.DirEntry[str]) -> tuple[_Known | None, float]:
        name, file = entry.name, f"{self._path}/{entry.name}"
        if not name.isprintable():
            shown = f"{self._path}/{name.encode(errors='surrogateescape')!r}"
            return _unusable(shown, "has a name that can't be printed; rename it"), 0.0
        before = self._known.get(name)
        changed = self._changed_beside(directory_fd, before) if before is not None else frozenset()
        with suppress(OSError):
            if before is not None and file_key(entry.stat()) == before.key:
                known, left = self._unchanged(before, changed)
                if known is not None:
                    return known, left
        read = read_file(directory_fd, name)
        if read is None:
            return None, 0.0
        if isinstance(read, Unusable):
            beside = before.file.beside if before is not None else ()
            return _unusable(file, read.message, beside), read.settled_in
        digest = _digest(read.data)
        if before is not None and before.digest == digest and not changed:
            return replace(before, key=read.key), read.settled_in
        beside_it = _DirectoryBeside(directory_fd)
        parsed = self._parse(read.data, file, beside_it)
        known = _Known(read.key, parsed, digest, beside_it.keys)
        return known, max(read.settled_in, beside_it.settled_in)

    def _changed_beside(self, directory_fd: int, known: _Known) -> frozenset[FileKey]:
        """Return the present states of the files beside a pod file that are not as they were."""
        if not known.beside:
            return frozenset()
        now = {path: look_beside(directory_fd, path) for path in known.beside}
        return frozenset(key for path, key in now.items() if key != known.beside[path])

    def _unchanged(self, before: _Known, changed: frozenset[FileKey]) -> tuple[_Known | None, float]:
        """Return what is known of a file that is as before, if the files beside it are, or may come back."""
        if not changed:
            return (before if before.vanished_at is None else replace(before, vanished_at=None)), 0.0
        if changed != {GONE}:
            return None, 0.0
        now = self._monotonic()
        since = before.vanished_at if before.vanished_at is not None else now
        left = since + VANISHED_FOR - now
        return (replace(before, vanished_at=since), left) if left > 0 else (None, 0.0)


def _unusable(file: str, message: str, beside: tuple[str, ...] = ()) -> _Known:
    problem = Problem(file, 0, "", message)
    return _Known(NO_KEY, PodFile(file=file, revision="", beside=beside, problems=(problem,)))
