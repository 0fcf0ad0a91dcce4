"""Read indexes, manifests and configurations; refuse a document that can be read in two ways.

They are read as Docker and podman read them: null is the same as a missing key, and a vague media type such
as application/octet-stream as none.

OCI image-spec v1.1 (image-index.md, manifest.md, config.md) and Docker Image Manifest Version 2, Schema 2.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.image.config import ImageConfig
from tank_agent.image.healthcheck import read_healthcheck
from tank_agent.image.platform import Platform, normal_platform
from tank_agent.spec.reference import is_digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
ACCEPTED = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)

_INDEXES = (OCI_INDEX, DOCKER_LIST)
_MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
_LAYERS = (
    *(f"application/vnd.oci.image.layer.{kind}v1.tar" for kind in ("", "nondistributable.")),
    *(f"application/vnd.docker.image.rootfs.{kind}diff.tar" for kind in ("", "foreign.")),
)
_COMPRESSIONS = ("", "gzip", "zstd")
# The types that servers state for any file.
_VAGUE = ("", "text/plain", "application/json", "application/octet-stream")
# Docker takes these, too, since registries have stored such images.
_CONFIGS = (*_VAGUE, "text/html", OCI_CONFIG, DOCKER_CONFIG)
_VAGUE_LAYERS = ("", "application/octet-stream", "application/x-tar", "application/tar", "application/gzip")

# Larger than any real document; distribution itself takes manifests of 4 MiB.
MANIFEST_LIMIT = 4 << 20
CONFIG_LIMIT = 8 << 20
# overlayfs and the reference implementations take about 128.
LAYERS_LIMIT = 127
# No kernel starts a process with more words (execve(2)), and the agent keeps them in memory.
_WORDS_LIMIT = 100_000

_Kind = TypeVar("_Kind", bound=Struct)


class Descriptor(Struct, frozen=True, kw_only=True):
    """A pointer to content (OCI descriptor.md). `size` is in bytes; `urls` are other places of it, if any."""

    media_type: str = ""
    digest: str
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    urls: tuple[str, ...] = ()

    @property
    def foreign(self) -> bool:
        """Return whether a place of the image may lack this content, since its licence forbids copies."""
        return bool(self.urls) or any(word in self.media_type for word in (".nondistributable.", ".foreign."))


class Index(Struct, frozen=True, kw_only=True):
    """Several images under one name, usually for different platforms."""

    manifests: tuple[Descriptor, ...]


class Manifest(Struct, frozen=True, kw_only=True):
    """One image: its configuration and its compressed layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


class Configuration(Struct, frozen=True, kw_only=True):
    """An image's configuration file.

    `diff_ids` are digests of the uncompressed layers, lowest first. `created` is the Unix time at which it
    was built, None if it does not say.
    """

    platform: Platform
    diff_ids: tuple[str, ...]
    config: ImageConfig
    created: float | None = None


class _Platform(Struct):
    os: str | None = None
    architecture: str | None = None
    variant: str | None = None

    def normal(self) -> Platform:
        return normal_platform(self.os or "", self.architecture or "", self.variant or "")


class _Descriptor(Struct, rename="camel"):
    media_type: str | None = None
    digest: str | None = None
    size: int | None = None
    platform: _Platform | None = None
    annotations: dict[str, str | None] | None = None
    urls: tuple[str | None, ...] | None = None


class _Document(Struct, rename="camel"):
    schema_version: int | None = None
    media_type: str | None = None
    manifests: tuple[_Descriptor, ...] | None = None
    config: _Descriptor | None = None
    layers: tuple[_Descriptor, ...] | None = None
    fs_layers: msgspec.Raw = msgspec.Raw(b"null")


class _RootFs(Struct):
    diff_ids: tuple[str, ...] | None = None


_Words = tuple[str | None, ...] | str | None


class _Settings(Struct, rename="pascal"):
    entrypoint: _Words = None
    cmd: _Words = None
    env: tuple[str | None, ...] | None = None
    working_dir: str | None = None
    user: str | None = None
    stop_signal: str | None = None
    # Of any form, since an image is not unusable because of them.
    healthcheck: msgspec.Raw = msgspec.Raw(b"null")
    shell: msgspec.Raw = msgspec.Raw(b"null")


class _ConfigurationDocument(_Platform):
    config: _Settings | None = None
    rootfs: _RootFs | None = None
    # An image with nonsense here is an image all the same.
    created: Any = None


