"""A layout on disk belongs to somebody else: looking at it never blocks, nor reads without end."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.image.manifest import MANIFEST_LIMIT
from tank_agent.image.store.layout import DirectoryFiles, stamp
from tank_agent.spec.reference import Reference
from tests.support.image_quirks import resolve


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


def saved(path: Path, manifest: object) -> str:
    with tarfile.open(path, "w") as archive:
        for name, document in (
            ("manifest.json", manifest),
            ("c.json", {"config": {"Cmd": ["/file"]}, "rootfs": {"diff_ids": None}}),
        ):
            data = json.dumps(document).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return f"docker-archive:{path}"


@pytest.mark.parametrize("manifest", [None, [], [None]])
def test_an_archive_without_an_image_says_so(tmp_path: Path, manifest: object) -> None:
    with pytest.raises(Stalled, match="holds no image"):
        resolve(saved(tmp_path / "x.tar", manifest), tmp_path)


@pytest.mark.parametrize("layers", [{}, {"Layers": None}, {"Layers": []}])
def test_a_saved_image_without_layers(tmp_path: Path, layers: dict[str, object]) -> None:
    entry = {"Config": "c.json", "RepoTags": None, **layers}
    assert resolve(saved(tmp_path / "x.tar", [entry]), tmp_path).configuration.config.cmd == ("/file",)


def test_a_saved_image_without_a_configuration_says_so(tmp_path: Path) -> None:
    with pytest.raises(Stalled, match="names no configuration"):
        resolve(saved(tmp_path / "x.tar", [{"Config": None}]), tmp_path)


def test_an_archive_is_bounded_in_what_it_takes(tmp_path: Path) -> None:
    entry = {"Config": "c.json", "Layers": None}
    reference = saved(tmp_path / "x.tar", [entry])
    assert resolve(reference, tmp_path)
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(gzip.compress(whole + bytes(1 << 20), 1))
    with pytest.raises(Stalled, match="image_size"):
        resolve(reference, tmp_path)
    long = io.BytesIO()
    with tarfile.open(fileobj=long, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("x" * (1 << 20)))
    (tmp_path / "x.tar").write_bytes(long.getvalue())
    with pytest.raises(Stalled, match="a header has more"):
        resolve(reference, tmp_path)


def test_where_the_image_of_the_examples_is_not_there_the_error_says_how_to_make_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "busybox"
    monkeypatch.setattr("tank_agent.image.store.layout.EXAMPLE_LAYOUT", str(path))
    with pytest.raises(Stalled, match="`tank image busybox` makes it"):
        DirectoryFiles(path)
    with pytest.raises(Stalled) as other:
        DirectoryFiles(tmp_path / "other")
    assert other.value.hint is None
