"""Archives are read and written as tar(1) and Python's tarfile understand them, in bounded memory."""

from __future__ import annotations

import io
import tarfile

import pytest

from tank_agent.linux.tar_stream import (
    DIRECTORY,
    END,
    FILE,
    HARD_LINK,
    LINK,
    CopyError,
    TarEntry,
    TarReader,
    header,
    padding,
)

ENTRIES = [
    TarEntry(b"d", DIRECTORY, 0o2755, 0, 0, mtime=1),
    TarEntry(b"d/" + b"n" * 150, FILE, 0o644, 1000, 2000, size=3, mtime=1_700_000_000_123_456_789),
    TarEntry("d/ünïcode".encode(), FILE, 0o600, 2**31, 2**31 + 1, size=0),
    TarEntry(b"d/raw-\xff\xfe", FILE, 0o600, 0, 0, size=1),
    TarEntry(b"d/" + b"r\xff" * 80, LINK, 0o777, 0, 0, target=b"t\xff" * 90),
    TarEntry(b"d/hard", HARD_LINK, 0o644, 0, 0, target=b"d/" + b"n" * 150),
    TarEntry(b"d/old", FILE, 0o644, 0, 0, mtime=-1_500_000_000),
]


def archive() -> bytes:
    parts = [header(entry) + b"x" * entry.size + padding(entry.size) for entry in ENTRIES]
    return b"".join(parts) + END


def test_what_is_written_is_read() -> None:
    reader = TarReader(io.BytesIO(archive()))
    found = []
    for entry in reader.entries():
        content = b"".join(iter(reader.content, b""))
        assert content == b"x" * entry.size
        found.append(entry._replace(path=entry.path.rstrip(b"/")))
    assert found == ENTRIES


def test_python_reads_what_is_written() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive())) as opened:
        members = opened.getmembers()
    for member, entry in zip(members, ENTRIES, strict=True):
        assert member.name.encode(errors="surrogateescape") == entry.path
        assert (member.uid, member.gid, member.size) == (entry.uid, entry.gid, entry.size)
        assert member.linkname.encode(errors="surrogateescape") == entry.target
        assert member.mtime == pytest.approx(entry.mtime / 10**9)


def test_sizes_above_8_gib() -> None:
    large = TarEntry(b"large", FILE, 0o644, 0, 0, size=9 << 30)
    (found,) = (member for member in [tarfile.TarInfo.frombuf(header(large)[-512:], "utf-8", "strict")])
    assert found.size == 0
    assert b"size=%d" % (9 << 30) in header(large)
    reader = TarReader(io.BytesIO(header(large)))
    assert next(reader.entries()).size == 9 << 30


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_archives_of_others(form: int) -> None:
    made = io.BytesIO()
    name = "a" * 90 + "/" + "b" * 90 if form == tarfile.USTAR_FORMAT else "a" * 150 + "/" + "b" * 150
    with tarfile.open(fileobj=made, mode="w", format=form) as opened:
        info = tarfile.TarInfo(name)
        info.size = 5
        opened.addfile(info, io.BytesIO(b"hello"))
    reader = TarReader(io.BytesIO(made.getvalue()))
    entry = next(reader.entries())
    assert (entry.path.decode(), reader.content()) == (name, b"hello")


def extension(flag: bytes, size: int) -> bytes:
    block = bytearray(header(TarEntry(b"x", FILE, 0, 0, 0, size=size)))
    block[156:157] = flag
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def with_record(key: bytes, value: bytes) -> bytes:
    """Return a file with an extended header of one record."""
    rest = b" %b=%b\n" % (key, value)
    record = b"%d%b" % (len(rest) + 2, rest)
    entry = header(TarEntry(b"f", FILE, 0o644, 0, 0))
    return extension(b"x", len(record)) + record + padding(len(record)) + entry


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "too early"),
        (b"hello" * 200, "no tar archive|damaged"),
        (archive()[:-1024], "too early"),
        (archive()[:2000], "too early"),
        (extension(b"x", 1 << 30), "more than"),
        (extension(b"L", 1 << 30), "more than"),
        (extension(b"S", 0), "sparse"),
        (extension(b"V", 0), "unknown type"),
        (extension(b"x", 512) + b"9 path=x\n".ljust(512, b"x"), "damaged"),
        (extension(b"x", 512) + b"99999 path=x\n".ljust(512, b"x"), "damaged"),
        ((extension(b"x", 510 << 10) + b"522240 a=".ljust((510 << 10) - 1, b"x") + b"\n") * 3, "more than"),
        (with_record(b"uid", b"9" * 19), "owner"),
        (with_record(b"gid", b"%d" % (2**32 - 1)), "owner"),
        (with_record(b"size", b"%d" % 2**63), "size"),
        (with_record(b"mtime", b"9" * 18), "time"),
        (with_record(b"linkpath", b"a\0b"), "leads to a name"),
    ],
)
def test_what_is_damaged_is_refused(content: bytes, words: str) -> None:
    reader = TarReader(io.BytesIO(content))
    with pytest.raises(CopyError, match=words):
        for _ in reader.entries():
            pass
