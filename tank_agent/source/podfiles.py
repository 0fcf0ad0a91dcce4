"""The pod files of one directory, each read again only when it changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from tank_agent.errors import Problem
from tank_agent.source.file import Busy, Content, FileKey, Gone, Unusable, file_key, read_file
from tank_agent.spec.document import is_pod_file_name
from tank_agent.spec.parse import ParsedPod, parse_pod_file

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
