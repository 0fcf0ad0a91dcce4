"""Images on this machine's disk, read in place: `oci:`, `oci-archive:` and `docker-archive:`.

`DirectoryFiles` and `ArchiveFiles` open files by name, which the two classes of ImageContent read.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import msgspec
from msgspec import Struct

from tank_agent.errors import Retry, Stalled
from tank_agent.image import manifest
from tank_agent.image.manifest import MANIFEST_LIMIT, Descriptor, Index, digest_of
from tank_agent.image.pull import Document, ImageContent, MissingError, ReadChunk
from tank_agent.image.unpack.stream import GZIP, HEAD, ZSTD, BadLayerError, plain
from tank_agent.linux.paths import Closing, open_beneath
from tank_agent.spec.reference import EXAMPLE_LAYOUT, Reference, is_digest

_REF_NAME = "org.opencontainers.image.ref.name"
_PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MOST_MEMBERS = 100_000
_MOST_LINKS = 8
# One header with its long names and extended records; tarfile takes it into memory whole.
_LONGEST_HEADER = 1 << 20


def open_on_disk(reference: Reference, scratch: Path, limit: int) -> ImageContent:
    """Open a layout or an archive; a compressed one is unpacked in `scratch`, to at most `limit` bytes."""
    path = Path(reference.path)
    if reference.transport == "oci":
        return LayoutContent(DirectoryFiles(path), reference)
    files = ArchiveFiles(path, scratch, limit)
    return (LayoutContent if reference.transport == "oci-archive" else DockerArchiveContent)(files, reference)


def stamp(reference: Reference) -> str:
    """Return a word that changes when the image on disk may have changed; "" if it can't be read."""
    path = Path(reference.path)
    try:
        if reference.transport == "oci":
            # `open` refuses a fifo.
            with closing(DirectoryFiles(path)) as files, files.open("index.json") as index:
                return digest_of(index.read(MANIFEST_LIMIT, str(reference)))
        found = path.stat()
    except (OSError, Stalled):
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"


class Slice(Struct, frozen=True, kw_only=True):
    """A part of an open file: `size` bytes from `start` on. The caller closes the descriptor."""

    descriptor: int
    start: int
    size: int

    def read(self, limit: int, where: str) -> bytes:
        """Return the whole part; Stalled if it has more than `limit` bytes."""
        if self.size > limit:
            raise Stalled(f"the file has {self.size} bytes; at most {limit} are read", where=where)
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """Yield the whole part in pieces."""
        return iter(partial(self.reader(0), 1 << 20), b"")

    def reader(self, offset: int) -> ReadChunk:
        """Return a reader that starts `offset` bytes into the part."""
        position, end = self.start + offset, self.start + self.size

        def read(size: int) -> bytes:
            nonlocal position
            chunk = os.pread(self.descriptor, min(size, end - position), position) if position < end else b""
            position += len(chunk)
            return chunk

        return read


class DirectoryFiles:
    """The files below a directory; refuses names that lead out of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._root = os.open(path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            absent = isinstance(error, FileNotFoundError) and str(path) == EXAMPLE_LAYOUT
            hint = "`tank image busybox` makes it, as root" if absent else None
            raise Stalled(f"cannot open the image directory {path}: {error.strerror}", hint=hint) from error

    @contextmanager
    def open(self, name: str) -> Iterator[Slice]:
        """Open one file; Stalled if there is none of that name."""
        try:
            descriptor = open_beneath(self._root, name, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            kind = MissingError if isinstance(error, FileNotFoundError) else Stalled
            raise kind(f"cannot read {self._path / name}: {error.strerror}") from error
        with Closing(descriptor):
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Stalled(f"{self._path / name} is not a regular file")
            yield Slice(descriptor=descriptor, start=0, size=found.st_size)

    def close(self) -> None:
        """Close the directory. Idempotent."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1


