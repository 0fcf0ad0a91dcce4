"""Layers that were made to do harm: each is refused or harmless, as a look at the host afterwards proves."""

from __future__ import annotations

import gzip
import io
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
import zstandard

from tank_agent.errors import Retry, Stalled, TankError
from tank_agent.image.config import Image
from tank_agent.image.store.store import ImageStore
from tank_agent.image.unpack import parent as unpack_module
from tank_agent.image.unpack.parent import UnpackServer
from tank_agent.settings.image import ImageSettings, UnpackLimits
from tests.fuzz import image_unpack
from tests.support.images import Member, directory, layer, member, symlink, write_blob, write_image
from tests.support.trees import big_directory, describe

LIMITS = UnpackLimits(
    size=64 << 20, file_size=16 << 20, entries=5000, depth=64, headers=1 << 18, cpu_time=20, stall=20.0
)
ROOT = Path(__file__).parents[2]
MARK = f"tank-evil-{uuid.uuid4().hex}"
_Result = TypeVar("_Result")


@pytest.fixture
def place() -> Iterator[Path]:
    with big_directory() as path:
        (path / "outside").mkdir()
        (path / "outside/victim").write_text("precious")
        (path / "outside/tree").mkdir()
        yield path


def pull(place: Path, archives: Sequence[bytes], compression: str = "none") -> Image:
    layout = place / "layout"
    write_image(layout, archives, compression=compression)  # type: ignore[arg-type]
    with ImageStore(place / "store", ImageSettings(limits=LIMITS)) as store:
        return store.pull(f"oci:{layout}")


def link(name: str, target: str) -> Member:
    return member(name, kind=tarfile.LNKTYPE, link=target)


def chain(outside: str) -> list[Member]:
    """CVE-2025-4517: a chain of links so long that its resolution is cut off, and then leads out."""
    name = "d" * 55
    members: list[Member] = []
    path = ""
    for step in "abcdefghijklmnop":
        members += [directory(f"{path}{name}"), symlink(f"{path}{step}", name)]
        path += f"{name}/"
    short = "/".join("abcdefghijklmnop")
    return [
        *members,
        symlink(f"{short}/{'l' * 254}", "../" * 16),
        symlink("escape", f"{short}/{'l' * 254}/../../../../../..{outside}"),
        link("hard", "escape/victim"),
        member("hard", "overwritten"),
        member("escape/victim", "overwritten"),
    ]


