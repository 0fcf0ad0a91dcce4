"""Root file systems: the image's layers, the agent's skeleton on top of them, and a private upper directory.

The overlay is mounted in the bundle while the container is being created and detached right after: the
container holds it in its own mount namespace, so that a running container needs no mount on the host, and
a dead agent leaves at most one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from tank_agent.errors import Retry, Stalled
from tank_agent.linux import mounts
from tank_agent.linux.fault import point
from tank_agent.linux.namespaces import IdMapping
from tank_agent.linux.paths import Closing
from tank_agent.linux.trees import Trash, left_for_later, remove_tree

MOUNT_POINT = "rootfs"
# The directory of layers whose ids are mapped, while the overlay is made of them.
LAYERS = "layers"
# The runtime mounts over these. An image may hold symbolic links by these names that lead out of it; real
# directories and files in a layer above hide them (CVE-2026-47766).
_DIRECTORIES = (*((name, 0o755) for name in ("dev", "etc", "proc", "run", "sys")), ("tmp", 0o1777))
_OPEN_SKELETON = "skeleton"
FILES = ("hosts", "hostname", "resolv.conf")


class RootFilesystems:
    """Mounts and removes root file systems; the upper directories are in `data_dir/overlay/<run>`.

    Their files are deleted from `data_dir/trash`, in the background.
    """

    def __init__(self, data_dir: Path) -> None:
        self._overlays = data_dir / "overlay"
        self._skeleton = data_dir / "base" / "skeleton"
        self._overlays.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._trash = Trash(data_dir / "trash")
        _make_skeleton(self._skeleton)
        _remove_open_skeleton(data_dir / _OPEN_SKELETON, in_use=bool(self.runs()))

    def mount(self, run: str, layers: Sequence[Path], bundle: Path, mapping: IdMapping | None = None) -> Path:
        """Mount a fresh root file system of a run in its bundle and return where it is.

        Args:
            layers: read-only directories, lowest first.
            mapping: the ids that files have there; None for their own.

        Raises:
            Stalled: a layer is missing, or the kernel cannot put it into an overlay, or cannot map its ids.
            Retry: anything else, such as a full disk.
        """
        private = self._overlays / run
        target = bundle / MOUNT_POINT
        try:
            for directory in (private, private / "upper", private / "work", target):
                directory.mkdir(mode=0o700, exist_ok=True)
            lower = [*layers, self._skeleton]
            if mapping is not None:
                lower = _map_layers(lower, bundle / LAYERS, mapping)
                point("runtime:layers-mapped")
            # An image may have no layers; the uppermost directory is what the container sees as "/".
            top = lower[-2:][0].stat()
            os.chown(private / "upper", top.st_uid, top.st_gid)
            (private / "upper").chmod(stat.S_IMODE(top.st_mode))
            point("runtime:overlay-made")
            mounts.overlay([*reversed(lower)], private / "upper", private / "work", target)
        except FileNotFoundError as error:
            raise Stalled(f"cannot make the root file system: {error.filename} does not exist") from error
        except OSError as error:
            raise Retry(f"cannot mount the root file system: {error.strerror}") from error
        return target

    def detach(self, bundle: Path) -> None:
        """Detach the mount from the host's tree; the container keeps it."""
        mounts.unmount_all(bundle / MOUNT_POINT)
        mounts.unmount_below(bundle / LAYERS)

    def remove(self, run: str) -> None:
        """Remove a run's changes of its root file system."""
        try:
            self._trash.throw(self._overlays / run)
        except OSError as error:
            raise Retry(f"cannot remove {self._overlays / run}: {error.strerror}") from error

    def close(self) -> None:
        """Stop deleting files; the next agent goes on."""
        self._trash.close()

    def private(self, run: str) -> Path:
        """Return the private directory of a run, which no container sees, and which survives a reboot."""
        return self._overlays / run

    def runs(self) -> frozenset[str]:
        """Return the runs that have an upper directory."""
        return frozenset(entry.name for entry in self._overlays.iterdir())


def _map_layers(layers: Sequence[Path], directory: Path, mapping: IdMapping) -> list[Path]:
    directory.mkdir(mode=0o700, exist_ok=True)
    mapped = []
    for index, layer in enumerate(layers):
        target = directory / str(index)
        target.mkdir(mode=0o700, exist_ok=True)
        try:
            with Closing(os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as source:
                mounts.bind(source, target, read_only=True, mapping=mapping.descriptor)
        except OSError as error:
            if error.errno == errno.EINVAL:
                hint = "use one that can, such as ext4, xfs or btrfs, or leave userns out"
                raise Stalled(
                    f'userns = "auto": the file system of {layer} cannot map ids', hint=hint
                ) from error
            raise
        mapped.append(target)
    return mapped


def _make_skeleton(skeleton: Path) -> None:
    """Make the skeleton, in a directory that only root may enter: it is a layer of every container."""
    skeleton.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    skeleton.parent.chmod(0o700)
    for name, mode in (("", 0o755), *_DIRECTORIES):
        directory = skeleton / name
        directory.mkdir(exist_ok=True)
        directory.chmod(mode)
    for name in FILES:
        file = skeleton / "etc" / name
        file.touch()
        file.chmod(0o644)


def _remove_open_skeleton(skeleton: Path, *, in_use: bool) -> None:
    """Remove the skeleton of an older agent, to whose /tmp any user of the machine could write.

    Containers that it started have it as a layer; while there are any, only its /tmp is emptied.
    """
    with left_for_later("the former skeleton"):
        if not in_use:
            remove_tree(skeleton)
        elif skeleton.exists():
            skeleton.chmod(0o700)
            for entry in (skeleton / "tmp").iterdir():
                remove_tree(entry)