class _Headers(io.FileIO):
    """A file from which tarfile may read at most a header's size at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header has more than {_LONGEST_HEADER} bytes")
        return super().read(size)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file, also a fifo without a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


class ArchiveFiles:
    """The regular files of a tar archive; a compressed one is first unpacked to an unnamed file."""

    def __init__(self, path: Path, scratch: Path, limit: int) -> None:
        self._path = path
        with ExitStack() as opened:
            try:
                self._file: IO[bytes] = opened.enter_context(io.FileIO(path, opener=_without_waiting))
                head = os.pread(self._file.fileno(), HEAD, 0)
            except OSError as error:
                raise Stalled(f"cannot open the image archive {path}: {error.strerror}") from error
            if head.startswith((GZIP, ZSTD)):
                self._file = opened.enter_context(self._expanded(head, scratch, limit))
            self._members = self._index()
            opened.pop_all()

    @contextmanager
    def open(self, name: str) -> Iterator[Slice]:
        """Open one member; Stalled if there is none of that name."""
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
        self._file.close()

    def _expanded(self, head: bytes, scratch: Path, limit: int) -> IO[bytes]:
        try:
            with self._file as compressed, ExitStack() as opened:
                file = opened.enter_context(TemporaryFile(dir=scratch))
                compressed.seek(len(head))
                for chunk in plain(head, compressed.read):
                    if file.tell() + len(chunk) > limit:
                        raise BadLayerError(f"unpacks to more than {limit} bytes (image_size in agent.toml)")
                    file.write(chunk)
                file.seek(0)
                opened.pop_all()
                return file
        except BadLayerError as error:
            raise Stalled(f"{self._path}: {error}") from error
        except OSError as error:
            raise Retry(f"cannot unpack {self._path}: {error.strerror}") from error

    def _index(self) -> dict[str, Slice | str]:
        """Map each name to its bytes, or to the name that it links to."""
        members: dict[str, Slice | str] = {}
        last, descriptor = -1, self._file.fileno()
        try:
            with _Headers(os.dup(descriptor)) as file, tarfile.open(fileobj=file, mode="r:") as archive:
                for info in archive:
                    # tarfile would keep all of them.
                    archive.members.clear()  # type: ignore[attr-defined]
                    # tarfile of Python < 3.11.14 goes in circles on negative sizes (CVE-2025-8194).
                    if info.offset <= last or len(members) > _MOST_MEMBERS:
                        raise Stalled(f"{self._path} is not an archive that an image can be in")
                    last = info.offset
                    name = posixpath.normpath(info.name)
                    if info.isreg() and not info.issparse():
                        start, size = info.offset_data, info.size
                        members[name] = Slice(descriptor=descriptor, start=start, size=size)
                    elif info.issym():
                        members[name] = posixpath.join(posixpath.dirname(name), info.linkname)
                    elif info.islnk():
                        members[name] = info.linkname
        except (tarfile.TarError, OSError, ValueError) as error:
            raise Stalled(f"cannot read the archive {self._path}: {error}") from error
        return members


class LayoutContent:
    """An OCI image layout (image-layout.md), in a directory or in an archive. Implements ImageContent."""

    local = True

    def __init__(self, files: DirectoryFiles | ArchiveFiles, reference: Reference) -> None:
        self._files, self._reference, self._where = files, reference, str(reference)

    def manifest(self, digest: str = "") -> Document:
        """Return what the tag (or the only entry) of index.json points to."""
        digest = digest or self._reference.digest
        if digest:
            return Document(data=self._read(self._name(digest), MANIFEST_LIMIT), media_type="")
        index = manifest.parse_manifest(
            self._read("index.json", MANIFEST_LIMIT), manifest.OCI_INDEX, self._where
        )
        assert isinstance(index, Index)
        first, *others = chosen = self._choose(index)
        if not others:
            data = self._read(self._name(first.digest), MANIFEST_LIMIT)
            return Document(data=data, media_type=first.media_type)
        # The same image for several platforms, without an index of its own.
        entries = []
        for one in chosen:
            entry = {"mediaType": one.media_type, "digest": one.digest, "size": one.size}
            entries.append({**entry, "platform": msgspec.to_builtins(one.platform)})
        made = {"schemaVersion": 2, "mediaType": manifest.OCI_INDEX, "manifests": entries}
        return Document(data=msgspec.json.encode(made), media_type=manifest.OCI_INDEX)

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return a blob whole."""
        return self._read(self._name(descriptor.digest), limit)

    @contextmanager
    def open(self, descriptor: Descriptor, offset: int) -> Iterator[ReadChunk]:
        """Open a blob."""
        with self._files.open(self._name(descriptor.digest)) as found:
            yield found.reader(offset)

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _name(self, digest: str) -> str:
        # Callers have checked it, but here it becomes a path.
        if not is_digest(digest):
            raise Stalled(f"{digest[:80]!r} is not a digest")
        return f"blobs/sha256/{digest.removeprefix('sha256:')}"

    def _choose(self, index: Index) -> list[Descriptor]:
        wanted = self._reference.tag
        tags = [entry.annotations.get(_REF_NAME, "") for entry in index.manifests]
        tagged = zip(index.manifests, tags, strict=True)
        named = [entry for entry, tag in tagged if tag == (wanted or "latest")]
        # One entry twice is one image.
        found = list({entry.digest: entry for entry in named or (() if wanted else index.manifests)}.values())
        if named or len(found) == 1 or (found and len(set(tags)) == 1):
            return found
        if not index.manifests:
            raise Stalled("the layout holds no image", where=self._where)
        known = ", ".join(sorted({tag for tag in tags if tag})) or "none"
        wrong = f"no image with the tag {wanted!r} in the layout" if wanted else ""
        hint = f"its tags are: {known}; a digest after @ names one as well"
        raise Stalled(wrong or "the layout has several images", where=self._where, hint=hint)

    def _read(self, name: str, limit: int) -> bytes:
        with self._files.open(name) as found:
            return found.read(limit, f"{self._where}: {name}")