def attacks(outside: str) -> dict[str, list[Member]]:
    depth = "../" * 12
    return {
        "parent": [member(f"../{MARK}", "x")],
        "parent, deeper": [member(f"a/b/../../../../{MARK}", "x")],
        "parents to the host": [member(f"{depth}{outside}/victim", "overwritten")],
        "absolute": [member(f"{outside}/victim", "overwritten"), member(f"/{MARK}", "x")],
        "through a link": [symlink("d", outside), member("d/victim", "overwritten"), member("d/new", "x")],
        "through a relative link": [symlink("d", f"{depth}{outside}"), member("d/victim", "overwritten")],
        "through a link's link": [
            symlink("a", outside),
            symlink("b", "a"),
            member("b/victim", "overwritten"),
        ],
        "a directory over a link": [
            symlink("d", outside),
            directory("d", 0o777),
            member("d/victim", "overwritten"),
        ],
        "a link over a file": [symlink("f", f"{outside}/victim"), member("f", "overwritten")],
        "hard link out": [link("h", f"{outside}/victim"), member("h", "overwritten")],
        "hard link by parents": [link("h", f"{depth}{outside}/victim"), member("h", "overwritten")],
        "hard link to a link": [
            symlink("s", f"{outside}/victim"),
            link("h", "s"),
            member("h", "overwritten"),
        ],
        "hard link through a link": [
            symlink("s", outside),
            link("h", "s/victim"),
            member("h", "overwritten"),
        ],
        "hard link to a program": [link("h", "/usr/bin/tar"), link("h2", "../usr/bin/tar")],
        "through /proc": [symlink("p", "/proc/1/root"), member(f"p{outside}/victim", "overwritten")],
        "through its own root": [symlink("p", "/proc/self/cwd/.."), member(f"p/{MARK}", "x")],
        "long chain": chain(outside),
        "whiteout of a parent": [member("a/.wh...", ""), member(".wh..", "")],
        "whiteout outside": [member("../.wh.victim"), member(f"{depth}{outside}/.wh.victim")],
        "whiteout through a link": [symlink("d", outside), member("d/.wh.victim"), member("d/.wh.tree")],
        "opaque through a link": [symlink("d", f"{outside}/tree"), member("d/.wh..wh..opq")],
        "opaque through a relative link": [symlink("d", f"{depth}{outside}/tree"), member("d/.wh..wh..opq")],
        "hard link as a whiteout": [link(".wh.victim", f"{outside}/victim"), symlink(".wh.x", outside)],
        "hard link to a whiteout": [member(".wh.x", "content"), link("h", ".wh.x")],
        "device": [
            member("disk", kind=tarfile.BLKTYPE, device=(os.major(Path("/").stat().st_dev), 0), mode=0o666),
            member("disk", "overwritten"),
            member("mem", kind=tarfile.CHRTYPE, device=(1, 1), mode=0o666),
        ],
        "the root itself": [symlink(".", outside), member("victim", "overwritten")],
        "the root as a file": [member("./", "x"), member("victim", "overwritten")],
        "fifo for passwd": [directory("etc"), member("etc/passwd", kind=tarfile.FIFOTYPE)],
        "setuid": [member("su", "x", mode=0o6777)],
        "option for a name": [member("--checkpoint-action=exec=touch", "x"), member("-C", "x")],
    }


@pytest.mark.parametrize("attack", attacks("/x"))
def test_no_layer_reaches_outside(place: Path, attack: str) -> None:
    before = describe(place / "outside")
    try:
        image = pull(place, [layer(attacks(str(place / "outside"))[attack])])
    except TankError as error:
        assert isinstance(error, Stalled)
        assert list((place / "store/images/layers").iterdir()) == []
    else:
        assert all(found.is_relative_to(place / "store") for found in image.layers)
    assert describe(place / "outside") == before
    assert not os.listxattr(place / "outside/tree")
    for above in (place, place / "store", place / "store/images", Path("/"), Path("/tmp"), place.parent):
        assert not (above / MARK).exists()
    # Nobody but root gets at what a layer brings, whatever its modes say.
    assert stat.S_IMODE((place / "store/images").stat().st_mode) == 0o700
    assert list((place / "store/images/staging").iterdir()) == []


def pax(records: dict[str, str], members: Sequence[Member], kind: bytes = b"x") -> bytes:
    """Put an extended header with any records before an archive."""
    body = b""
    for key, value in records.items():
        text = f" {key}={value}\n".encode(errors="surrogateescape")
        length = len(text) + 1
        while len(str(length)) + len(text) != length:
            length = len(str(length)) + len(text)
        body += str(length).encode() + text
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512) + layer(members)


