"""Read and write tar streams entry by entry (pax(1) and GNU's long names), within fixed memory.

The reader's input may be hostile: it holds one header at a time, of a bounded size, and never content. The
confined child of `tank cp` runs this without third-party packages, so none is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
END = bytes(2 * BLOCK)
FILE, HARD_LINK, LINK, DIRECTORY, SPECIAL = "file", "hard link", "link", "directory", "special"

_ZEROS = bytes(BLOCK)
_MOST_HEADERS = 1 << 20
_PIECE = 1 << 18
_EXTENSION = b"./PaxHeaders/entry"
_KINDS = {
    **dict.fromkeys((b"0", b"\0", b"7"), FILE),
    **{b"1": HARD_LINK, b"2": LINK, b"5": DIRECTORY},
    **dict.fromkeys((b"3", b"4", b"6"), SPECIAL),
}
_FLAGS = {FILE: b"0", HARD_LINK: b"1", LINK: b"2", DIRECTORY: b"5"}
_TIME = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]{1,30}))?")
# The last number is none of a user: to chown(2) it says to leave the owner.
_HIGHEST_ID = 2**32 - 2
# What fits into the octal numbers of 7 and of 11 digits.
_SMALL, _LARGE = 8**7, 8**11


class CopyError(ValueError):
    """Why something can't be copied; users see the message, and what to do in `hint`."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class TarEntry(NamedTuple):
    """One file of an archive; `mtime` is in nanoseconds, `target` is that of a link or of a hard link."""

    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    size: int = 0
    mtime: int = 0
    target: bytes = b""


def shown(path: bytes) -> str:
    """Return a path as messages show it: others choose it, so it is cut, and holds no control characters."""
    text = path[:300].decode(errors="replace")
    return text if text.isprintable() else ascii(text)[1:-1]


class TarReader:
    """Reads an archive; `content` reads on in the entry that `entries` yielded last."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._left = self._padding = 0

    def entries(self) -> Iterator[TarEntry]:
        """Yield the entries in their order.

        Raises:
            CopyError: the archive is damaged, cut off, or has what is not read here.
        """
        extended: dict[bytes, bytes] = {}
        headers = 0
        while True:
            while self.content():
                pass
            self._exactly(self._padding)
            self._padding = 0
            block = self._exactly(BLOCK)
            if block == _ZEROS:
                break
            _check(block)
            flag, size = block[156:157], _number(block[124:136])
            if flag in (b"x", b"g", b"L", b"K"):
                headers += size
                if headers > _MOST_HEADERS:
                    raise CopyError(
                        f"the headers of one file have {headers} bytes, more than {_MOST_HEADERS}"
                    )
                extended |= self._extension(flag, size)
                continue
            yield self._entry(block, flag, size, extended)
            extended, headers = {}, 0
        # Whoever writes the archive need not know that its end was seen.
        while self._source.read(_PIECE):
            pass

    def content(self) -> bytes:
        """Return more of the present entry's content; empty at its end."""
        if not self._left:
            return b""
        piece = self._exactly(min(self._left, _PIECE))
        self._left -= len(piece)
        return piece

    def _exactly(self, size: int) -> bytes:
        data = self._source.read(size) if size else b""
        if len(data) < size:
            raise CopyError("the archive ends too early")
        return data

    def _extension(self, flag: bytes, size: int) -> dict[bytes, bytes]:
        payload = self._exactly(size)
        self._exactly(-size % BLOCK)
        if flag == b"g":
            return {}
        if flag == b"x":
            return dict(_records(payload))
        return {b"path" if flag == b"L" else b"linkpath": payload.split(b"\0", 1)[0]}

    def _entry(self, block: bytes, flag: bytes, size: int, extended: dict[bytes, bytes]) -> TarEntry:
        path = extended.get(b"path") or _name(block)
        if flag == b"S" or any(key.startswith(b"GNU.sparse") for key in extended):
            raise CopyError(f"{shown(path)} is stored as a sparse file", "write the archive without --sparse")
        kind = _KINDS.get(flag)
        if kind is None:
            raise CopyError(f"{shown(path)} is of an unknown type, {flag!r}")
        if kind == FILE and flag == b"\0" and path.endswith(b"/"):
            kind = DIRECTORY
        if b"size" in extended:
            size = _decimal(extended[b"size"])
        # Some writers give hard links the size of their file, without its content.
        self._left = size if kind == FILE else 0
        self._padding = -self._left % BLOCK
        entry = TarEntry(
            path=path,
            kind=kind,
            mode=_number(block[100:108]) & 0o7777,
            uid=_decimal(extended[b"uid"]) if b"uid" in extended else _number(block[108:116]),
            gid=_decimal(extended[b"gid"]) if b"gid" in extended else _number(block[116:124]),
            size=self._left,
            mtime=_time(extended[b"mtime"]) if b"mtime" in extended else _number(block[136:148]) * 10**9,
            target=extended.get(b"linkpath") or block[157:257].split(b"\0", 1)[0],
        )
        _check_entry(entry)
        return entry


