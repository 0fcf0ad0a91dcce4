"""The report of the child that unpacks a layer."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.errors import Retry
from tank_agent.image.unpack.parent import LayerUnpack, RefusedLayerError
from tank_agent.image.unpack.stream import unpacked


@pytest.fixture
def unpack(tmp_path: Path) -> Iterator[tuple[LayerUnpack, int]]:
    _, feed = os.pipe()
    os.close(_)
    report, report_end = os.pipe()
    unpack = LayerUnpack(tmp_path, feed, report, -1, 5.0)
    yield unpack, report_end
    unpack.close()
    os.close(report)


OK = b"ok " + b"0a" * 32 + b" 5 1\n"


def test_a_report_that_came_whole(unpack: tuple[LayerUnpack, int]) -> None:
    reader, writer = unpack
    os.write(writer, b"implicit 0 61\nimplicit 1 2f62\n" + OK)
    os.close(writer)
    implicit = io.BytesIO()
    found = reader.finish(implicit)
    assert (found.size, found.entries, found.opaque_root) == (5, 1, False)
    assert list(unpacked(io.BytesIO(implicit.getvalue()))) == [b"a", b"a/b"]


@pytest.mark.parametrize("report", [b"", b"implicit 0 61\n", b"implicit 0 61\n" + OK[:20], OK[:-1]])
def test_a_child_that_dies_in_its_report_made_no_layer(
    unpack: tuple[LayerUnpack, int], report: bytes
) -> None:
    reader, writer = unpack
    os.write(writer, report)
    os.close(writer)
    with pytest.raises(Retry, match="died"):
        reader.finish(io.BytesIO())


def test_a_line_without_end_is_not_collected(unpack: tuple[LayerUnpack, int]) -> None:
    reader, writer = unpack
    os.write(writer, b"implicit 0 " + b"61" * 20_000)
    os.close(writer)
    with pytest.raises(RefusedLayerError, match="directories"):
        reader.finish(io.BytesIO())