def raw_header(size: bytes = b"00000000000\0", kind: bytes = b"0", name: bytes = b"file") -> bytes:
    """Make a header with any size field, and the right checksum."""
    block = bytearray(tarfile.TarInfo(name.decode()).tobuf(tarfile.USTAR_FORMAT)[:512])
    block[124:136] = size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def long_name(name: bytes) -> bytes:
    """Make a GNU header with a long name."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = b"L", len(name) + 1
    return info.tobuf(tarfile.GNU_FORMAT)[:512] + name + bytes(512 - len(name) % 512)


REFUSED: dict[str, Callable[[], bytes]] = {
    "too many entries": lambda: layer(member(f"f{number}") for number in range(5001)),
    "too much content": lambda: layer([member(f"f{number}", bytes(9 << 20)) for number in range(8)]),
    "too large a file": lambda: layer([member("f", bytes(17 << 20))]),
    "too deep": lambda: layer([member("/".join("d" * 65), "x")]),
    "too long a path": lambda: layer([member("/".join(["d" * 250] * 17), "x")]),
    "too large headers": lambda: layer([member("f", xattrs={f"user.{n}": "x" * 4000 for n in range(70)})]),
    "garbage": lambda: os.urandom(4096),
    "text": lambda: b"#!/bin/sh\nrm -rf /\n",
    "cut in a header": lambda: layer([member("f", "x")])[:300],
    "cut in content": lambda: layer([member("f", bytes(5000))])[:3000],
    "negative size": lambda: raw_header(b"\xff" * 12) + bytes(1024),
    "size of 2^90": lambda: raw_header(b"\x80" + b"\x7f" * 11) + bytes(1024),
    "size that is no number": lambda: raw_header(b"0x1f       \0") + bytes(1024),
    "unknown type": lambda: raw_header(kind=b"M") + bytes(1024),
    "directory with content": lambda: raw_header(b"00000001000\0", b"5") + bytes(1536),
    "path in an extended header": lambda: pax({"path": f"../../{MARK}"}, [member("f", "x")]),
    "path in a long name": lambda: long_name(f"../../{MARK}".encode()) + layer([member("f", "x")]),
    "two names": lambda: long_name(b"one") + pax({"path": "two"}, [member("f", "x")]),
    "negative size in a header": lambda: pax({"size": "-512"}, [member("f", "x")]),
    "damaged extended header": lambda: pax({"a": "b"}, [])[:512] + b"999 a=b\n" + bytes(504) + layer([]),
    "header for nothing": lambda: pax({"path": "x"}, []),
    "data after the end block": lambda: bytes(512) + layer([member("f", "x")]),
    # As podman does: what was meant by it, no two programs agree on.
    "a link in place of a full directory": lambda: layer(
        [directory("d"), member("d/f", "x"), symlink("d", "e")]
    ),
    "a file in place of a full directory": lambda: layer(
        [directory("d"), member("d/f", "x"), member("d", "x")]
    ),
    "whiteout of dot-dot": lambda: layer([member("a/.wh..."), member("f", "x")]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_archives_that_break_a_rule_are_refused(place: Path, kind: str) -> None:
    with pytest.raises(Stalled, match="refused"):
        pull(place, [REFUSED[kind]()])
    for name in ("layers", "staging", "partial", "trash"):
        assert list((place / "store/images" / name).iterdir()) == []


def test_a_global_header_changes_nothing(place: Path) -> None:
    image = pull(place, [pax({"path": f"../{MARK}", "uid": "77", "comment": "x"}, [member("f", "x")], b"g")])
    assert [path.name for path in image.layers[0].iterdir()] == ["f"]
    assert (image.layers[0] / "f").stat().st_uid == 0


def test_attributes_that_would_speak_to_overlayfs_are_left_out(place: Path) -> None:
    xattrs = {
        "trusted.overlay.opaque": "y",
        "trusted.overlay.redirect": "/etc",
        "trusted.overlay.metacopy": "",
        "trusted.mine": "x",
        "user.fine": "1",
    }
    image = pull(place, [layer([member("f", "x", xattrs=xattrs)])])
    assert os.listxattr(image.layers[0] / "f") == ["user.fine"]


def bomb(compress: Callable[[Iterator[bytes]], bytes]) -> bytes:
    head = tarfile.TarInfo("bomb")
    head.size = 8 << 30
    return compress(iter([head.tobuf(tarfile.GNU_FORMAT), *(bytes(1 << 20) for _ in range(256))]))


def gzip_bomb(pieces: Iterator[bytes]) -> bytes:
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=9) as file:
        for piece in pieces:
            file.write(piece)
    return stream.getvalue()


def zstd_bomb(pieces: Iterator[bytes]) -> bytes:
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    return b"".join([*(compressor.compress(piece) for piece in pieces), compressor.flush()])


@pytest.mark.parametrize("compress", [gzip_bomb, zstd_bomb])
def test_bombs_are_stopped_at_the_limit(place: Path, compress: Callable[[Iterator[bytes]], bytes]) -> None:
    data = bomb(compress)
    assert len(data) < 1 << 20
    # Of the processor, with that of the children which unpack: how busy it is does not count.
    start = sum(os.times()[:4])
    with pytest.raises(Stalled, match=r"more than 67108864 bytes|larger than allowed"):
        pull(place, [data])
    assert sum(os.times()[:4]) - start < 20


def test_a_sparse_bomb_is_stopped(place: Path) -> None:
    block = bytearray(raw_header(b"00000001000\0", b"S", b"sparse"))
    block[257:265] = b"ustar  \0"
    block[386:410] = b"77777777777\0" + b"00000001000\0"
    block[483:495] = b"\x80" + (1 << 50).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(Stalled):
        pull(place, [bytes(block) + bytes(512) + bytes(1024)])


def test_a_zstd_frame_that_wants_all_memory_is_refused(place: Path) -> None:
    # Frame header: magic, descriptor without content size, window of 2^(10+31) bytes.
    frame = struct.pack("<I", 0xFD2FB528) + b"\x00" + bytes([31 << 3]) + b"\x01\x00\x00"
    with pytest.raises(Stalled, match="refused"):
        pull(place, [frame])


def test_a_flood_of_complaints_does_not_block(place: Path) -> None:
    flood = [link(f"link-{number}-{'x' * 180}", f"missing-{'y' * 180}") for number in range(4000)]
    with pytest.raises(Stalled, match="refused"):
        pull(place, [layer(flood)])


def test_many_gzip_members(place: Path) -> None:
    data = layer([member(f"f{number}", os.urandom(700)) for number in range(2000)])
    members = b"".join(gzip.compress(data[at : at + 1000], 1) for at in range(0, len(data), 1000))
    layout = place / "layout"
    made = write_image(layout, [data], compression="gzip")
    manifest = layout / "blobs/sha256" / made["digest"].removeprefix("sha256:")
    import json

    from tests.support.images import tag_descriptor

    document = json.loads(manifest.read_text())
    document["layers"] = [{**document["layers"][0], **write_blob(layout, members)}]
    kind = document["mediaType"]
    tag_descriptor(layout, {"mediaType": kind, **write_blob(layout, json.dumps(document).encode())}, "latest")
    with ImageStore(place / "store") as store:
        assert len(list(store.pull(f"oci:{layout}").layers[0].iterdir())) == 2000


def test_what_the_child_can_reach(place: Path) -> None:
    """Look at the child and at tar while they wait for more of a layer."""
    server = UnpackServer(LIMITS)
    home = place / "layer"
    home.mkdir()
    try:
        with server.start(home) as unpack:
            unpack.write(
                layer([member("first", bytes(1 << 20)), member("second", bytes(4 << 20))])[: 3 << 20]
            )
            child = _pid_of(unpack._pidfd)
            tar = _wait_for(lambda: _children(child))[0]
            _wait_for(lambda: [line.split()[4] for line in _mounts_of(tar)] == ["/"])
            for pid in (child, tar):
                status = _wait_for(lambda pid=pid: _status_when_confined(pid))
                kept = sum(1 << number for number in (0, 1, 3, 4, 27, 31))
                for sets in ("CapEff", "CapPrm", "CapBnd"):
                    assert int(status[sets], 16) == kept, sets
                assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
                for space in ("mnt", "net", "ipc"):
                    assert _link(f"/proc/{pid}/ns/{space}") != _link(f"/proc/self/ns/{space}")
                root = Path(f"/proc/{pid}/root")
                assert root.stat().st_ino == home.stat().st_ino
                assert {entry.name for entry in root.iterdir()} <= {"first", "second"}
                (mount,) = (line.split() for line in _mounts_of(pid))
                assert {"nosuid", "nodev", "noexec"} <= set(mount[5].split(","))
                interfaces = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
                assert [line.split(":")[0].strip() for line in interfaces] in ([], ["lo"])
                descriptors = {_link(path) for path in Path(f"/proc/{pid}/fd").iterdir()} - {"/dev/null"}
                assert all(target.startswith(("pipe:", "/first", "/second")) for target in descriptors), (
                    descriptors
                )
        _wait_for(lambda: not Path(f"/proc/{tar}").exists() or _is_dead(tar))
    finally:
        server.close()


def test_random_layers_are_unpacked_or_refused() -> None:
    image_unpack.fuzz(seed=41, seconds=None, rounds=70)


# Pulls an image in a process of its own; prints by how many MiB its memory grew at most, and the error.
MEASURE = """
import sys
from pathlib import Path
from tank_agent.errors import TankError
from tank_agent.image.store.store import ImageStore

