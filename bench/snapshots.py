"""A snapshot of 1 GB in 2,000 files, taken and put back, on each file system, beside `cp -a` with a sync.

The file systems are loop devices on this machine's disk. A pod is down from the stop of its containers to the
start of the next ones: the time of a snapshot is what it adds to that. The volume was read before.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench._measure import Table, add_all, alternate, milliseconds
from tank_agent.runtime.mounts.snapshots import CopyJob, SnapshotStore
from tank_agent.runtime.mounts.volumes import Volumes
from tests.support.disks import KINDS, disk

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "5"))
_MEGABYTES = 6144
FILES, SIZE = 2000, 1_000_000_000


def main() -> None:
    """Measure each file system, and print the tables."""
    place = Path(tempfile.mkdtemp(prefix="tank-bench-", dir="/var/tmp"))
    try:
        times, rooms = Table("1 GB in 2,000 files", "ms"), Table("Room that a snapshot takes", "MB")
        for kind in KINDS:
            with disk(place, kind, _MEGABYTES) as found, (place / f"{kind}.img").open("r+b") as image:
                # Else this machine's file system looks for blocks while the other one is measured.
                os.posix_fallocate(image.fileno(), 0, _MEGABYTES << 20)
                measure(kind, found, times, rooms)
        times.print()
        rooms.print()
    finally:
        shutil.rmtree(place)


def measure(kind: str, place: Path, times: Table, rooms: Table) -> None:
    """Take and remove snapshots in turn with cp."""
    data = place / "tank"
    live = data / "volumes" / "db" / "data"
    fill(live)
    volumes = Volumes(data, place / "run")
    store = SnapshotStore(data, volumes)
    peer = f"{kind}: cp -a --reflink=auto and sync"

    def take() -> float:
        before = used(place)
        spent = milliseconds(lambda: store.take("db", 7, {"data": True}, CopyJob()))
        rooms.add(kind, (used(place) - before) / 1e6)
        return spent

    def put_back() -> float:
        ids = {"data": "7"}
        spent = milliseconds(lambda: store.put_back("db", 8, ids, CopyJob(), failed=7))
        store.settle("db", ids)
        return spent

    def remove() -> float:
        def both() -> None:
            store.remove("db", "data", "7")
            volumes.remove("db", "data.failed-7")

        spent = milliseconds(both)
        os.sync()
        return spent

    def copy() -> float:
        target = place / "copy"
        spent = milliseconds(lambda: cp(live, target))
        shutil.rmtree(target)
        os.sync()
        return spent

    measured = {
        f"{kind}: snapshot": take,
        f"{kind}: put back": put_back,
        f"{kind}: remove both": remove,
        peer: copy,
    }
    add_all(times, alternate(ROUNDS, measured), {f"{kind}: snapshot": peer, f"{kind}: put back": peer})


def fill(live: Path) -> None:
    """Write the volume's files."""
    for number in range(FILES):
        directory = live / f"{number % 20}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}").write_bytes(os.urandom(SIZE // FILES))
    os.sync()


def cp(source: Path, target: Path) -> None:
    """Copy as a person would who wants it on the disk."""
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)
    subprocess.run(["sync", "-f", target], check=True)


def used(place: Path) -> int:
    """Return the bytes of a file system that are not free."""
    os.sync()
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


if __name__ == "__main__":
    main()
