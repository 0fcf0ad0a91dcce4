"""Named files to read from: a directory, or a tar archive that is read in place."""

from __future__ import annotations

import io
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from tank_agent.errors import Retry, Stalled
from tank_agent.image.store.content import MissingError, Reader
from tank_agent.image.unpack.decompress import GZIP, HEAD, ZSTD, BadLayerError, plain
from tank_agent.linux.paths import open_beneath

_MOST_MEMBERS = 100_000
_MOST_LINKS = 8
# One header with what is told beside it (long names, extended records); tarfile takes it into memory whole.
_LONGEST_HEADER = 1 << 20


class Slice(Struct, frozen=True, kw_only=True):
    """A part of an open file: `size` bytes from `start` on. The descriptor belongs to the `Files`."""

    descriptor: int
    start: int
    size: int

    def read(self, limit: int, where: str) -> bytes:
        """Return the whole part.

        Raises:
            Stalled: it has more than `limit` bytes.
        """
        if self.size > limit:
            raise Stalled(f"the file has {self.size} bytes; at most {limit} are read", where=where)
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """Yield the whole part in pieces."""
        read = self.reader(0)
        while chunk := read(1 << 20):
            yield chunk

    def reader(self, offset: int) -> Reader:
        """Return a reader that starts `offset` bytes into the part."""
        position = self.start + offset
        end = self.start + self.size

        def read(size: int) -> bytes:
            nonlocal position
            chunk = os.pread(self.descriptor, min(size, end - position), position) if position < end else b""
            position += len(chunk)
            return chunk

        return read


class Files(Protocol):
    """Files by name."""

    @contextmanager
    def open(self, name: str) -> Iterator[Slice]:
        """Open one.

        Raises:
            Stalled: there is none of that name.
        """
        ...

    def close(self) -> None:
        """Close what is open. Idempotent."""
        ...


class DirectoryFiles:
    """Files below a directory; names that lead out of it are refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._root = os.open(path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise Stalled(f"cannot open the image directory {path}: {error.strerror}") from error

    @contextmanager
    def open(self, name: str) -> Iterator[Slice]:
        """Open one file, as `Files.open` says."""
        try:
            descriptor = open_beneath(self._root, name, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            kind = MissingError if isinstance(error, FileNotFoundError) else Stalled
            raise kind(f"cannot read {self._path / name}: {error.strerror}") from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Stalled(f"{self._path / name} is not a regular file")
            yield Slice(descriptor=descriptor, start=0, size=found.st_size)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the directory. Idempotent."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1


class _Headers(io.FileIO):
    """A file of which tarfile may read no more at once than a header may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header has more than {_LONGEST_HEADER} bytes")
        return super().read(size)


class ArchiveFiles:
    """The regular files of a tar archive; one that is compressed is first unpacked to an unnamed file.

    Args:
        limit: how many bytes it may have unpacked.
    """

    def __init__(self, path: Path, scratch: Path, limit: int) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            head = os.pread(self._descriptor, HEAD, 0)
        except OSError as error:
            raise Stalled(f"cannot open the image archive {path}: {error.strerror}") from error
        try:
            if head.startswith((GZIP, ZSTD)):
                self._expand(head, scratch, limit)
            self._members = self._index()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def open(self, name: str) -> Iterator[Slice]:
        """Open one member, as `Files.open` says."""
        for _ in range(_MOST_LINKS):
            found = self._members.get(posixpath.normpath(name))
            if found is None:
                raise MissingError(f"{self._path} holds no file {name!r}", hint="is it an image archive?")
            if isinstance(found, Slice):
                yield found
                return
            name = found
        raise Stalled(f"{self._path}: the links of {name!r} go in circles")

    def close(self) -> None:
        """Close the archive. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _expand(self, head: bytes, scratch: Path, limit: int) -> None:
        compressed = self._descriptor
        left = limit
        os.lseek(compressed, len(head), os.SEEK_SET)
        try:
            self._descriptor = os.open(scratch, os.O_RDWR | os.O_TMPFILE, 0o600)
            for chunk in plain(head, lambda size: os.read(compressed, size)):
                left -= len(chunk)
                if left < 0:
                    raise BadLayerError(f"unpacks to more than {limit} bytes (image_size in agent.toml)")
                view = memoryview(chunk)
                while view:
                    view = view[os.write(self._descriptor, view) :]
        except BadLayerError as error:
            raise Stalled(f"{self._path}: {error}") from error
        except OSError as error:
            raise Retry(f"cannot unpack {self._path}: {error.strerror}") from error
        finally:
            os.close(compressed)

    def _index(self) -> dict[str, Slice | str]:
        """Map each name to its bytes, or to the name that it links to."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        members: dict[str, Slice | str] = {}
        last = -1
        try:
            with (
                _Headers(os.dup(self._descriptor)) as file,
                tarfile.open(fileobj=file, mode="r:") as archive,
            ):
                for info in archive:
                    # It would keep all of them.
                    archive.members.clear()  # type: ignore[attr-defined]
                    # tarfile of Python < 3.11.14 goes in circles on negative sizes (CVE-2025-8194).
                    if info.offset <= last or len(members) > _MOST_MEMBERS:
                        raise Stalled(f"{self._path} is not an archive that an image can be in")
                    last = info.offset
                    name = posixpath.normpath(info.name)
                    if info.isreg() and not info.issparse():
                        members[name] = Slice(
                            descriptor=self._descriptor, start=info.offset_data, size=info.size
                        )
                    elif info.issym():
                        members[name] = posixpath.join(posixpath.dirname(name), info.linkname)
                    elif info.islnk():
                        members[name] = info.linkname
        except (tarfile.TarError, OSError, ValueError) as error:
            raise Stalled(f"cannot read the archive {self._path}: {error}") from error
        return members
