"""What a container sees of an image is what `umoci unpack` makes of it, entry by entry."""

from __future__ import annotations

import os
import random
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tank_agent.image.store.store import ImageStore
from tests.support.images import Compression, Member, directory, layer, member, symlink, write_image
from tests.support.trees import big_directory, describe, mounted

CAPABILITY = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
LONG = "/".join(["a-rather-long-directory-name"] * 8)


@pytest.fixture
def place() -> Iterator[Path]:
    with big_directory() as path:
        yield path


def unpacked_by_umoci(layout: Path, bundle: Path) -> dict[str, tuple[object, ...]]:
    argv = ["umoci", "unpack", "--image", f"{layout}:latest", bundle]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return describe(bundle / "rootfs")


def seen_in_a_container(layout: Path, place: Path) -> dict[str, tuple[object, ...]]:
    with ImageStore(place / "data") as store:
        image = store.pull(f"oci:{layout}:latest")
        with mounted(image.layers, place / "mount") as root:
            return describe(root)


def assert_same(place: Path, layers: Sequence[Sequence[Member]], compression: Compression = "gzip") -> None:
    layout, reference = place / "layout", place / "reference"
    write_image(layout, [layer(members) for members in layers], compression=compression)
    # Debian 12's umoci does not read zstd.
    write_image(reference, [layer(members) for members in layers])
    theirs = unpacked_by_umoci(reference, place / "bundle")
    ours = seen_in_a_container(layout, place)
    assert sorted(theirs) == sorted(ours)
    assert theirs == ours


def hard_link(name: str, target: str) -> Member:
    return member(name, kind=tarfile.LNKTYPE, link=target)


KINDS: list[Member] = [
    directory("etc"),
    member("etc/plain", "content"),
    member("etc/empty"),
    member("etc/owned", "x", owner=(1234, 5678), mode=0o640),
    member("etc/huge-owner", "x", owner=(3_000_000_000, 4_000_000_000)),
    member("etc/setuid", "x", mode=0o4755),
    member("etc/setgid", "x", mode=0o2755, owner=(1, 2)),
    member("etc/capable", "x", mode=0o755, owner=(5, 6), xattrs={"security.capability": CAPABILITY}),
    member("etc/attributes", "x", xattrs={"user.one": "1", "user.two": "2\n2"}),
    member("etc/unwritable", "x", mode=0),
    member("etc/exact-time", "x", mtime=1_600_000_000.123456),
    directory("var", 0o1777),
    directory("sealed", 0o500),
    member("sealed/inside", "x"),
    symlink("etc/link", "plain"),
    symlink("etc/absolute", "/etc/plain"),
    symlink("etc/outside", "../../../../etc/passwd"),
    symlink("etc/dangling", "nowhere"),
    hard_link("var/hard", "etc/plain"),
    hard_link("etc/hard-to-link", "etc/absolute"),
    member("etc/fifo", kind=tarfile.FIFOTYPE, mode=0o600),
    member("etc/character", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666),
    member("etc/block", kind=tarfile.BLKTYPE, device=(7, 0), mode=0o660),
    member(f"{LONG}/file", "deep"),
    member(f"etc/{'n' * 255}", "long"),
    symlink("etc/long-target", f"/{LONG}/{LONG}"),
    member("etc/caf\udce9-latin1", "not UTF-8"),
    member("etc/new\nline and 'quotes'", "odd"),
    member("./dotted/./name", "x"),
    member("etc/twice", "first"),
    member("etc/twice", "second"),
]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_every_kind_of_entry(place: Path, compression: Compression) -> None:
    assert_same(place, [KINDS], compression)


def test_whiteouts_and_opaque_directories(place: Path) -> None:
    base = [
        directory("."),
        directory("a", 0o750, (7, 7)),
        member("a/gone", "x"),
        member("a/kept", "x"),
        directory("a/tree"),
        member("a/tree/leaf", "x"),
        directory("opaque"),
        member("opaque/old", "x"),
        directory("replaced"),
        member("replaced/old", "x"),
        member("becomes-directory", "x"),
        directory("becomes-file"),
        member("becomes-file/old", "x"),
        member("both", "old"),
    ]
    upper = [
        member("a/.wh.gone"),
        member("a/.wh.tree"),
        directory("opaque", 0o700),
        member("opaque/.wh..wh..opq"),
        member("opaque/new", "y"),
        member(".wh.replaced"),
        directory("replaced"),
        member("replaced/new", "y"),
        member(".wh.becomes-directory"),
        directory("becomes-directory"),
        member("becomes-directory/new", "y"),
        member(".wh.becomes-file"),
        member("becomes-file", "y"),
        member("both", "new"),
        member(".wh.both"),
        member(".wh.never-there"),
    ]
    again = [member("a/gone", "back"), member("opaque/old", "back"), member("a/tree/other", "z")]
    assert_same(place, [base, upper, again])


