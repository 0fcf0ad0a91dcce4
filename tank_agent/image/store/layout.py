"""Images on this machine's disk: `oci:`, `oci-archive:` and `docker-archive:`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.image.manifest import (
    CONFIG_LIMIT,
    DOCKER_CONFIG,
    MANIFEST_LIMIT,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    digest_of,
    parse_configuration,
    parse_manifest,
)
from tank_agent.image.store.content import Content, Document, Reader
from tank_agent.image.store.files import ArchiveFiles, DirectoryFiles, Files
from tank_agent.spec.reference import Reference, is_digest

_REF_NAME = "org.opencontainers.image.ref.name"
_PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"


def open_on_disk(reference: Reference, scratch: Path, limit: int) -> Content:
    """Open a layout or an archive.

    Args:
        scratch: a directory for an archive that is compressed.
        limit: how many bytes that may have unpacked.

    Raises:
        Stalled: it can't be read.
    """
    path = Path(reference.path)
    if reference.transport == "oci":
        return LayoutContent(DirectoryFiles(path), reference)
    files = ArchiveFiles(path, scratch, limit)
    return (LayoutContent if reference.transport == "oci-archive" else DockerArchiveContent)(files, reference)


def stamp(reference: Reference) -> str:
    """Return a word that changes when the image on disk may have changed; "" if it can't be read now."""
    path = Path(reference.path)
    try:
        if reference.transport == "oci":
            # Its owner may have made a fifo of it: read as a pull reads it.
            with closing(DirectoryFiles(path)) as files, files.open("index.json") as index:
                return digest_of(index.read(MANIFEST_LIMIT, str(reference)))
        found = path.stat()
    except (OSError, Stalled):
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"


class LayoutContent:
    """An OCI image layout (image-layout.md), in a directory or in an archive."""

    local = True

    def __init__(self, files: Files, reference: Reference) -> None:
        self._files = files
        self._reference = reference
        self._where = str(reference)

    def manifest(self, digest: str = "") -> Document:
        """Return what the tag (or the only entry) of index.json points to, as `Content.manifest` says."""
        digest = digest or self._reference.digest
        if digest:
            return Document(data=self._read(_blob(digest), MANIFEST_LIMIT), media_type="")
        data = self._read("index.json", MANIFEST_LIMIT)
        index = parse_manifest(data, OCI_INDEX, self._where)
        assert isinstance(index, Index)
        chosen = self._choose(index)
        if len(chosen) == 1:
            (one,) = chosen
            return Document(data=self._read(_blob(one.digest), MANIFEST_LIMIT), media_type=one.media_type)
        # The same image for several platforms, without an index of its own.
        made = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [_entry(one) for one in chosen]}
        return Document(data=msgspec.json.encode(made), media_type=OCI_INDEX)

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return a blob whole, as `Content.document` says."""
        return self._read(_blob(descriptor.digest), limit)

    @contextmanager
    def open(self, descriptor: Descriptor, offset: int) -> Iterator[Reader]:
        """Open a blob, as `Content.open` says."""
        with self._files.open(_blob(descriptor.digest)) as found:
            yield found.reader(offset)

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _choose(self, index: Index) -> list[Descriptor]:
        wanted = self._reference.tag
        tags = [entry.annotations.get(_REF_NAME, "") for entry in index.manifests]
        named = [
            entry for entry, tag in zip(index.manifests, tags, strict=True) if tag == (wanted or "latest")
        ]
        # One entry twice is one image.
        found = list({entry.digest: entry for entry in named or (() if wanted else index.manifests)}.values())
        if named or len(found) == 1 or (found and len(set(tags)) == 1):
            return found
        if not index.manifests:
            raise Stalled("the layout holds no image", where=self._where)
        known = ", ".join(sorted({tag for tag in tags if tag})) or "none"
        raise Stalled(
            f"no image with the tag {wanted!r} in the layout" if wanted else "the layout has several images",
            where=self._where,
            hint=f"its tags are: {known}; a digest after @ names one as well",
        )

    def _read(self, name: str, limit: int) -> bytes:
        with self._files.open(name) as found:
            return found.read(limit, f"{self._where}: {name}")


def _entry(descriptor: Descriptor) -> dict[str, object]:
    platform = msgspec.to_builtins(descriptor.platform)
    return {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
        "platform": platform,
    }


class _Saved(Struct, rename="pascal"):
    """One image in the manifest.json of `docker save`."""

    config: str | None = None
    layers: tuple[str, ...] | None = None
    repo_tags: tuple[str, ...] | None = None


class DockerArchiveContent:
    """What `docker save` writes. It has no manifest, so one is made: always the same for the same image."""

    local = True

    def __init__(self, files: Files, reference: Reference) -> None:
        self._files = files
        self._where = str(reference)
        self._names: dict[str, str] = {}
        try:
            self._manifest = self._make(reference)
        except BaseException:
            files.close()
            raise

    def manifest(self, digest: str = "") -> Document:
        """Return the manifest that we made, as `Content.manifest` says."""
        return Document(data=self._manifest, media_type=OCI_MANIFEST)

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return the configuration, as `Content.document` says."""
        return self._read(self._names[descriptor.digest], limit)

    @contextmanager
    def open(self, descriptor: Descriptor, offset: int) -> Iterator[Reader]:
        """Open a layer, as `Content.open` says."""
        with self._files.open(self._names[descriptor.digest]) as found:
            yield found.reader(offset)

    def close(self) -> None:
        """Close the archive."""
        self._files.close()

    def _make(self, reference: Reference) -> bytes:
        saved = self._choose(reference)
        if not saved.config:
            raise Stalled("the archive's manifest.json names no configuration", where=self._where)
        config = self._read(saved.config, CONFIG_LIMIT)
        layers = saved.layers or ()
        if len(parse_configuration(config, self._where).diff_ids) != len(layers):
            raise Stalled("the archive's manifest.json and configuration disagree", where=self._where)
        self._names[digest_of(config)] = saved.config
        return msgspec.json.encode(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {"mediaType": DOCKER_CONFIG, "digest": digest_of(config), "size": len(config)},
                "layers": [self._layer(name) for name in layers],
            }
        )

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

    def _choose(self, reference: Reference) -> _Saved:
        data = self._read("manifest.json", MANIFEST_LIMIT)
        try:
            found = msgspec.json.decode(data, type=tuple[_Saved | None, ...] | None)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Stalled(f"the archive's manifest.json can't be read: {error}", where=self._where) from error
        images = [image for image in found or () if image is not None]
        if not images:
            raise Stalled("the archive holds no image: its manifest.json lists none", where=self._where)
        if not reference.tag and len(images) == 1:
            return images[0]
        for image in images:
            if reference.tag in (image.repo_tags or ()):
                return image
        known = ", ".join(tag for image in images for tag in image.repo_tags or ()) or "none"
        raise Stalled(
            f"no image {reference.tag!r} in the archive"
            if reference.tag
            else "the archive has several images",
            where=self._where,
            hint=f"write one of these after the path and a colon: {known}",
        )

    def _read(self, name: str, limit: int) -> bytes:
        with self._files.open(name) as found:
            return found.read(limit, f"{self._where}: {name}")


def _blob(digest: str) -> str:
    # Callers have checked it, but this is what makes it a path.
    if not is_digest(digest):
        raise Stalled(f"{digest[:80]!r} is not a digest")
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"
