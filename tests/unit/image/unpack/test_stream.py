"""The stream of a layer: decompression and the tar filter (`tests/fuzz/image_layers.py` fuzzes them)."""

from __future__ import annotations

import gzip
import io
import random
import tarfile

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tank_agent.image.unpack import stream
from tank_agent.image.unpack.stream import (
    HEAD,
    LONGEST_LINE,
    BadLayerError,
    TarFilter,
    packed,
    plain,
    unpacked,
)
from tests.support.images import Member, directory, layer, member, symlink

CONTENT = random.Random(0).randbytes(300_000) + bytes(3_000_000)


def plain_of(data: bytes, piece: int = 1 << 16) -> bytes:
    stream = io.BytesIO(data)
    head = stream.read(HEAD)
    return b"".join(plain(head, lambda size: stream.read(min(size, piece))))


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


SKIPPABLE = b"\x53\x2a\x4d\x18\x05\x00\x00\x00hello"


@pytest.fixture(params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "zlib":
        import zlib

        monkeypatch.setattr(stream, "_gzip_library", lambda: zlib)
    name: str = request.param
    return name


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("piece", [7, 1 << 16, 1 << 20])
def test_gzip(piece: int) -> None:
    data = CONTENT if piece > 7 else CONTENT[:5000]
    assert plain_of(gzip.compress(data, 1), piece) == data
    assert plain_of(gzip.compress(data, 1) + gzip.compress(b"tail") + bytes(900), piece) == data + b"tail"
    assert plain_of(gzip.compress(b""), piece) == b""


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("damage", ["cut", "cut early", "flipped", "junk"])
def test_damaged_gzip_is_refused(damage: str) -> None:
    data = bytearray(gzip.compress(CONTENT, 1))
    if damage == "flipped":
        data[-6] ^= 1
    broken = {"cut": data[:-3], "cut early": data[:5], "junk": data + b"junk"}.get(damage, data)
    with pytest.raises(BadLayerError, match="gzip"):
        plain_of(bytes(broken))


def test_zstd() -> None:
    assert plain_of(zstd(CONTENT)) == CONTENT
    assert plain_of(SKIPPABLE + zstd(CONTENT) + SKIPPABLE + zstd(b"tail"), 5000) == CONTENT + b"tail"
    with pytest.raises(BadLayerError, match="zstd"):
        plain_of(zstd(CONTENT) + b"junk")


def test_what_is_not_compressed_passes() -> None:
    assert plain_of(CONTENT) == CONTENT
    assert plain_of(b"") == b""
    assert plain_of(b"ab") == b"ab"


def test_a_bomb_comes_in_small_pieces() -> None:
    stream = io.BytesIO(gzip.compress(bytes(200 << 20), 9))
    sizes = {len(piece) for piece in plain(stream.read(HEAD), stream.read)}
    assert max(sizes) <= 4 << 20


def new_filter(**limits: int) -> TarFilter:
    return TarFilter(**{"size": 1 << 30, "entries": 1000, "depth": 50, "headers": 1 << 20, **limits})


def filtered(data: bytes, piece: int = 1 << 20, **limits: int) -> tuple[TarFilter, bytes]:
    archive = new_filter(**limits)
    passed = b"".join(
        bytes(view) for at in range(0, len(data), piece) for view in archive.feed(data[at : at + piece])
    )
    archive.finish()
    return archive, passed


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as archive:
        return archive.getnames()


MEMBERS: list[Member] = [
    directory("a"),
    member("a/file", b"x" * 1000),
    member("a/.wh.gone"),
    member(f"a/{'long' * 50}", "y" * 513),
    member("b/c/d", "implicit"),
    member("b/.wh..wh..opq"),
    member(f"b/.wh.{'n' * 200}", "content of a whiteout" * 50),
    member("b/.wh..wh.aufs", "not ours"),
    symlink("link", "a"),
    directory("b/c"),
    member(".wh.top"),
]


@pytest.mark.parametrize("piece", [1, 100, 511, 512, 513, 1 << 20])
def test_whiteouts_are_kept_back_however_the_stream_is_cut(piece: int) -> None:
    archive, passed = filtered(layer(MEMBERS), piece)
    assert names(passed) == ["a", "a/file", f"a/{'long' * 50}", "b/c/d", "link", "b/c"]
    assert archive.whiteouts == [b"a/gone", b"b/" + b"n" * 200, b"top"]
    assert archive.opaque == [b"b"]
    assert archive.implicit == [b"", b"b"]
    assert archive.entries == len(MEMBERS)


def test_what_passes_is_not_changed() -> None:
    data = layer([directory("d"), member("d/f", b"z" * 5000, xattrs={"user.x": "1"})])
    _, passed = filtered(data, 700)
    assert data.startswith(passed)
    assert not data[len(passed) :].strip(b"\0")


@pytest.mark.parametrize("data", [b"", bytes(512), bytes(1024), bytes(10240)])
def test_an_empty_layer_is_fine(data: bytes) -> None:
    archive, passed = filtered(data)
    assert (archive.entries, passed) == (0, b"")


def test_after_the_end_nothing_matters() -> None:
    _, passed = filtered(layer([member("f", "x")]) + b"whatever" * 1000, 300)
    assert names(passed) == ["f"]


@pytest.mark.parametrize(
    ("members", "limits"),
    [
        ([member(str(number)) for number in range(20)], {"entries": 19}),
        ([member("f", bytes(5000))], {"size": 4000}),
        ([member("/".join("d" * 11))], {"depth": 10}),
        ([member("f", xattrs={"user.x": "y" * 5000})], {"headers": 2000}),
        ([member("a/../../b")], {}),
        ([member("..")], {}),
        ([member("a/..")], {}),
        ([member(".wh...")], {}),
    ],
)
def test_limits(members: list[Member], limits: dict[str, int]) -> None:
    with pytest.raises(BadLayerError):
        filtered(layer(members), **limits)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_filter_sees_what_tarfile_sees(data: st.DataObject) -> None:
    parts = st.text(
        st.characters(min_codepoint=33, max_codepoint=500, exclude_characters="/"), min_size=1, max_size=120
    )
    safe = parts.filter(lambda text: text not in (".", "..") and not text.startswith(".wh."))
    paths = data.draw(st.lists(st.lists(safe, min_size=1, max_size=4).map("/".join), max_size=8))
    contents = st.binary(max_size=2000)
    members = [member(path, data.draw(contents)) for path in paths]
    raw = layer(members)
    archive, passed = filtered(raw, data.draw(st.integers(1, 3000)))
    assert names(passed) == paths
    assert archive.entries == len(paths)


NAMES = st.binary(min_size=1, max_size=5).filter(lambda name: b"/" not in name)
PATHS = st.lists(st.lists(NAMES, max_size=5).map(b"/".join), unique=True).map(sorted)


@given(PATHS)
def test_what_is_packed_is_unpacked(paths: list[bytes]) -> None:
    assert list(unpacked(packed(paths))) == paths


def test_deep_paths_take_as_many_bytes_as_their_names() -> None:
    paths = [b"/".join([b"thirteenchars"] * depth) for depth in range(1, 250)]
    lines = list(packed(paths))
    assert sum(map(len, lines)) < 40 * len(paths)
    assert max(map(len, packed([b"\xff" * 4095]))) < LONGEST_LINE


@pytest.mark.parametrize(
    "lines",
    [[b"x"], [b"0 6"], [b"0 zz"], [b"a 61"], [b"0 61", b"0 61"], [b"0 62", b"0 61"], [b""]],
)
def test_a_damaged_list_is_noticed(lines: list[bytes]) -> None:
    with pytest.raises(ValueError):
        list(unpacked(lines))
