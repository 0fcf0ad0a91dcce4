"""The stream of a layer: decompress it, and filter the archive before GNU tar reads it.

The first bytes tell how a layer is compressed, never its name. The filter counts what entries cost, removes
whiteouts (OCI image-spec, layer.md) and global headers, and lists directories that no entry describes. It
reads POSIX.1-2001 pax, ustar, GNU and V7 (GNU tar manual, "Basic Tar Format").

A hostile archive may mean something else to this filter than to tar. Then at most a limit or a whiteout
fails: the kernel bounds what tar may touch (child.py). The confined child starts in milliseconds; therefore
the libraries are imported late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
# A skippable frame may come first (RFC 8878, section 3.1.2): 0x184D2A50 to 0x184D2A5F, little endian.
_SKIPPABLE = tuple(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))
HEAD = 4
_OUTPUT = 1 << 20
_INPUT = 1 << 18
# zstd --long=27, which is also what its own decoder takes without being asked.
_ZSTD_WINDOW = 1 << 27

BLOCK = 512
END = bytes(2 * BLOCK)
_ZEROS = bytes(BLOCK)
_LONGEST_PATH = 4095
LONGEST_LINE = 2 * _LONGEST_PATH + 10

# Type flags. Links, nodes and directories are bare: they have no content.
_DIRECTORY, _SPARSE, _PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"5SxgLK"
_BARE = frozenset(b"123456")
_KNOWN = _BARE | frozenset(b"07\0S")

# What is read of extension headers: a GNU name, and these pax records, whose keys are never empty.
_GNU, _PATH, _SPARSE_NAME, _SIZE = b"", b"path", b"GNU.sparse.name", b"size"
_WHITEOUT, _WHITEOUT_META, _OPAQUE = b".wh.", b".wh..wh.", b".wh..wh..opq"


class BadLayerError(ValueError):
    """The layer is damaged, hostile, or larger than allowed; users see the message."""


def plain(head: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield a stream's uncompressed bytes in pieces of some MiB; BadLayerError if it is damaged or cut off.

    `head` are its first `HEAD` bytes, which were read already; `read` returns at most so many further bytes.
    """

    def whole(size: int) -> bytes:
        nonlocal head
        taken, head = head, b""
        return taken or read(size)

    if head.startswith(GZIP):
        return _gunzip(whole)
    return _unzstd(whole) if _is_zstd(head) else iter(lambda: whole(_OUTPUT), b"")


def load_library(head: bytes) -> None:
    """Import what `plain` will need for a stream that starts like this, while files can be opened."""
    if head.startswith(GZIP):
        _gzip_library()
    elif _is_zstd(head):
        import zstandard  # noqa: F401


def _is_zstd(head: bytes) -> bool:
    return head[:4] == ZSTD or head[:4] in _SKIPPABLE