def highest():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))

before, error = highest(), ""
with ImageStore(Path(sys.argv[1])) as store:
    try:
        store.pull(sys.argv[2])
    except TankError as refused:
        error = refused.message
print(highest() - before, error)
"""


# Runs the rest of its arguments in a chroot below a new file system: its / is no mount point there.
CHROOT = f"""
set -e
mount -t tmpfs none "$1"
mkdir "$1/root"
cd /
for tree in bin lib lib64 sbin usr dev proc {ROOT.parts[1]}; do
  if [ -L $tree ]; then cp -P $tree "$1/root/"
  elif [ -e $tree ]; then mkdir "$1/root/$tree"; mount --rbind $tree "$1/root/$tree"; fi
done
root=$1/root
shift
exec chroot "$root" "$@"
"""


def test_a_chroot_without_a_mount_point_says_what_is_missing(place: Path) -> None:
    write_image(place / "layout", [layer([member("file", "x")])])
    (place / "chroot").mkdir()
    argv = ["unshare", "--mount", "sh", "-c", CHROOT, "sh", place / "chroot"]
    measure = [sys.executable, "-c", MEASURE, place / "store", f"oci:{place}/layout"]
    done = subprocess.run([*argv, *measure], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "/ is not a mount point" in done.stdout, done.stdout + done.stderr


def memory_of_a_pull(place: Path, archives: Sequence[bytes]) -> tuple[int, str]:
    write_image(place / "layout", archives)
    argv = [sys.executable, "-c", MEASURE, place / "store", f"oci:{place}/layout"]
    shown = subprocess.run(argv, capture_output=True, check=True, text=True, timeout=100).stdout
    grown, _, error = shown.partition(" ")
    return int(grown), error.strip()


def deep_names(count: int, depth: int = 250) -> list[str]:
    chance = random.Random(0)
    return ["/".join(f"{chance.getrandbits(52):013x}" for _ in range(depth)) for _ in range(count)]


def test_directories_that_no_entry_describes_cost_no_memory(place: Path) -> None:
    """A layer of 1 MB made the agent grow by 3 MB an entry, and it did not come back."""
    grown, error = memory_of_a_pull(place, [layer([member(f"{name}/f") for name in deep_names(20)])])
    assert not error
    assert grown < 16


def test_directories_that_only_a_lower_layer_describes_are_bounded(place: Path) -> None:
    names = deep_names(10)
    parents = (name.split("/")[:depth] for name in names for depth in range(1, 251))
    lower = layer([directory("/".join(parent), 0o700) for parent in parents])
    grown, error = memory_of_a_pull(place, [lower, layer([member(f"{name}/f") for name in names])])
    assert "too many directories" in error
    assert grown < 24


def test_a_tar_that_hangs_does_not_stay(place: Path) -> None:
    server = UnpackServer(LIMITS)
    home = place / "layer"
    home.mkdir()
    try:
        with server.start(home) as unpack:
            unpack.write(layer([member("file", bytes(4 << 20))])[: 3 << 20])
            tar = _wait_for(lambda: _children(_pid_of(unpack._pidfd)))[0]
            os.kill(tar, signal.SIGSTOP)
        _wait_for(lambda: _is_dead(tar))
    finally:
        server.close()


# Begins to unpack a layer, says which child does it, and waits to be killed.
BEGIN = """
import sys, time
from pathlib import Path
from tank_agent.settings.image import UnpackLimits
from tank_agent.image.unpack.parent import UnpackServer

