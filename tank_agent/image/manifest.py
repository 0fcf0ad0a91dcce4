"""Indexes, manifests and configurations, read strictly: a document that can be read in two ways is refused.

OCI image-spec v1.1 (image-index.md, manifest.md, config.md) and Docker Image Manifest Version 2, Schema 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.image.image import ImageConfig
from tank_agent.image.platform import Platform
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
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_COMPRESSIONS = ("", "gzip", "zstd")

# Larger than any real one; distribution itself takes 4 MiB.
MANIFEST_LIMIT = 4 << 20
CONFIG_LIMIT = 8 << 20
# overlayfs and the reference implementations take about 128.
LAYERS_LIMIT = 127

_Kind = TypeVar("_Kind", bound=Struct)


class Descriptor(Struct, frozen=True, kw_only=True, rename="camel"):
    """A pointer to content (OCI descriptor.md). `size` is in bytes; `urls` say where else it is, perhaps."""

    media_type: str = ""
    digest: str
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] | None = None
    urls: tuple[str, ...] | None = None

    @property
    def foreign(self) -> bool:
        """Whether a place that has the image need not have this: its licence forbids to copy it."""
        return bool(self.urls) or any(word in self.media_type for word in (".nondistributable.", ".foreign."))


class Index(Struct, frozen=True, kw_only=True):
    """Several images under one name, usually one a platform."""

    manifests: tuple[Descriptor, ...]


class Manifest(Struct, frozen=True, kw_only=True):
    """One image: where its configuration and its compressed layers are, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


class Configuration(Struct, frozen=True, kw_only=True):
    """An image's configuration file. `diff_ids` are digests of the uncompressed layers, lowest first."""

    platform: Platform
    diff_ids: tuple[str, ...]
    config: ImageConfig


class _Document(Struct, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: tuple[Descriptor, ...] | None = None
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] | None = None
    fs_layers: Any = None


class _RootFs(Struct):
    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class _Settings(Struct, rename="pascal"):
    entrypoint: tuple[str, ...] | str | None = None
    cmd: tuple[str, ...] | str | None = None
    env: tuple[str, ...] | None = None
    working_dir: str | None = None
    user: str | None = None
    stop_signal: str | None = None


class _ConfigurationDocument(Struct):
    architecture: str = ""
    os: str = ""
    variant: str | None = None
    config: _Settings | None = None
    rootfs: _RootFs = msgspec.field(default_factory=_RootFs)


def digest_of(data: bytes) -> str:
    """Return the digest of a document."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse_manifest(data: bytes, media_type: str, where: str) -> Index | Manifest:
    """Read an index or a manifest.

    Args:
        media_type: what the one who gave it said it is ("" if nothing was said); it must agree with what the
            document itself says (CVE-2021-41190).
        where: the image, for messages.

    Raises:
        Stalled: it is neither, or both, or of a form that nobody should use any more.
    """
    document = _decode(data, _Document, "manifest", where)
    if document.schema_version == 1 or media_type.startswith(_SCHEMA_1) or document.fs_layers is not None:
        raise Stalled(
            "the registry has this image only as Docker manifest schema 1, which has no digests of its "
            "uncompressed layers and is retired",
            where=where,
            hint="push it again with a current tool, or copy it with: skopeo copy --format oci",
        )
    stated = {kind for kind in (media_type, document.media_type) if kind}
    if len(stated) > 1:
        raise Stalled(f"the manifest is {' and '.join(sorted(stated))} at once", where=where)
    is_index, is_manifest = document.manifests is not None, document.layers is not None
    if is_index == is_manifest or (is_index and document.config is not None):
        raise Stalled("the manifest is not an image's: it must have either manifests or layers", where=where)
    kind = stated.pop() if stated else ""
    if kind and kind not in (_INDEXES if is_index else _MANIFESTS):
        raise Stalled(f"a document of the type {kind!r} is not an image", where=where)
    if document.manifests is not None:
        return Index(manifests=_checked(document.manifests, where))
    if document.config is None or document.layers is None:
        raise Stalled("the manifest has no configuration", where=where)
    return _image(document.config, document.layers, where)


def _image(config: Descriptor, layers: Sequence[Descriptor], where: str) -> Manifest:
    if config.media_type not in ("", OCI_CONFIG, DOCKER_CONFIG):
        raise Stalled(
            f"this is not a container image but an artifact of the type {config.media_type!r}", where=where
        )
    if len(layers) > LAYERS_LIMIT:
        raise Stalled(f"the image has {len(layers)} layers; {LAYERS_LIMIT} are possible", where=where)
    for layer in layers:
        base, _, compression = layer.media_type.replace("tar.", "tar+").partition("+")
        if base not in _LAYERS or compression not in _COMPRESSIONS:
            raise Stalled(f"a layer is of the unknown type {layer.media_type!r}", where=where)
    return Manifest(config=_checked((config,), where)[0], layers=_checked(layers, where))


def parse_configuration(data: bytes, where: str) -> Configuration:
    """Read an image's configuration.

    Raises:
        Stalled: it is none.
    """
    document = _decode(data, _ConfigurationDocument, "configuration", where)
    diff_ids = document.rootfs.diff_ids
    for diff_id in diff_ids:
        if not is_digest(diff_id):
            raise Stalled(f"the configuration names a layer {diff_id[:80]!r}", where=where)
    inner = document.config or _Settings()
    return Configuration(
        platform=Platform(os=document.os, architecture=document.architecture, variant=document.variant or ""),
        diff_ids=diff_ids,
        config=ImageConfig(
            entrypoint=_words(inner.entrypoint),
            cmd=_words(inner.cmd),
            env=inner.env or (),
            working_dir=inner.working_dir or "",
            user=inner.user or "",
            stop_signal=inner.stop_signal or "",
        ),
    )


def _words(value: tuple[str, ...] | str | None) -> tuple[str, ...]:
    """Old builders wrote one string where a list belongs."""
    if isinstance(value, str):
        return (value,) if value else ()
    return value or ()


def _checked(descriptors: Sequence[Descriptor], where: str) -> tuple[Descriptor, ...]:
    for descriptor in descriptors:
        if not is_digest(descriptor.digest):
            raise Stalled(f"the manifest names content by {descriptor.digest[:80]!r}", where=where)
        if descriptor.size < 0:
            raise Stalled("the manifest names content of a negative size", where=where)
    return tuple(descriptors)


def _decode(data: bytes, kind: type[_Kind], what: str, where: str) -> _Kind:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Stalled(f"the image's {what} can't be read: {error}", where=where) from error
