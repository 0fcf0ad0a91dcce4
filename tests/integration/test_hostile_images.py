"""Images with one quirk each are unpacked as podman and umoci do. A new report is one more row."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.image.store.store import ImageStore
from tests.support.image_quirks import QUIRKS, write_quirk
from tests.support.images import directory, layer, member, symlink, write_image
from tests.support.trees import big_directory, describe, mounted


@pytest.fixture
def place() -> Iterator[Path]:
    with big_directory() as path:
        yield path


def layouts(place: Path, names: list[str]) -> list[str]:
    # podman makes a name of the path, which can't have everything.
    return [f"oci:{write_quirk(place / str(number), QUIRKS[name])}" for number, name in enumerate(names)]


def test_every_quirk_that_is_taken_can_be_run_from(place: Path) -> None:
    names = [name for name, quirk in QUIRKS.items() if not quirk.refused]
    with ImageStore(place / "store") as store:
        for name, reference in zip(names, layouts(place, names), strict=True):
            image = store.pull(reference)
            assert all((layer / "file").read_text() == "x" for layer in image.layers), name
            assert store.cached(reference) == image, name


def test_podman_takes_what_the_table_says(place: Path) -> None:
    """So that no row is ours alone; all in one command, since each start of podman takes a while."""
    references = layouts(place, [name for name, quirk in QUIRKS.items() if quirk.podman])
    # It refuses one with a longer path than 50 characters.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as run:
        storage = ["--root", place / "podman", "--runroot", run, "--storage-driver", "vfs"]
        argv = ["podman", *storage, "pull", "--quiet", *references]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n"
    digits = next(digits for digits in range(1, 5) if len(str(len(rest) + digits)) == digits)
    return f"{len(rest) + digits}{rest}".encode()


def extended(payload: bytes, of: bytes) -> bytes:
    """Put a PAX header before an archive's first entry."""
    block = bytearray(of[:512])
    block[:100] = b"PaxHeaders/x".ljust(100, b"\0")
    block[124:136] = b"%011o\0" % len(payload)
    block[156] = ord("x")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + payload.ljust(-(-len(payload) // 512) * 512, b"\0") + of


ONE = layer([member("file", "content", mode=0o640, owner=(3, 4)), directory("after")])
ARCHIVES = {
    "time without a value": extended(record("atime", ""), ONE),
    "name without a value": extended(record("path", "") + record("mtime", "1600000000.5"), ONE),
    "size without a value": extended(record("size", "") + record("uid", ""), ONE),
    "some without a value": extended(
        record("ctime", "") + record("comment", "x=\ny") + record("gid", "77") + record("comment", ""), ONE
    ),
    "a linked-to name without a value": extended(record("linkpath", ""), ONE),
    "last block without padding": layer([directory("a"), member("a/file", "x" * 700)])[: 512 * 3 + 188],
    "last block cut in its padding": layer([directory("a"), member("a/file", "x" * 700)])[: 512 * 3 + 300],
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_with_a_quirk_is_unpacked_as_umoci_does(place: Path, name: str) -> None:
    layout = place / "layout"
    write_image(layout, [ARCHIVES[name]])
    argv = ["umoci", "unpack", "--image", f"{layout}:latest", place / "bundle"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with ImageStore(place / "data") as store:
        image = store.pull(f"oci:{layout}")
        with mounted(image.layers, place / "mount") as root:
            assert describe(root) == describe(place / "bundle/rootfs")


def test_a_file_that_is_cut_off_is_refused(place: Path) -> None:
    write_image(place / "layout", [layer([member("file", "x" * 700)])[: 512 * 2 + 187]])
    with ImageStore(place / "data") as store, pytest.raises(Stalled, match="middle of an entry"):
        store.pull(f"oci:{place}/layout")


def test_a_directory_over_a_link_replaces_it_as_in_podman(place: Path) -> None:
    """As docs/images.md says: layers that write to /bin over a base with merged /usr."""
    base = [directory("usr/bin"), member("usr/bin/sh", "sh"), symlink("bin", "usr/bin")]
    layout = place / "layout"
    write_image(layout, [layer(base), layer([member("bin/tool", "x")])])
    with ImageStore(place / "data") as store:
        image = store.pull(f"oci:{layout}")
        with mounted(image.layers, place / "mount") as root:
            assert [entry.name for entry in (root / "bin").iterdir()] == ["tool"]
            assert (root / "usr/bin/sh").read_text() == "sh"