server = UnpackServer(UnpackLimits())
unpack = server.start(Path(sys.argv[1]))
unpack.write(bytes(512))
lines = Path(f"/proc/self/fdinfo/{unpack._pidfd}").read_text().splitlines()
print(next(line for line in lines if line.startswith("Pid:")).split()[1], server._process.pid, flush=True)
time.sleep(100)
"""


def test_no_helper_outlives_a_killed_agent(place: Path) -> None:
    (place / "layer").mkdir()
    argv = [sys.executable, "-c", BEGIN, place / "layer"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as agent:
        assert agent.stdout is not None
        child, server = map(int, agent.stdout.readline().split())
        os.kill(child, signal.SIGSTOP)
        agent.kill()
    try:
        _wait_for(lambda: _is_dead(child) and _is_dead(server))
    finally:
        if not _is_dead(child):
            os.kill(child, signal.SIGKILL)


def test_a_pipe_that_may_not_grow_is_used_as_it_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # More than any process without CAP_SYS_RESOURCE may have; the kernel's answer is the same as when the
    # pipes of all containers have used up what root's processes may have together.
    boot = unpack_module._BOOT.replace("; serve()", "; serve.__globals__['PIPE'] = 1 << 28; serve()")
    assert boot != unpack_module._BOOT
    monkeypatch.setattr(unpack_module, "_BOOT", boot)
    content = bytes(range(256)) * 8000
    image = pull(place, [layer([member("file", content)])])
    assert (image.layers[0] / "file").read_bytes() == content


def test_an_answer_that_comes_late_is_not_taken_for_the_next_layers(place: Path) -> None:
    server = UnpackServer(LIMITS)
    homes = [place / name for name in ("first", "late", "next")]
    for home in homes:
        home.mkdir()
    data = layer([member("file", bytes(4 << 20))])
    try:
        with server.start(homes[0]) as first:
            assert server._process is not None
            assert server._socket is not None
            stopped = server._process
            stopped.send_signal(signal.SIGSTOP)
            server._socket.settimeout(0.2)
            with pytest.raises(Retry, match="timed out"):
                server.start(homes[1])
            stopped.send_signal(signal.SIGCONT)
            with server.start(homes[2]) as unpack:
                unpack.write(data[: 3 << 20])
                child = _pid_of(unpack._pidfd)
                tar = _wait_for(lambda: _children(child))[0]
            _wait_for(lambda: _is_dead(child) and _is_dead(tar))
            # A layer that was under way is not hurt.
            assert first.write(data)
            assert first.finish(io.BytesIO()).entries == 1
    finally:
        server.close()


def _mounts_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/mountinfo").read_text(errors="replace").splitlines()


def _status_when_confined(pid: int) -> dict[str, str] | None:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return status if status["NoNewPrivs"] == "1" else None


def _link(path: Path | str) -> str:
    return os.fspath(Path(path).readlink())


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _pid_of(pidfd: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    raise AssertionError


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait_for(look: Callable[[], _Result], timeout: float = 60.0) -> _Result:
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)
    return found
