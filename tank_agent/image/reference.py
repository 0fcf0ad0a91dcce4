"""Image references, as Docker reads them, and the names of images that lie on this machine's disk."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Literal

from msgspec import Struct

from tank_agent.errors import Stalled

Transport = Literal["registry", "oci", "oci-archive", "docker-archive"]

DOCKER_HUB = "docker.io"
# github.com/distribution/reference, regexp.go; sha512 is in the grammar, but no registry in use serves it.
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?")
_LONGEST_NAME = 255


class Reference(Struct, frozen=True, kw_only=True):
    """Where an image is. A registry's has `registry`, `repository` and `tag` or `digest` or both (the digest
    wins).

    Those on disk have `path`, and `tag` names one of several images in it ("" if it holds only one).
    """

    transport: Transport = "registry"
    registry: str = ""
    repository: str = ""
    path: str = ""
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        if self.transport == "registry":
            place, tag = f"{self.registry}/{self.repository}", self.tag
        else:
            place, tag = f"{self.transport}:{self.path}", self.tag
        return place + (f":{tag}" if tag else "") + (f"@{self.digest}" if self.digest else "")


def is_digest(text: str) -> bool:
    """Return whether the text is a digest that we accept; check this before it becomes a part of any path."""
    return bool(_DIGEST.fullmatch(text))


def parse_reference(text: str) -> Reference:
    """Read what a user wrote after `image =`.

    Raises:
        Stalled: it is no reference; the message says what would be right.
    """
    transport, colon, rest = text.partition(":")
    if colon and transport in ("oci", "oci-archive", "docker-archive") and rest.startswith(("/", ".")):
        return _on_disk(text, transport, rest)
    return _in_registry(text)


def _on_disk(text: str, transport: str, rest: str) -> Reference:
    rest, _, digest = rest.partition("@")
    path, _, tag = rest.partition(":")
    if not path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in text:
        raise _wrong(text, f"{path!r} is not an absolute path without '..'")
    if digest and not is_digest(digest):
        raise _wrong(text, f"{digest!r} is not sha256: and 64 hexadecimal digits")
    normal = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    return Reference(transport=transport, path=normal, tag=tag, digest=digest)  # type: ignore[arg-type]


def _in_registry(text: str) -> Reference:
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _wrong(text, f"{digest!r} is not sha256: and 64 hexadecimal digits")
    first, slash, others = rest.partition("/")
    # "a/b" is on Docker Hub, "a.b/c", "a:1/c" and "localhost/c" are on a registry of that name.
    if slash and (set(first) & {".", ":", "["} or first == "localhost" or first != first.lower()):
        registry, rest = first, others
    else:
        registry = DOCKER_HUB
    name, colon, tag = rest.partition(":")
    if not _HOST.fullmatch(registry):
        raise _wrong(text, f"{registry!r} is not a host name")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, f"{tag!r} is not a tag")
    if not _REPOSITORY.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise _wrong(text, f"{name!r} is not a repository: write lower-case letters, digits and . _ - /")
    if registry in ("index.docker.io", "registry-1.docker.io"):
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in name:
        name = f"library/{name}"
    return Reference(
        registry=registry, repository=name, tag=tag or ("" if digest else "latest"), digest=digest
    )


def _wrong(text: str, problem: str) -> Stalled:
    return Stalled(
        f"image {text[:200]!r}: {problem}",
        hint="write for example nginx:1.27, ghcr.io/owner/name@sha256:…, or oci:/path/to/layout:tag",
    )
