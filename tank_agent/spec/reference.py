"""Image references as a pod file writes them: in a registry, or in a file or directory of this host.

Source of the registry form: distribution/reference (the grammar that Docker and podman read).
"""

from __future__ import annotations

import posixpath
import re
from typing import Literal

from msgspec import Struct

from tank_agent.spec.findings import show

Transport = Literal["registry", "oci", "oci-archive", "docker-archive"]

_LOCAL: tuple[Transport, ...] = ("oci", "oci-archive", "docker-archive")
_DOMAIN = re.compile(
    r"(?:(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
    r"(?:\.(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9]))*|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
)
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LAYOUT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,254}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_NAME_MAX = 255
_REFERENCE_MAX = 1024


class ImageReference(Struct, frozen=True, kw_only=True):
    """An image reference in its parts, as written: nothing is filled in.

    For "registry", `domain` is empty for Docker Hub's short names and `path` is the repository; for the
    others `path` is an absolute path of the host and `tag` the name inside the layout or archive.
    """

    transport: Transport
    path: str
    domain: str = ""
    tag: str = ""
    digest: str = ""


def parse_reference(text: str) -> ImageReference:
    """Return the parts of an image reference.

    Raises:
        ValueError: a sentence that says what is wrong and what would be right.
    """
    if len(text) > _REFERENCE_MAX:
        raise ValueError(f"an image reference has at most {_REFERENCE_MAX} characters")
    for transport in _LOCAL:
        if text.startswith(f"{transport}:"):
            return _local(transport, text.removeprefix(f"{transport}:"))
    return _registry(text)


def check_path(path: str) -> str | None:
    """Return what is wrong with an absolute path of a file system, or None."""
    if not path.startswith("/"):
        return f'{show(path)} is not an absolute path; it must start with "/"'
    if any(ord(char) < 32 or ord(char) == 127 for char in path):
        return f"{show(path)} has control characters in it"
    normal = posixpath.normpath(path)
    normal = "/" + normal.lstrip("/")
    if normal != path:
        return f"{show(path)} is not the shortest form of the path; write {show(normal)}"
    # Paths of a command line may hold bytes that are not UTF-8; Python keeps those as surrogates.
    sizes = [len(part.encode(errors="surrogatepass")) for part in path.split("/")]
    if sum(sizes) + len(sizes) > 4095 or max(sizes) > 255:
        return "the path is longer than the kernel takes"
    return None


def _local(transport: Transport, rest: str) -> ImageReference:
    path, colon, tag = rest.partition(":")
    wrong = check_path(path)
    if wrong is None and path == "/":
        wrong = "the image can't be the host's root directory"
    if wrong:
        kind = "layout" if transport == "oci" else "image.tar"
        raise ValueError(f"{wrong}; the form is {transport}:/path/to/{kind}[:tag]")
    if colon and not _LAYOUT_NAME.fullmatch(tag):
        raise ValueError(f"{show(tag)} is not a tag; use letters, digits and . _ - after the last colon")
    return ImageReference(transport=transport, path=path, tag=tag)


def _registry(text: str) -> ImageReference:
    _refuse_other_transports(text)
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError(f"{show(digest)} is not a digest; write sha256: and 64 digits of 0-9 and a-f")
    tag = ""
    if ":" in name.rpartition("/")[2]:
        name, _, tag = name.rpartition(":")
        if not _TAG.fullmatch(tag):
            raise ValueError(f"{show(tag)} is not a tag; use letters, digits and . _ -, at most 128")
    domain, path = _split_domain(name)
    if domain and not _DOMAIN.fullmatch(domain):
        raise ValueError(f"{show(domain)} is not a registry's host name")
    _check_repository(text, path)
    if len(name) > _NAME_MAX:
        raise ValueError(f"the image's name has more than {_NAME_MAX} characters")
    return ImageReference(transport="registry", domain=domain, path=path, tag=tag, digest=digest)


def _refuse_other_transports(text: str) -> None:
    scheme, separator, rest = text.partition("://")
    if separator:
        raise ValueError(f'{show(text)} has "{scheme[:20]}://" in front; write only {show(rest)}')
    for other in ("dir", "containers-storage", "docker-daemon", "ostree"):
        if text.startswith(f"{other}:/"):
            raise ValueError(
                f"{other}: is not read here; use oci:/layout, oci-archive:/file.tar or a registry"
            )
    if text.startswith(("/", "./", "../")):
        raise ValueError(
            f"{show(text)} is a path; write oci:/path for an OCI layout, or rootfs for a directory"
        )


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    # As Docker decides: only what cannot be a user's name on Docker Hub is a host.
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        return first, rest
    return "", name


def _check_repository(text: str, path: str) -> None:
    if all(_COMPONENT.fullmatch(part) for part in path.split("/")):
        if re.fullmatch("[0-9a-f]{64}", path):
            raise ValueError("an image can't be named by its id alone; write name@sha256:…")
        return
    if path != path.lower() and all(_COMPONENT.fullmatch(part) for part in path.lower().split("/")):
        raise ValueError(f"{show(text)} has capital letters; image names are lower case")
    raise ValueError(
        f'{show(text)} is not an image reference; write one such as "docker.io/library/postgres:17"'
    )
