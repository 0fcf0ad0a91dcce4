"""Pull an image into an empty store: ours beside podman, and skopeo with umoci, from one registry on
loopback.

Everything lies in memory, so that no disk is measured. CPU is that of the whole process tree, memory the
highest sum of its proportional set sizes, looked at every 20 ms. The last row is the floor: all layers
fetched before, nothing verified, `igzip` piped into `tar`, two layers at once on two cores.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from bench._measure import Table
from tests.support.debian import root_archive
from tests.support.images import directory, layer, member, write_image
from tests.support.registry import docker_registry, skopeo_copy

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "5"))
PODMAN = "podman pull"
PULL = """
import sys
from pathlib import Path
from tank_agent.settings.image import ImageSettings
from tank_agent.image.store.store import ImageStore
with ImageStore(Path(sys.argv[1]), ImageSettings(auth_files=())) as store:
    store.pull(sys.argv[2])
"""
FLOOR = """
python=$1 store=$2
shift 2
printf '%s\\n' "$@" | xargs -P 2 -I LAYER sh -c '
    mkdir "$2/${3##*/}" && "$1" -m isal.igzip -dc "$3" | tar -C "$2/${3##*/}" -x --numeric-owner -p
' sh "$python" "$store" LAYER
"""
ROOT = Path(__file__).parents[1]


class Cost(Struct, frozen=True, kw_only=True):
    """The cost of one pull: seconds by the clock, seconds of CPU, bytes of memory."""

    seconds: float
    cpu: float
    memory: int


def main() -> None:
    """Build the images, measure, and print the tables."""
    place = Path(tempfile.mkdtemp(prefix="tank-bench-", dir="/dev/shm"))
    podman_locks = Path("/dev/shm/libpod_lock")
    ours_alone = not podman_locks.exists()
    try:
        layout = place / "layout"
        debian = root_archive("bench", ("nginx", "postgresql"), ("--variant=minbase",))
        write_image(layout, [debian.read_bytes()], tag="debian")
        images = {
            "20 layers, 400 MB": twenty_layers(layout),
            "Debian with nginx and postgresql": "debian",
        }
        with docker_registry(place / "registry") as host:
            for name, tag in images.items():
                skopeo_copy(f"oci:{layout}:{tag}", f"docker://{host}/bench:{tag}")
                report(name, measure(place, f"{host}/bench:{tag}", layers_of(layout, tag)))
    finally:
        shutil.rmtree(place)
        if ours_alone:
            podman_locks.unlink(missing_ok=True)


def layers_of(layout: Path, tag: str) -> list[Path]:
    """Return the compressed layers of an image in a layout."""
    blobs = layout / "blobs/sha256"
    for entry in json.loads((layout / "index.json").read_text())["manifests"]:
        if entry["annotations"]["org.opencontainers.image.ref.name"] == tag:
            manifest = json.loads((blobs / entry["digest"].removeprefix("sha256:")).read_text())
            return [blobs / found["digest"].removeprefix("sha256:") for found in manifest["layers"]]
    raise KeyError(tag)


def twenty_layers(layout: Path) -> str:
    """Make 20 layers of about 20 MB each, of files from 1 kB to 1 MB, that gzip makes about half as large."""
    random_ = random.Random(1)
    words = [random_.randbytes(random_.randrange(3, 12)).hex().encode() for _ in range(3000)]
    layers = []
    for number in range(20):
        members = [directory(f"data/{number}")]
        size = 0
        while size < 20 << 20:
            length = int(1024 * 2 ** random_.uniform(0, 10))
            text = b" ".join(random_.choices(words, k=length // 14))
            content = text + random_.randbytes(length - len(text)) if length > len(text) else text
            members.append(member(f"data/{number}/{len(members)}", content, owner=(number, number)))
            size += len(content)
        layers.append(layer(members))
    write_image(layout, layers, tag="layers")
    return "layers"


def measure(place: Path, image: str, layers: Sequence[Path]) -> dict[str, list[Cost]]:
    """Run all ways in turn, each time into an empty store."""
    ways: dict[str, Callable[[Path], Sequence[Sequence[str]]]] = {
        "tank-agent": lambda store: [[sys.executable, "-c", PULL, str(store), image]],
        PODMAN: lambda store: [
            [
                *("podman", "--root", str(store / "root"), "--runroot", str(store / "run")),
                *("--storage-driver", "overlay", "pull", "--quiet", "--tls-verify=false", image),
            ]
        ],
        "skopeo + umoci": lambda store: [
            [
                *("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"),
                *(f"docker://{image}", f"oci:{store / 'layout'}:1"),
            ],
            ["umoci", "unpack", "--image", f"{store / 'layout'}:1", str(store / "bundle")],
        ],
        "floor: igzip and tar": lambda store: [
            [
                *("sh", "-c", FLOOR, "sh", sys.executable, str(store)),
                *(str(layer) for layer in layers),
            ]
        ],
    }
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, commands in ways.items():
            store = place / "store"
            store.mkdir()
            costs[name].append(sum_of([run(argv) for argv in commands(store)]))
            remove(store)
    return costs


def remove(store: Path) -> None:
    """Remove a store; podman leaves a mount of its own directory in it."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        point = line.split()[4]
        if point.startswith(f"{store}/"):
            subprocess.run(["umount", "-l", point], check=True)
    shutil.rmtree(store)


def run(argv: Sequence[str]) -> Cost:
    """Run a command to its end and return its cost."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with watched(process.pid) as highest:
        assert process.stderr is not None
        complaint = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{argv[0]} failed: {complaint.decode(errors='replace')}")
    return Cost(seconds=seconds, cpu=usage.ru_utime + usage.ru_stime, memory=highest[0])


def sum_of(costs: Sequence[Cost]) -> Cost:
    """Add up commands that run one after the other."""
    return Cost(
        seconds=sum(cost.seconds for cost in costs),
        cpu=sum(cost.cpu for cost in costs),
        memory=max(cost.memory for cost in costs),
    )


@contextmanager
def watched(pid: int) -> Iterator[list[int]]:
    """Watch the memory of a process and all below it; yields the highest sum so far, in bytes."""
    highest = [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            highest[0] = max(highest[0], sum(map(proportional_size, tree(pid))))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield highest
    finally:
        over.set()
        thread.join()


def tree(pid: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield pid
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        below = [child for thread in threads for child in (thread / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in below:
        yield from tree(int(child))


def proportional_size(pid: int) -> int:
    """Return a process's share of memory in bytes; 0 if it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def report(name: str, costs: dict[str, list[Cost]]) -> None:
    """Print the tables of one image."""
    units: dict[str, Callable[[Cost], float]] = {
        "s": lambda cost: cost.seconds,
        "s of CPU": lambda cost: cost.cpu,
        "MB of memory": lambda cost: cost.memory / (1 << 20),
    }
    for unit, value in units.items():
        table = Table(f"Pull into an empty store: {name}", unit)
        for way, found in costs.items():
            for cost in found:
                table.add(way, value(cost), peer="" if way == PODMAN else PODMAN)
        table.print()


if __name__ == "__main__":
    main()