def header(entry: TarEntry) -> bytes:
    """Return the headers of an entry; its content and `padding` follow."""
    path = entry.path + b"/" if entry.kind == DIRECTORY else entry.path
    seconds, part = divmod(entry.mtime, 10**9)
    records: dict[bytes, bytes] = {}
    if len(path) > 100 or b"\n" in path:
        records[b"path"] = path
    if len(entry.target) > 100:
        records[b"linkpath"] = entry.target
    for key, value, most in (
        (b"size", entry.size, _LARGE),
        (b"uid", entry.uid, _SMALL),
        (b"gid", entry.gid, _SMALL),
    ):
        if value >= most:
            records[key] = b"%d" % value
    if part or not 0 <= seconds < _LARGE:
        sign, (whole, rest) = b"-" if entry.mtime < 0 else b"", divmod(abs(entry.mtime), 10**9)
        records[b"mtime"] = b"%b%d.%09d" % (sign, whole, rest)
    extension = b""
    if records:
        payload = b"".join(_record(key, value) for key, value in records.items())
        about = TarEntry(_EXTENSION, FILE, 0o644, 0, 0, size=len(payload))
        extension = _block(_EXTENSION, b"x", about) + payload + padding(len(payload))
    return extension + _block(path, _FLAGS[entry.kind], entry, seconds)


def padding(size: int) -> bytes:
    """Return what follows content of this size."""
    return bytes(-size % BLOCK)


def _block(path: bytes, flag: bytes, entry: TarEntry, seconds: int = 0) -> bytes:
    uid, gid, size = entry.uid, entry.gid, entry.size
    owners = b"%07o\0%07o\0" % (uid if uid < _SMALL else 0, gid if gid < _SMALL else 0)
    times = seconds if 0 <= seconds < _LARGE else 0
    numbers = b"%011o\0%011o\0" % (size if size < _LARGE else 0, times)
    head = path[:100].ljust(100, b"\0") + b"%07o\0" % entry.mode + owners + numbers
    tail = flag + entry.target[:100].ljust(100, b"\0") + b"ustar\x0000"
    total = sum(head) + sum(tail) + 8 * ord(" ")
    return (head + b"%06o\0 " % total + tail).ljust(BLOCK, b"\0")


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %b=%b\n" % (key, value)
    # A record's length includes its own digits.
    digits = next(count for count in range(1, 9) if len(b"%d" % (len(rest) + count)) == count)
    return b"%d%b" % (len(rest) + digits, rest)


def _records(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position < len(payload):
        length, space, _ = payload[position : position + 20].partition(b" ")
        end = position + (int(length) if length.isdigit() else 0)
        key, equals, value = payload[position + len(length) + 1 : end].partition(b"=")
        if not space or end > len(payload) or not equals or not value.endswith(b"\n"):
            raise CopyError("an extended header of the archive is damaged")
        yield key, value[:-1]
        position = end


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and block[345]:
        return block[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


def _check(block: bytes) -> None:
    wanted = _number(block[148:156])
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != wanted:
        raise CopyError("this is no tar archive, or a damaged one", "compressed ones must be unpacked first")


def _check_entry(entry: TarEntry) -> None:
    """Refuse what no file can have, and the kernel's calls can't be told."""
    if max(entry.uid, entry.gid) > _HIGHEST_ID:
        raise CopyError(f"{shown(entry.path)} has an owner in the archive that no file can have")
    if entry.size >= 2**63 or not -(2**63) <= entry.mtime < 2**63:
        raise CopyError(f"{shown(entry.path)} has a size or a time in the archive that no file can have")
    if b"\0" in entry.target:
        raise CopyError(f"{shown(entry.path)} leads to a name that no file can have")


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        # GNU tar writes numbers that have too many digits like this.
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else 0
    digits = field.strip(b" \0")
    if digits.translate(None, b"01234567"):
        raise CopyError("a number in a header of the archive is damaged")
    return int(digits or b"0", 8)


def _decimal(text: bytes) -> int:
    if not (text.isdigit() and len(text) < 20):
        raise CopyError("a number in an extended header of the archive is damaged")
    return int(text)


def _time(text: bytes) -> int:
    found = _TIME.fullmatch(text)
    if found is None:
        raise CopyError("a time in an extended header of the archive is damaged")
    sign, whole, part = found.groups(b"")
    value = int(whole) * 10**9 + int(part[:9].ljust(9, b"0"))
    return -value if sign else value
