"""Image references: in a registry, as Docker reads them, or in a file or directory of this host.

Pod files and the image store share this reader. The registry form is the grammar of distribution/reference,
which Docker and podman read.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.spec.findings import show
from tank_agent.spec.paths import check_path

Transport = Literal["registry", "oci", "oci-archive", "docker-archive"]

DOCKER_HUB = "docker.io"
# Where examples and guide name their image, which `tank image busybox` writes.
EXAMPLE_LAYOUT = "/srv/images/busybox"
_DOCKER_HUB_ALIASES = ("index.docker.io", "registry-1.docker.io")
_LOCAL: tuple[Transport, ...] = ("oci", "oci-archive", "docker-archive")
_DOMAIN = re.compile(
    r"(?:(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
    r"(?:\.(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9]))*|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
)
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
# Pages of images that Docker made, and of others.
_HUB_PAGE = re.compile(r"hub\.docker\.com/(?:_/([a-z0-9._-]+)|r/([a-z0-9._-]+/[a-z0-9._-]+))(?:/.*)?")
_LAYOUT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,254}")
# sha512 is in the grammar, but no registry in use serves it.
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DOMAIN_MAX = 255
_NAME_MAX = 255
_REFERENCE_MAX = 1024


class Reference(Struct, frozen=True, kw_only=True):
    """The place of an image.

    In a registry it has `registry`, `repository` and a `tag` or a `digest` or both (the digest wins). On disk
    it has `path`, and `tag` names one of several images there ("" if it holds only one).
    """

    transport: Transport = "registry"
    registry: str = ""
    repository: str = ""
    path: str = ""
    tag: str = ""
    digest: str = ""

    @property
    def place(self) -> str:
        """The registry, or the path on this machine."""
        return self.registry or self.path

    def __str__(self) -> str:
        """Return the full form, which stands for the same image."""
        registry = self.transport == "registry"
        place = f"{self.registry}/{self.repository}" if registry else f"{self.transport}:{self.path}"
        return place + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def is_digest(text: str) -> bool:
    """Return whether the text is a digest that we accept; ask before it becomes a part of any path."""
    return bool(_DIGEST.fullmatch(text))


def parse_reference(text: str) -> Reference:
    """Read an image reference, or raise ValueError; registry, `library/` and `latest` are filled in."""
    if len(text) > _REFERENCE_MAX:
        raise ValueError(f"an image reference has at most {_REFERENCE_MAX} characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{show(text)} is not UTF-8") from error
    scheme, colon, rest = text.partition(":")
    transport = next((known for known in _LOCAL if colon and known == scheme), None)
    return _registry(text) if transport is None else _local(transport, rest)


def find_image(text: str) -> Reference:
    """Read an image reference as `parse_reference` does, but raise Stalled if it is none."""
    try:
        return parse_reference(text)
    except ValueError as error:
        hint = "write for example nginx:1.27, ghcr.io/owner/name@sha256:…, or oci:/path/to/layout:tag"
        raise Stalled(f"image {show(text)}: {error}", hint=hint) from error


def _local(transport: Transport, text: str) -> Reference:
    rest, at, digest = text.rpartition("@")
    # Paths and names may have an @ in them.
    if at and digest.startswith(("sha256:", "sha512:")):
        _check_digest(digest)
    else:
        rest, digest = text, ""
    path, colon, tag = rest.partition(":")
    wrong = check_path(path)
    if wrong is None and path == "/":
        wrong = "the image can't be the host's root directory"
    if wrong:
        kind = "layout" if transport == "oci" else "image.tar"
        raise ValueError(f"{wrong}; the form is {transport}:/path/to/{kind}[:tag]")
    if colon and not _LAYOUT_NAME.fullmatch(tag):
        raise ValueError(f"{show(tag)} is not a tag; use letters, digits and . _ - after the last colon")
    return Reference(transport=transport, path=path, tag=tag, digest=digest)


def _registry(text: str) -> Reference:
    _refuse_other_transports(text)
    name, at, digest = text.partition("@")
    if at:
        _check_digest(digest)
    tag = ""
    if ":" in name.rpartition("/")[2]:
        name, _, tag = name.rpartition(":")
        if not _TAG.fullmatch(tag):
            right = "use letters, digits and . _ -, at most 128"
            right = f"write {show(name)}, or the tag" if not tag.strip() else right
            raise ValueError(f"{show(tag)} is not a tag; {right}")
    domain, slash, path = name.partition("/")
    # As Docker decides: only what cannot be a user's name on Docker Hub is a host.
    if not slash or not (re.search("[.:]", domain) or domain == "localhost" or domain != domain.lower()):
        domain, path = "", name
    if domain and (len(domain) > _DOMAIN_MAX or not _DOMAIN.fullmatch(domain)):
        raise ValueError(f"{show(domain)} is not a registry's host name")
    _check_repository(text, path)
    registry = DOCKER_HUB if not domain or domain in _DOCKER_HUB_ALIASES else domain
    repository = f"library/{path}" if registry == DOCKER_HUB and "/" not in path else path
    if len(repository) > _NAME_MAX:
        raise ValueError(f"the image's name has more than {_NAME_MAX} characters")
    tag = tag or ("" if digest else "latest")
    return Reference(registry=registry, repository=repository, tag=tag, digest=digest)


def _check_digest(digest: str) -> None:
    if not is_digest(digest):
        raise ValueError(f"{show(digest)} is not a digest; write sha256: and 64 digits of 0-9 and a-f")


def _refuse_other_transports(text: str) -> None:
    scheme, separator, rest = text.partition("://")
    page = _HUB_PAGE.match(rest if separator else text)
    if page:
        raise ValueError(f"{show(text)} is a page of Docker Hub; write {show(page[1] or page[2])}")
    if "$" in text:
        raise ValueError(f"{show(text)} has a variable in it, and none are replaced; write its value")
    if text != text.strip() and text.strip():
        raise ValueError(f"{show(text)} has a space at an end; write {show(text.strip())}")
    if separator:
        raise ValueError(f'{show(text)} has "{scheme[:20]}://" in front; write only {show(rest)}')
    for other in ("dir:", "containers-storage:", "docker-daemon:", "ostree:"):
        if text.startswith(f"{other}/"):
            raise ValueError(
                f"{other} is not read here; use oci:/layout, oci-archive:/file.tar or a registry"
            )
    if text.startswith(("/", "./", "../")):
        right = "write oci:/path for an OCI layout, or rootfs for a directory"
        raise ValueError(f"{show(text)} is a path; {right}")


def _check_repository(text: str, path: str) -> None:
    if re.fullmatch("[0-9a-f]{64}", path):
        raise ValueError("an image can't be named by its id alone; write name@sha256:…")
    if not all(_COMPONENT.fullmatch(part) for part in path.lower().split("/")):
        words = text.split()
        right = 'write one such as "docker.io/library/postgres:17"'
        if len(words) == 2 and _COMPONENT.fullmatch(words[0].lower()) and _TAG.fullmatch(words[1]):
            right = f"write {show(':'.join(words))}"
        raise ValueError(f"{show(text)} is not an image reference; {right}")
    if path != path.lower():
        right = f"write {show(text.replace(path, path.lower(), 1))}"
        raise ValueError(f"{show(text)} has capital letters, and image names are lower case; {right}")
