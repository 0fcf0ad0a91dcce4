"""The seam between pods and images: a reference goes in, read-only layers and a configuration come out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from tank_agent.spec.model import PullPolicy


class ImageConfig(Struct, frozen=True, kw_only=True):
    """What of an image's configuration a run needs (OCI image-spec, config.md, "config").

    `env` are NAME=VALUE strings in the image's order. Empty tuples and empty strings mean "not given".
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""


class Image(Struct, frozen=True, kw_only=True):
    """An image that is ready to run from: every layer is unpacked on this machine.

    `reference` is as the pod's file wrote it, `digest` is the manifest's (`sha256:`, 64 hexadecimal digits).
    `layers` are directories, lowest first, with overlayfs whiteouts; nobody may write in them.
    `not_refreshed` is why this is the copy of an earlier pull, though the registry was to be asked.
    """

    reference: str
    digest: str
    layers: tuple[Path, ...]
    config: ImageConfig = msgspec.field(default_factory=ImageConfig)
    not_refreshed: str = ""

    @property
    def name(self) -> str:
        """Return the reference with the digest that it stands for, as `tank status` shows it."""
        return self.reference if "@" in self.reference else f"{self.reference}@{self.digest}"


class LayerProgress(Struct, frozen=True, kw_only=True):
    """How far one layer is; `digest` is that of the compressed layer."""

    digest: str
    done: int
    total: int
    state: Literal["waiting", "downloading", "unpacking", "done", "cached"] = "waiting"


class Progress(Struct, frozen=True, kw_only=True):
    """How far a pull is, in bytes of compressed layers; `layers` are in the order of the manifest.

    `trouble` is how the last request failed, while it is tried again; empty once one worked.
    """

    done: int
    total: int
    layers: tuple[LayerProgress, ...] = ()
    trouble: str = ""


class ImageStore(Protocol):
    """Finds, fetches and unpacks images. All methods may be called from any thread."""

    def cached(self, reference: str) -> Image | None:
        """Return the image if it can run without fetching or unpacking anything; quick, no network."""
        ...

    def pull(
        self,
        reference: str,
        *,
        policy: PullPolicy | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Image:
        """Fetch and unpack what is missing, verify all of it, and return the image.

        Blocks; ends early when `cancelled()` becomes true. Two pulls that share a layer share its work.
        `policy` None is what agent.toml says; with "always", the registry is asked though the image is here.

        Raises:
            Stalled: no such image, a manifest or layer that we refuse, or a reference that cannot be read.
            Retry: the registry or the disk failed for now.
        """
        ...