class _Saved(Struct, rename="pascal"):
    """One image in the manifest.json of `docker save`."""

    config: str | None = None
    layers: tuple[str, ...] | None = None
    repo_tags: tuple[str, ...] | None = None


class DockerArchiveContent(LayoutContent):
    """An archive of `docker save`. Makes the manifest that it lacks, the same each time."""

    def __init__(self, files: ArchiveFiles, reference: Reference) -> None:
        super().__init__(files, reference)
        self._names: dict[str, str] = {}
        with ExitStack() as opened:
            opened.callback(files.close)
            self._manifest = self._make()
            opened.pop_all()

    def manifest(self, digest: str = "") -> Document:
        """Return the made manifest."""
        return Document(data=self._manifest, media_type=manifest.OCI_MANIFEST)

    def _name(self, digest: str) -> str:
        return self._names[digest]

    def _make(self) -> bytes:
        saved = self._saved()
        if not saved.config:
            raise Stalled("the archive's manifest.json names no configuration", where=self._where)
        config = self._read(saved.config, manifest.CONFIG_LIMIT)
        layers = saved.layers or ()
        if len(manifest.parse_configuration(config, self._where).diff_ids) != len(layers):
            raise Stalled("the archive's manifest.json and configuration disagree", where=self._where)
        self._names[digest_of(config)] = saved.config
        described = {"mediaType": manifest.DOCKER_CONFIG, "digest": digest_of(config), "size": len(config)}
        made = {"schemaVersion": 2, "mediaType": manifest.OCI_MANIFEST, "config": described}
        return msgspec.json.encode({**made, "layers": [self._layer(name) for name in layers]})

    def _layer(self, name: str) -> dict[str, str | int]:
        """Describe a layer. Newer archives name it by its digest; older ones must be read to know it."""
        with self._files.open(name) as found:
            words = name.split("/")
            digest = f"sha256:{words[-1]}" if words[:-1] == ["blobs", "sha256"] else ""
            if not is_digest(digest):
                summed = hashlib.sha256()
                for chunk in found.chunks():
                    summed.update(chunk)
                digest = f"sha256:{summed.hexdigest()}"
            self._names[digest] = name
            return {"mediaType": _PLAIN_LAYER, "digest": digest, "size": found.size}

    def _saved(self) -> _Saved:
        data, tag = self._read("manifest.json", MANIFEST_LIMIT), self._reference.tag
        try:
            found = msgspec.json.decode(data, type=tuple[_Saved | None, ...] | None)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Stalled(f"the archive's manifest.json can't be read: {error}", where=self._where) from error
        images = [image for image in found or () if image is not None]
        if not images:
            raise Stalled("the archive holds no image: its manifest.json lists none", where=self._where)
        if not tag and len(images) == 1:
            return images[0]
        for image in images:
            if tag in (image.repo_tags or ()):
                return image
        known = ", ".join(tag for image in images for tag in image.repo_tags or ()) or "none"
        wrong = f"no image {tag!r} in the archive" if tag else "the archive has several images"
        hint = f"write one of these after the path and a colon: {known}"
        raise Stalled(wrong, where=self._where, hint=hint)
