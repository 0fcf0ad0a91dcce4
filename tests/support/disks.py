"""Small file systems of their own, on loop devices."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAKE = {
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "ext4": ["mkfs.ext4", "-q", "-F"],
}
KINDS = tuple(_MAKE)
# Those on which files can share blocks.
SHARING = ("btrfs", "xfs")


@contextmanager
def disk(place: Path, kind: str, megabytes: int = 320, *options: str) -> Iterator[Path]:
    """Make a file system, yield where it is mounted, and unmount it; xfs needs 300 MB.

    `options` are those of its mkfs."""
    file, point = place / f"{kind}.img", place / kind
    with file.open("wb") as image:
        image.truncate(megabytes << 20)
    subprocess.run([*_MAKE[kind], *options, file], check=True, stdout=subprocess.DEVNULL)
    point.mkdir()
    subprocess.run(["mount", "-o", "loop", file, point], check=True)
    try:
        yield point
    finally:
        # A thread that still deletes something holds it for a moment.
        subprocess.run(["umount", "--lazy", point], check=True)
        point.rmdir()
        file.unlink()
