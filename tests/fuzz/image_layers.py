"""The stream of a layer: decompression and the tar filter."""

from __future__ import annotations

import gzip
import io
import random

import zstandard

from tank_agent.image.unpack.stream import HEAD, BadLayerError, TarFilter, packed, plain, unpacked
from tests.fuzz.archives import damaged, random_archive
from tests.fuzz.rounds import repeat

_LARGEST = 1 << 21


def compressed(rng: random.Random, data: bytes) -> bytes:
    """Compress a layer one way or another, and sometimes damage the result."""
    match rng.randrange(4):
        case 0:
            data = gzip.compress(data, 1)
        case 1:
            data = zstandard.ZstdCompressor().compress(data)
        case 2:
            half = len(data) // 2
            data = gzip.compress(data[:half], 1) + gzip.compress(data[half:], 1)
    return damaged(rng, data) if rng.random() < 0.2 else data


def random_layer(rng: random.Random) -> bytes:
    """Return a compressed layer, most often a damaged one."""
    data = random_archive(rng)
    return compressed(rng, damaged(rng, data) if rng.random() < 0.8 else data)


def _once(rng: random.Random) -> None:
    stream = io.BytesIO(random_layer(rng))
    size = rng.choice([1, 511, 512, 5000, 1 << 16])
    archive = TarFilter(size=1 << 30, entries=1000, depth=50, headers=1 << 20)
    try:
        for chunk in plain(stream.read(HEAD), lambda wanted: stream.read(min(wanted, size))):
            for view in archive.feed(chunk):
                assert len(view) <= len(chunk) + _LARGEST
        assert len(archive.finish()) <= 3 * 512
    except BadLayerError as error:
        assert 0 < len(str(error)) < 2000
    for path in (*archive.whiteouts, *archive.opaque, *archive.implicit):
        assert b".." not in path.split(b"/")
        assert not path.startswith(b"/")
        assert not path.endswith(b"/")
    assert list(unpacked(packed(archive.implicit))) == archive.implicit


def fuzz(seed: int, seconds: float | None, rounds: int | None) -> None:
    """Read layers: each is read or refused, and what is noted of it stays inside."""
    repeat(seed, seconds, rounds, _once)
