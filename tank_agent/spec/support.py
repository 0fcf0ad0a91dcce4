"""What this version accepts as valid but cannot execute yet. One table: a row goes when its feature lands."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tank_agent.errors import Problem
from tank_agent.spec.findings import KeyPath, key_text
from tank_agent.spec.model import Pod


def _images(*prefixes: str) -> Callable[[Pod], Iterator[KeyPath]]:
    def find(pod: Pod) -> Iterator[KeyPath]:
        for index, container in enumerate(pod.containers):
            if container.image is not None and container.image.startswith(prefixes):
                yield ("containers", index, "image")

    return find


def _registry_images(pod: Pod) -> Iterator[KeyPath]:
    for index, container in enumerate(pod.containers):
        if container.image and not container.image.startswith(("oci:", "oci-archive:", "docker-archive:")):
            yield ("containers", index, "image")


_NOT_YET: tuple[tuple[Callable[[Pod], Iterator[KeyPath]], str], ...] = (
    (_images("oci-archive:", "docker-archive:"), "archives are not supported yet; use oci:/layout or rootfs"),
    (_registry_images, "registries are not supported yet; use oci:/layout or rootfs"),
)


def unsupported(pod: Pod, file: str, line: int = 0) -> tuple[Problem, ...]:
    """Return what of a valid pod this version cannot execute; `line` is where the pod's table starts."""
    return tuple(
        Problem(file, line, key_text(path), message, pod.name)
        for find, message in _NOT_YET
        for path in find(pod)
    )