def _gunzip(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Decompress all members: eStargz writes one per file."""
    library = _gzip_library()
    data = read(_INPUT)
    while data:
        member = library.decompressobj(31)
        while not member.eof:
            if not data and not (data := read(_INPUT)):
                raise BadLayerError("gzip data ends early")
            try:
                output = member.decompress(data, _OUTPUT)
            except library.error as error:
                raise BadLayerError(f"damaged gzip data: {error}") from error
            data = member.unconsumed_tail
            if output:
                yield output
        # Padding with zeros is allowed after a member (gzip(1)).
        data = member.unused_data.lstrip(b"\0")
        while not data and (more := read(_INPUT)):
            data = more.lstrip(b"\0")


def _gzip_library() -> Any:
    """Return ISA-L's zlib, about 2.5 times as fast, or zlib."""
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib
    return isal_zlib


def _unzstd(read: Callable[[int], bytes]) -> Iterator[bytes]:
    import zstandard

    source: Any = SimpleNamespace(read=read)
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    try:
        with decompressor.stream_reader(source, read_size=_INPUT, read_across_frames=True) as reader:
            while chunk := reader.read(_OUTPUT):
                yield chunk
    except zstandard.ZstdError as error:
        raise BadLayerError(f"damaged zstd data: {error}") from error


class TarFilter:
    """Filters an archive that comes in pieces.

    `whiteouts` are paths to hide in lower layers, `opaque` directories whose content there is hidden,
    `implicit` directories that no entry describes. They are relative to the layer's root, which is b"".
    """

    def __init__(self, size: int, entries: int, depth: int, headers: int) -> None:
        self._limits = (size, entries, depth, headers)
        self._rest = b""
        self._payload = self._padding = self._zero_blocks = 0
        self._dropping = False
        # Replaced parts of this entry's headers: start, end, new content.
        self._changes: list[tuple[int, int, bytes]] = []
        self._described: set[bytes] = set()
        self._missing: set[bytes] = set()
        self.size = self.entries = 0
        self.whiteouts: list[bytes] = []
        self.opaque: list[bytes] = []

    @property
    def implicit(self) -> list[bytes]:
        """Return the directories that no entry describes, parents first."""
        return sorted(self._missing - self._described)

    def feed(self, chunk: bytes) -> Iterator[memoryview]:
        """Yield the parts of the archive that tar should read; BadLayerError if the layer is refused."""
        self.size += len(chunk)
        if self.size > self._limits[0]:
            raise BadLayerError(f"unpacks to more than {self._limits[0]} bytes")
        if self._zero_blocks > 1:
            return
        data = self._rest + chunk if self._rest else chunk
        self._rest = b""
        view = memoryview(data)
        position = start = 0
        while position < len(data):
            if self._payload:
                taken = min(self._payload, len(data) - position)
                self._payload -= taken
                position += taken
                if self._dropping:
                    start = position
                continue
            self._changes.clear()
            after = self._header(data, position)
            if after is None:
                self._rest = data[position:]
                break
            if self._dropping:
                yield view[start:position]
                start = after
            else:
                for begin, end, changed in self._changes:
                    yield view[start:begin]
                    yield memoryview(changed)
                    start = end
            position = after
            if self._zero_blocks > 1:
                start = position = len(data)
        yield view[start:position]

    def finish(self) -> bytes:
        """Check that the archive came whole; return what tar should read at its end."""
        if self._zero_blocks < 2 and (self._payload > self._padding or self._rest):
            raise BadLayerError("the archive ends in the middle of an entry")
        # Some writers do not fill the last block.
        return END if self._dropping else bytes(self._payload) + END

    def _header(self, data: bytes, position: int) -> int | None:
        """Read one entry's headers; return where its content starts, or None to get more data."""
        extended: dict[bytes, bytes] | None = None
        first = position
        while True:
            if len(data) - position < BLOCK:
                return None
            block = data[position : position + BLOCK]
            kind = block[156]
            if kind not in (_PAX, _GNU_NAME, _GNU_LINK):
                break
            size = _number(block[124:136])
            if position + size - first > self._limits[3]:
                raise BadLayerError(f"the headers of one entry take more than {self._limits[3]} bytes")
            after = position + BLOCK + _padded(size)
            if len(data) < after:
                return None
            payload = data[position + BLOCK : position + BLOCK + size]
            kept = _without_empty(payload) if kind == _PAX else payload
            if kept != payload:
                self._changes.append((position, after, _extension(block, kept)))
            extended = (extended or {}) | _read_extension(kind, kept)
            position = after
        if kind == 0 and block == _ZEROS:
            if extended is not None:
                raise BadLayerError("an extended header describes nothing")
            self._zero_blocks += 1
            self._dropping = True
            return position + BLOCK
        if self._zero_blocks:
            raise BadLayerError("there is data after a block of zeros")
        if kind == _PAX_GLOBAL:
            if extended is not None:
                raise BadLayerError("a global header describes an entry")
            self._dropping, self._payload = True, _padded(_number(block[124:136]))
            return position + BLOCK
        return self._entry(data, position, block, extended or {})

    def _entry(self, data: bytes, position: int, block: bytes, extended: dict[bytes, bytes]) -> int | None:
        kind = block[156]
        if kind not in _KNOWN:
            raise BadLayerError(f"an entry is of the unknown type {bytes([kind])!r}")
        position += BLOCK
        if kind == _SPARSE:
            more = block[482]
            while more:
                if len(data) - position < BLOCK:
                    return None
                more = data[position + 504]
                position += BLOCK
        size = _number(block[124:136])
        if _SIZE in extended:
            size = int(extended[_SIZE])
        if size and kind in _BARE and (kind != ord("1") or _SIZE in extended):
            raise BadLayerError("a link, a directory or a device has content")
        self.entries += 1
        if self.entries > self._limits[1]:
            raise BadLayerError(f"has more than {self._limits[1]} entries")
        path = self._path(block, extended)
        self._payload = 0 if kind in _BARE else _padded(size)
        self._padding = _padded(size) - size
        self._dropping = self._take_out(path, kind == _DIRECTORY or block[:100].rstrip(b"\0").endswith(b"/"))
        return position

    def _path(self, block: bytes, extended: dict[bytes, bytes]) -> bytes:
        name = block[:100].split(b"\0", 1)[0]
        if block[257:263] == b"ustar\0" and block[345]:
            name = block[345:500].split(b"\0", 1)[0] + b"/" + name
        if extended:
            given = {extended[key] for key in (_GNU, _PATH) if key in extended}
            if len(given) > 1:
                raise BadLayerError("an entry has two names")
            name = extended.get(_SPARSE_NAME, given.pop() if given else name)
        if b"/" not in name:
            if name == b"..":
                raise BadLayerError("an entry is named '..'")
            return b"" if name == b"." else name
        if b"/." in name or b"//" in name or name[:1] in b"./" or name[-1:] == b"/":
            parts = [part for part in name.split(b"/") if part and part != b"."]
            if b".." in parts:
                raise BadLayerError(f"the path {_shown(name)} leads out of the layer")
            name = b"/".join(parts)
        if name.count(b"/") >= self._limits[2]:
            raise BadLayerError(f"the path {_shown(name)} is deeper than {self._limits[2]} directories")
        if len(name) > _LONGEST_PATH:
            raise BadLayerError(f"the path {_shown(name)} is longer than {_LONGEST_PATH} bytes")
        return name

    def _take_out(self, path: bytes, directory: bool) -> bool:
        """Record an entry; return whether to hide it from tar."""
        parent, _, base = path.rpartition(b"/")
        above = parent
        while path and above not in self._described and above not in self._missing:
            self._missing.add(above)
            above = above.rpartition(b"/")[0]
        if base.startswith(_WHITEOUT):
            if base == _OPAQUE:
                self.opaque.append(parent)
            elif not base.startswith(_WHITEOUT_META):
                hidden = base[len(_WHITEOUT) :]
                if hidden in (b"", b".", b".."):
                    raise BadLayerError(f"the whiteout {_shown(path)} hides nothing that can be")
                self.whiteouts.append(parent + b"/" + hidden if parent else hidden)
            return True
        if directory:
            self._described.add(path)
        return False


def _read_extension(kind: int, payload: bytes) -> dict[bytes, bytes]:
    if kind == _PAX:
        return {key: value for key, value in pax_records(payload) if key in (_PATH, _SPARSE_NAME, _SIZE)}
    return {_GNU: payload.split(b"\0", 1)[0]} if kind == _GNU_NAME else {}


def pax_records(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records "LENGTH KEY=VALUE\\n" of an extended header; BadLayerError for another form."""
    position = 0
    while position < len(payload):
        space = payload.find(b" ", position, position + 20)
        digits = payload[position : max(space, position)]
        if not digits.isdigit():
            raise BadLayerError("damaged extended header")
        end = position + int(digits)
        record = payload[space + 1 : end]
        key, equals, value = record.partition(b"=")
        if end > len(payload) or not record.endswith(b"\n") or not equals or not key:
            raise BadLayerError("damaged extended header")
        if key == _SIZE and value != b"\n" and not (value[:-1].isdigit() and len(value) <= 21):
            raise BadLayerError("a size in an extended header is not a number")
        yield key, value[:-1]
        position = end


def _without_empty(payload: bytes) -> bytes:
    """Leave out records without a value, malformed to GNU tar (pax(1)), except extended attributes."""
    if b"=\n" not in payload:
        return payload
    kept = []
    for key, value in pax_records(payload):
        if value or key.startswith(b"SCHILY.xattr."):
            rest = b" " + key + b"=" + value + b"\n"
            # A record's length includes its own digits.
            digits = next(digits for digits in range(1, 9) if len(str(len(rest) + digits)) == digits)
            kept.append(b"%d%s" % (len(rest) + digits, rest))
    return b"".join(kept)


def _extension(block: bytes, payload: bytes) -> bytes:
    """Return an extended header like this one with other records, or nothing if there are none."""
    if not payload:
        return b""
    changed = bytearray(block)
    changed[124:136] = b"%011o\0" % len(payload)
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed)
    return bytes(changed) + payload.ljust(_padded(len(payload)), b"\0")


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise BadLayerError("a size in a header is negative")
        return int.from_bytes(field[1:], "big")
    digits = field.rstrip(b" \0").lstrip(b" ")
    if digits.translate(None, b"01234567"):
        raise BadLayerError("a size in a header is not a number")
    return int(digits or b"0", 8)


def _padded(size: int) -> int:
    return (size + BLOCK - 1) & -BLOCK


def _shown(name: bytes) -> str:
    return ascii(name[:200].decode(errors="replace"))


def packed(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a line, without its end, for each of these sorted paths: `SHARED REST`.

    SHARED is the number of bytes in common with the path before, REST the others in hexadecimal: a name that
    is 250 directories deep makes 250 paths, which have 125 times as many bytes as the name.
    """
    before = b""
    for path in paths:
        shared = before
        while not path.startswith(shared):
            shared = shared.rpartition(b"/")[0]
        yield b"%d %s" % (len(shared), path[len(shared) :].hex().encode())
        before = path


def unpacked(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the path of each line of `packed`; ValueError if a line is damaged or not in its order."""
    before: bytes | None = None
    for line in lines:
        shared, space, rest = line.rstrip(b"\n").partition(b" ")
        path = (before or b"")[: int(shared)] + bytes.fromhex(rest.decode("ascii"))
        if not space or len(path) > _LONGEST_PATH or (before is not None and path <= before):
            raise ValueError("a damaged list of directories")
        yield path
        before = path
