"""Images that are ready to run from, and the progress of a pull: the types that other rooms see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

LayerState = Literal["waiting", "downloading", "unpacking", "done", "cached"]
Cancelled = Callable[[], bool]


class ImageHealthcheck(Struct, frozen=True, kw_only=True):
    """An image's HEALTHCHECK: a command that ends with 0 while its service works.

    Docker's extension of the configuration. Times are in seconds; None where the image has none, or nonsense.
    """

    command: tuple[str, ...]
    interval: float | None = None
    timeout: float | None = None
    start_period: float | None = None
    start_interval: float | None = None
    retries: int | None = None


class ImageConfig(Struct, frozen=True, kw_only=True):
    """The part of an image's configuration that a run needs (OCI image-spec, config.md), empty if not given.

    `env` are NAME=VALUE strings in the image's order.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    healthcheck: ImageHealthcheck | None = None


class Image(Struct, frozen=True, kw_only=True):
    """An image that is ready to run from: every layer is unpacked on this machine.

    `reference` is as the pod's file wrote it, `digest` is the manifest's (`sha256:`, 64 hexadecimal digits).
    `index` is the digest that the reference stood for when it was pulled, of an index or the manifest; "" if
    this image was asked for by its digest.
    `layers` are directories, lowest first, with overlayfs whiteouts; nobody may write in them.
    `not_refreshed` is why the registry could not be asked, if this is the copy of an earlier pull.
    """

    reference: str
    digest: str
    layers: tuple[Path, ...]
    config: ImageConfig = msgspec.field(default_factory=ImageConfig)
    index: str = ""
    not_refreshed: str = ""

    @property
    def name(self) -> str:
        """Return the reference with its digest, as `tank status` shows it."""
        return self.reference if "@" in self.reference else f"{self.reference}@{self.digest}"


class LayerProgress(Struct, frozen=True, kw_only=True):
    """The progress of one layer; `digest` is that of the compressed layer."""

    digest: str
    done: int
    total: int
    state: LayerState = "waiting"


class PullProgress(Struct, frozen=True, kw_only=True):
    """The progress of a pull, in bytes of compressed layers; `layers` are in the order of the manifest.

    `trouble` is the error of the last request, while it is tried again; empty after one that worked.
    """

    done: int
    total: int
    layers: tuple[LayerProgress, ...] = ()
    trouble: str = ""


Report = Callable[[PullProgress], None]
