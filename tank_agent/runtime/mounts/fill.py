"""Volumes that begin with what an image has at a path, as `from_image` of a mount asks for.

The copy is made beside the volume, under a name that none can have, and becomes the volume by a rename once
it is on the disk: a crash leaves no volume, or a whole one.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import structlog
from msgspec import Struct

from tank_agent.errors import Retry, Stalled, TankError, shortage
from tank_agent.linux import atomic, mounts
from tank_agent.linux.fault import point
from tank_agent.linux.paths import Closing, open_in_root
from tank_agent.linux.tree_copy import copy_opened
from tank_agent.linux.tree_walk import WalkCancelledError, measure_opened
from tank_agent.linux.trees import left_for_later, remove_tree
from tank_agent.runtime.container.launch import Launch, open_rootfs
from tank_agent.runtime.mounts.snapshots import CopyJob, no_room
from tank_agent.runtime.mounts.volumes import Volumes
from tank_agent.spec.model import Mount

_log = structlog.get_logger()
_SCRATCH, _IMAGE = "filling", "image"


class FirstContent(Struct, frozen=True, kw_only=True):
    """A volume to be made, `pod` None for a shared one, of what is open as `source`, at `path` of the image.

    `layers` are those of the image, lowest first, and the inodes that they have.
    """

    pod: str | None
    volume: str
    path: str
    source: int
    layers: tuple[Path, ...]
    inodes: tuple[tuple[int, int], ...]


class Filler:
    """Opens what images have, each mounted in `run_dir` for a moment, and makes volumes of it."""

    def __init__(self, run_dir: Path, volumes: Volumes) -> None:
        self._scratch, self._volumes = run_dir / _SCRATCH, volumes
        # An agent that was killed as it opened an image left this mount, which keeps the image's layers.
        mounts.unmount_all(self._scratch / _IMAGE)
        self._lock = threading.Lock()
        mounts.unmount_tree(self._scratch)

    def is_made(self, pod: str | None, volume: str) -> bool:
        """Return whether there is a volume already, which stays as it is."""
        return os.path.lexists(self._volumes.path(pod, volume))

    def open(self, launch: Launch, mount: Mount, pod: str | None) -> FirstContent | None:
        """Open what the image of a container has at a mount's path; None if it has no directory there.

        Links are followed inside of the image.

        Raises:
            Stalled: links of the image go in circles there.
            Retry: the kernel refused.
        """
        rootfs = launch.container.rootfs
        if not launch.layers:
            return None
        where = open_rootfs(rootfs, self._volumes) if rootfs is not None else nullcontext(None)
        what = f"volume {mount.volume}: what the image has at {mount.path}"
        try:
            with where as found:
                layers = launch.layers if found is None else (found,)
                inodes = tuple(_inode(layer) for layer in layers)
                with Closing(self._image(layers)) as root:
                    source = open_in_root(root, mount.path, os.O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Stalled(f"{what}: links of the image go in circles there") from error
            raise Retry(f"{what}: {error.strerror}") from error
        volume = mount.volume or ""
        # Of a directory of the host nothing is removed as a whole.
        kept = launch.layers if rootfs is None else ()
        return FirstContent(
            pod=pod, volume=volume, path=mount.path, source=source, layers=kept, inodes=inodes[: len(kept)]
        )

    def fill(self, filling: FirstContent, job: CopyJob) -> None:
        """Make a volume, unless somebody else has made it meanwhile. Can be repeated after a crash.

        Raises:
            WalkCancelledError: the job was cancelled.
            Retry: the disk is full, or it failed otherwise; nothing of it is left.
        """
        part = self._volumes.filling(filling.pod, filling.volume)
        try:
            self._fill(filling, part, job)
        except (OSError, TankError) as error:
            if not job.closing:
                for left in (part, part.with_name(f"{part.name}.links")):
                    with left_for_later(str(left)):
                        remove_tree(left)
            if isinstance(error, WalkCancelledError):
                raise
            raise _explained(filling, error) from error

    def _fill(self, filling: FirstContent, part: Path, job: CopyJob) -> None:
        part.parent.mkdir(mode=0o700, exist_ok=True)
        # Of a try before this one.
        remove_tree(part)
        remove_tree(part.with_name(f"{part.name}.links"))
        size = measure_opened(filling.source, Path(filling.path), cancelled=job.is_cancelled)
        job.total = size.size
        if (lacking := no_room(part.parent, size, "it takes")) is not None:
            raise Retry(lacking)
        point("volumes:filling")
        # An overlay shares no blocks with the disk below it.
        job.progress.shared = False
        copy_opened(
            filling.source,
            Path(filling.path),
            part,
            progress=job.progress,
            cancelled=job.is_cancelled,
        )
        # Its files go away only after that of a layer's name, so all were there until now.
        if tuple(_inode(layer) for layer in filling.layers) != filling.inodes:
            raise Retry("the image was removed meanwhile")
        atomic.sync_file_system(part)
        point("volumes:filled")
        if not self._volumes.take_in(filling.pod, filling.volume, part):
            remove_tree(part)
        point("volumes:taken-in")
        atomic.sync_directory(part.parent)
        if job.progress.special:
            _log.warning(
                "devices, FIFOs and sockets of an image are no part of a volume",
                pod=filling.pod,
                volume=filling.volume,
                count=job.progress.special,
            )

    def _image(self, layers: Sequence[Path]) -> int:
        """Return the root directory of an image, mounted read-only and attached nowhere."""
        with self._lock:
            target, empty = self._scratch / _IMAGE, self._scratch / "empty"
            for directory in (self._scratch, target, empty):
                directory.mkdir(mode=0o700, exist_ok=True)
            # An overlay that nobody writes to has two layers at least.
            mounts.read_only_overlay([*reversed(layers), empty], target)
            point("volumes:image-mounted")
            try:
                return mounts.clone(target)
            finally:
                mounts.unmount_all(target)


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _explained(filling: FirstContent, error: OSError | TankError) -> TankError:
    what = f"volume {filling.volume}: cannot make it of what the image has at {filling.path}"
    if isinstance(error, TankError):
        return type(error)(f"{what}: {error.message}", hint=error.hint)
    lacking = shortage(error)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return Retry(f"{what}: {where}{error.strerror}", hint=lacking.hint if lacking else None)