def digest_of(data: bytes) -> str:
    """Return the digest of a document."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse_manifest(data: bytes, media_type: str, where: str) -> Index | Manifest:
    """Read an index or a manifest; Stalled if it is neither, or both, or of a retired form.

    `media_type`, as the place stated it, or "", must agree with the document's own type (CVE-2021-41190).
    `where` is the image, for messages.
    """
    document = _decode(data, _Document, "manifest", where)
    media_type = _type(media_type)
    old = document.schema_version == 1 or bytes(document.fs_layers) != b"null"
    if old or media_type.startswith(_SCHEMA_1):
        wrong = "the registry has this image only as Docker manifest schema 1, which has no digests of its "
        hint = "push it again with a current tool, or copy it with: skopeo copy --format oci"
        raise Stalled(f"{wrong}uncompressed layers and is retired", where=where, hint=hint)
    stated = {kind for kind in (media_type, _type(document.media_type)) if kind not in _VAGUE}
    if len(stated) > 1:
        raise Stalled(f"the manifest is {' and '.join(sorted(stated))} at once", where=where)
    kind = stated.pop() if stated else ""
    has_image = document.config is not None or document.layers is not None
    # Go writes an empty list as null.
    is_index = document.manifests is not None or (kind in _INDEXES and not has_image)
    if is_index == has_image:
        raise Stalled("the manifest is not an image's: it must have either manifests or layers", where=where)
    if kind and kind not in (_INDEXES if is_index else _MANIFESTS):
        raise Stalled(f"a document of the type {kind!r} is not an image", where=where)
    if is_index:
        # A manifest may lack its size in an index: reads of it are bounded anyway.
        entries = document.manifests or ()
        return Index(manifests=tuple(_checked(entry, entry.size or 0, where) for entry in entries))
    config, layers = document.config, document.layers or ()
    if config is None:
        raise Stalled("the manifest has no configuration", where=where)
    if _type(config.media_type) not in _CONFIGS:
        wrong = f"this is not a container image but an artifact of the type {config.media_type!r}"
        raise Stalled(wrong, where=where)
    if len(layers) > LAYERS_LIMIT:
        raise Stalled(f"the image has {len(layers)} layers; {LAYERS_LIMIT} are possible", where=where)
    for layer in layers:
        kind = _type(layer.media_type)
        base, _, compression = kind.replace("tar.", "tar+").partition("+")
        if kind not in _VAGUE_LAYERS and (base not in _LAYERS or compression not in _COMPRESSIONS):
            raise Stalled(f"a layer is of the unknown type {layer.media_type!r}", where=where)
    checked = tuple(_checked(layer, layer.size, where) for layer in layers)
    return Manifest(config=_checked(config, config.size, where), layers=checked)


def parse_configuration(data: bytes, where: str) -> Configuration:
    """Read an image's configuration; Stalled if it is invalid."""
    document = _decode(data, _ConfigurationDocument, "configuration", where)
    diff_ids = (document.rootfs and document.rootfs.diff_ids) or ()
    for diff_id in diff_ids:
        if not is_digest(diff_id):
            raise Stalled(f"the configuration names a layer {diff_id[:80]!r}", where=where)
    inner = document.config or _Settings()
    config = ImageConfig(
        entrypoint=_words(inner.entrypoint),
        cmd=_words(inner.cmd),
        env=_words(inner.env),
        working_dir=inner.working_dir or "",
        user=inner.user or "",
        stop_signal=inner.stop_signal or "",
        healthcheck=read_healthcheck(inner.healthcheck, inner.shell),
    )
    if len(config.entrypoint) + len(config.cmd) + len(config.env) > _WORDS_LIMIT:
        raise Stalled("the configuration has more variables and arguments than can be run", where=where)
    return Configuration(
        platform=document.normal(), diff_ids=diff_ids, config=config, created=_time(document.created)
    )


def _time(text: Any) -> float | None:
    """Return the Unix time of a date as RFC 3339 writes it; None for anything else."""
    try:
        found = datetime.fromisoformat(text)
        # A date without a zone means nothing anywhere else.
        moment = found.timestamp() if found.tzinfo is not None else 0.0
    except (TypeError, ValueError, OverflowError):
        return None
    # Builders whose images are the same each time write the zero of some clock.
    return moment if moment > 0 else None


def _words(value: _Words) -> tuple[str, ...]:
    """Return a list of words, also for the single string of old builders."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(word or "" for word in value or ())


def _type(stated: str | None) -> str:
    """Return a media type in lower case and without its parameters (RFC 2045)."""
    return (stated or "").partition(";")[0].strip().lower()


def _checked(stated: _Descriptor, size: int | None, where: str) -> Descriptor:
    if not is_digest(stated.digest or ""):
        raise Stalled(f"the manifest names content by {(stated.digest or '')[:80]!r}", where=where)
    if size is None:
        raise Stalled("the manifest does not say how large its content is, so nothing bounds it", where=where)
    if size < 0:
        raise Stalled("the manifest names content of a negative size", where=where)
    return Descriptor(
        media_type=_type(stated.media_type),
        digest=stated.digest or "",
        size=size,
        platform=None if stated.platform is None else stated.platform.normal(),
        annotations={key: value for key, value in (stated.annotations or {}).items() if value is not None},
        urls=tuple(url for url in stated.urls or () if url),
    )


def _decode(data: bytes, kind: type[_Kind], what: str, where: str) -> _Kind:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Stalled(f"the image's {what} can't be read: {error}", where=where) from error
