"""A layout on disk belongs to somebody else: looking at it never blocks, nor reads without end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tank_agent.image.manifest import MANIFEST_LIMIT
from tank_agent.image.store.layout import stamp
from tank_agent.spec.reference import Reference


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index.json"


def look(index: Path) -> str:
    return stamp(Reference(transport="oci", path=str(index.parent)))


def test_a_layout_that_is_built_anew_looks_different(index: Path) -> None:
    index.write_text("{}")
    before = look(index)
    assert before == look(index) != ""
    index.write_text('{"manifests": []}')
    assert before != look(index) != ""


@pytest.mark.parametrize("kind", ["absent", "fifo", "directory", "endless", "huge"])
def test_what_is_no_index_is_not_readable_now(index: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(index)
    elif kind == "directory":
        index.mkdir()
    elif kind == "endless":
        index.symlink_to("/dev/zero")
    elif kind == "huge":
        with index.open("wb") as file:
            file.truncate(MANIFEST_LIMIT + 1)
    assert look(index) == ""