def test_directories_that_no_entry_describes_keep_what_lower_layers_say(place: Path) -> None:
    base = [
        directory(".", 0o555),
        directory("tmp", 0o1777),
        directory("srv", 0o750, (10, 20)),
        directory("srv/deep", 0o711, (30, 40)),
        directory("gone", 0o700, (1, 1)),
    ]
    upper = [member("tmp/file", "x"), member("srv/deep/file", "x"), member("new/below/file", "x")]
    third = [member(".wh.gone"), member("srv/.wh.nothing")]
    fourth = [member("gone/file", "a new directory of that name"), member("srv/deep/er/file", "x")]
    assert_same(place, [base, upper, third, fourth])


THROUGH_LINKS: dict[str, list[Member]] = {
    "absolute": [directory("run2"), symlink("var/run2", "/run2"), member("var/run2/foo.pid", "x")],
    "with parents": [directory("run2"), symlink("var/run2", "../run2"), member("var/run2/foo.pid", "x")],
    "above the root": [directory("run2"), symlink("up", "../../../run2"), member("up/file", "x")],
    "by its absolute name": [directory("run2"), symlink("a", "/run2"), member("/a/file", "x")],
    "a link to a link": [
        directory("real/deep"),
        symlink("one", "/real"),
        symlink("two", "/one/deep"),
        member("two/file", "x"),
        directory("two/d", 0o700, (5, 6)),
        symlink("two/three", "../../one"),
        member("two/three/other", "y"),
    ],
    "hard links": [
        member("real/file", "x"),
        symlink("link", "/real"),
        hard_link("link/hard", "/link/file"),
        hard_link("top", "link/file"),
    ],
    "every kind": [
        directory("real", 0o750, (1, 2)),
        symlink("link", "/real"),
        member("link/fifo", kind=tarfile.FIFOTYPE),
        member("link/null", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666),
        member("link/capable", "x", xattrs={"security.capability": CAPABILITY}),
        member("link/twice", "1"),
        member("link/twice", "2"),
    ],
    "a directory takes its place": [
        directory("real"),
        symlink("link", "/real"),
        directory("link", 0o700, (3, 4)),
        member("link/file", "x"),
    ],
    "a file takes its place": [directory("real"), symlink("link", "/real"), member("link", "x")],
    "a link takes its place": [
        directory("one"),
        directory("two"),
        symlink("link", "/one"),
        symlink("link", "../two"),
        member("link/file", "x"),
    ],
}


@pytest.mark.parametrize("case", THROUGH_LINKS)
def test_names_lead_through_links_of_the_same_layer(place: Path, case: str) -> None:
    """As in a container, whose root is the layer's: GNU tar alone holds such links back."""
    assert_same(place, [THROUGH_LINKS[case]])


def test_a_layer_twice_and_an_opaque_root(place: Path) -> None:
    one, two = [member("file", "1"), directory("d")], [member("file", "2"), member("d/x", "2")]
    assert_same(place, [one, two, one])


def test_an_opaque_root_hides_everything(place: Path) -> None:
    assert_same(place, [[member("old", "x"), directory("d")], [member(".wh..wh..opq"), member("d/new", "y")]])


def test_many_layers(place: Path) -> None:
    layers = [[member(f"dir/{number % 7}", f"{number}"), member(f"own-{number}")] for number in range(120)]
    assert_same(place, layers)


