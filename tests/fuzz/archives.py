"""Random tar archives: made of entries that mean harm, then damaged, often with checksums that are right."""

from __future__ import annotations

import io
import random
import tarfile

from tests.support.images import Member, directory, layer, member, symlink

_BLOCK = 512
_PARTS = ["a", "b", "c", "dir", ".", "", ".wh.a", ".wh.b", ".wh..wh..opq", "usr", "\udcff", "n" * 120]
# Each of these alone makes a layer that is refused.
_REFUSED = ["..", ".wh.", ".wh..", "d/" * 60]
_TARGETS = ["a", "/", "..", "../../..", "/a/b", "/etc/passwd", "/proc/self/root", ".", "c/../..", "x" * 300]
_ATTRIBUTES = [
    "user.x",
    "security.capability",
    "trusted.overlay.opaque",
    "security.selinux",
    "user." + "y" * 250,
]
_KINDS = [
    b"0",
    b"0",
    b"0",
    b"5",
    b"5",
    b"5",
    b"2",
    b"2",
    b"1",
    b"3",
    b"4",
    b"6",
    b"7",
    b"S",
    b"g",
    b"x",
    b"D",
]
_NUMBERS = [0, 1, 511, 512, 0o7777777, (1 << 33) - 1]


def random_archive(rng: random.Random) -> bytes:
    """Return an archive that is whole, in one of the forms that writers use."""
    parts = [*_PARTS, *_REFUSED] if rng.random() < 0.2 else _PARTS
    members = [_random_member(rng, parts) for _ in range(rng.choice([0, 1, 3, 10, 40]))]
    form = rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    if form == tarfile.PAX_FORMAT:
        return layer(members)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form, errors="surrogateescape") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _random_member(rng: random.Random, parts: list[str]) -> Member:
    depth = rng.choice([1, 1, 2, 2, 3, 9])
    name = rng.choice(["", "", "", "/", "./"]) + "/".join(rng.choice(parts) for _ in range(depth))
    match rng.randrange(4):
        case 0:
            return directory(name or ".", rng.choice([0o755, 0o700, 0, 0o7777]))
        case 1:
            return symlink(name, rng.choice(_TARGETS))
    kind = rng.choice([tarfile.REGTYPE, tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
    attributes = {rng.choice(_ATTRIBUTES): "v"} if rng.random() < 0.2 else {}
    content = rng.randbytes(rng.choice([0, 1, 511, 512, 513, 5000])) if kind == tarfile.REGTYPE else b""
    owner = (rng.choice([0, 5, 1 << 31]), 0)
    return member(name, content, kind=kind, link=rng.choice(_TARGETS), xattrs=attributes, owner=owner)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Change bytes, blocks and fields; cut, repeat and swap."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(changed) + 1)
        block = at - at % _BLOCK
        match rng.randrange(8):
            case 0:
                changed[at : at + 1] = rng.randbytes(1)
            case 1:
                del changed[at : at + rng.randrange(1, 600)]
            case 2:
                changed[at:at] = rng.randbytes(rng.randrange(1, 600))
            case 3:
                start = rng.randrange(len(changed) + 1)
                changed[block:block] = changed[start - start % _BLOCK :][: _BLOCK * rng.randrange(1, 4)]
            case 4:
                del changed[block : block + _BLOCK * rng.randrange(1, 4)]
            case 5:
                changed[block + 156 : block + 157] = rng.choice(_KINDS)
                _fix(changed, block)
            case 6:
                changed[block + 124 : block + 136] = b"%011o\0" % rng.choice(_NUMBERS)
                _fix(changed, block)
            case 7:
                changed[block : block + 8] = rng.choice(
                    [b"../../x\0", b"/etc/x\0\0", b".wh.x\0\0\0", b"a/b/c/d\0"]
                )
                _fix(changed, block)
    return bytes(changed)


def _fix(data: bytearray, block: int) -> None:
    """Make the checksum of a header right."""
    if len(data) - block >= _BLOCK:
        data[block + 148 : block + 156] = b" " * 8
        data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + _BLOCK])
