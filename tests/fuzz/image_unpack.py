"""Layers end to end: through the unpacking process and tar, onto a disk. Needs root."""

from __future__ import annotations

import io
import random
import shutil
from pathlib import Path

from tank_agent.image.unpack.parent import RefusedLayerError, UnpackServer
from tank_agent.image.unpack.stream import unpacked
from tank_agent.settings.image import UnpackLimits
from tests.fuzz.image_layers import random_layer
from tests.fuzz.rounds import repeat
from tests.support.trees import big_directory, describe

_LIMITS = UnpackLimits(
    size=64 << 20, file_size=16 << 20, entries=5000, depth=64, headers=1 << 18, cpu_time=20, stall=60.0
)


def _unpack(server: UnpackServer, home: Path, data: bytes) -> None:
    implicit = io.BytesIO()
    try:
        with server.start(home) as unpack:
            unpack.write(data)
            unpack.finish(implicit)
    except RefusedLayerError as error:
        assert 0 < len(str(error)) < 5000
        # "tar ended with -11" is tar's own fault, and one that it should not have.
        assert "tar ended with -" not in str(error), str(error)
        return
    implicit.seek(0)
    for path in unpacked(implicit):
        # It may be below a link, which a path from here must not follow.
        assert not path.startswith(b"/") and b".." not in path.split(b"/")


def fuzz(seed: int, seconds: float | None, rounds: int | None) -> None:
    """Unpack layers: each is unpacked or refused, never an error of ours, and nothing outside is touched."""
    with big_directory() as place:
        outside = place / "outside"
        outside.mkdir()
        (outside / "victim").write_text("precious")
        before = describe(outside)
        server = UnpackServer(_LIMITS)

        def once(rng: random.Random) -> None:
            home = place / "layer"
            home.mkdir()
            _unpack(server, home, random_layer(rng))
            assert sorted(entry.name for entry in place.iterdir()) == ["layer", "outside"]
            assert describe(outside) == before
            shutil.rmtree(home)

        try:
            repeat(seed, seconds, rounds, once)
        finally:
            server.close()