def test_sparse_files(place: Path) -> None:
    source = place / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"middle")
        file.truncate(8 << 20)
    (source / "after").write_text("the next entry is found")
    for name in ("sparse", "after", "."):
        os.utime(source / name, (1_600_000_000, 1_600_000_000))
    theirs = None
    for form in ("pax", "gnu"):
        layout = place / form / "layout"
        archive = subprocess.run(
            ["tar", "-C", source, "-S", f"--format={form}", "-cf", "-", "sparse", "after"],
            check=True,
            capture_output=True,
        ).stdout
        assert len(archive) < 1 << 20
        write_image(layout, [archive])
        # umoci does not know GNU's own form.
        theirs = theirs or unpacked_by_umoci(layout, place / form / "bundle")
        (place / form / "ours").mkdir()
        assert theirs == seen_in_a_container(layout, place / form / "ours")


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "pax"])
def test_every_format_that_tar_writes(place: Path, form: str) -> None:
    source = place / "source"
    (source / "directory").mkdir(parents=True)
    (source / "directory/file").write_text("x" * 1000)
    (source / "directory/link").symlink_to("file")
    (source / "hard").hardlink_to(source / "directory/file")
    if form not in ("v7", "ustar"):
        deep = source / LONG
        deep.mkdir(parents=True)
        (deep / "long").write_text("y")
    archive = subprocess.run(
        ["tar", "-C", source, f"--format={form}", "--sort=name", "-cf", "-", "."],
        check=True,
        capture_output=True,
    ).stdout
    layout = place / "layout"
    write_image(layout, [archive])
    assert unpacked_by_umoci(layout, place / "bundle") == seen_in_a_container(layout, place)


def random_layer(random_: random.Random, lower: dict[str, str]) -> list[Member]:
    """Make a layer that changes names of a small tree, as a builder would: below directories only.

    `lower` says what is at each name before, and afterwards what is there then.
    """
    kinds: dict[str, str] = {}
    members: list[Member] = []

    def add(name: str, kind: str, *entries: Member) -> None:
        for gone in [other for other in lower if other.startswith(f"{name}/") and kind != "directory"]:
            del lower[gone]
        kinds[name] = lower[name] = kind
        members.extend(entries)

    for _ in range(random_.randrange(1, 14)):
        depth = random_.randrange(1, 4)
        name = "/".join(random_.choice("abc") for _ in range(depth))
        parents = [name.rsplit("/", cut)[0] for cut in range(depth - 1, 0, -1)]
        if name in kinds or any(kinds.get(parent, "directory") != "directory" for parent in parents):
            continue
        below = any(other.startswith(f"{name}/") for other in kinds)
        owner = (random_.randrange(3), random_.randrange(3))
        choice = random_.choice(["file", "directory", "directory", "link", "hard", "whiteout", "opaque"])
        if choice == "whiteout":
            if name in lower and not below:
                base, _, last = name.rpartition("/")
                members.append(member(f"{base}/.wh.{last}" if base else f".wh.{last}"))
                for gone in [other for other in lower if other == name or other.startswith(f"{name}/")]:
                    del lower[gone]
                kinds[name] = "whiteout"
            continue
        for parent in parents:
            new = lower.get(parent) != "directory"
            if parent not in kinds and new and (parent in lower or random_.random() < 0.9):
                add(parent, "directory", directory(parent, 0o750, owner))
            elif parent not in kinds:
                kinds[parent] = lower[parent] = "directory"
        if any(lower.get(parent) != "directory" for parent in parents):
            continue
        files = [other for other, kind in kinds.items() if kind == "file"]
        if choice == "opaque" and not below and lower.get(name, "directory") == "directory":
            add(name, "directory", directory(name, 0o755, owner), member(f"{name}/.wh..wh..opq"))
            for gone in [other for other in lower if other.startswith(f"{name}/")]:
                del lower[gone]
        elif choice == "directory" or below:
            add(name, "directory", directory(name, random_.choice([0o755, 0o700, 0o1777]), owner))
        elif choice == "hard" and files:
            add(name, "file", hard_link(name, random_.choice(files)))
        elif choice == "link":
            add(name, "link", symlink(name, "anywhere"))
        else:
            add(name, "file", member(name, f"{random_.random()}", owner=owner))
    return members


@pytest.mark.parametrize("seed", range(25))
def test_random_images(place: Path, seed: int) -> None:
    random_ = random.Random(seed)
    lower: dict[str, str] = {}
    base = [directory(".")] if random_.random() < 0.5 else []
    layers = [[*base, *random_layer(random_, lower)], *(random_layer(random_, lower) for _ in range(4))]
    assert_same(place, layers)
