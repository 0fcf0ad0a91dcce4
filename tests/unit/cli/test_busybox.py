from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tank_agent.cli.busybox import write_busybox
from tank_agent.errors import TankError


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a program that lists commands as busybox does, and needs no libraries of its own."""
    path = tmp_path / "busybox"
    path.write_text("#!/bin/sh\nprintf 'busybox\\nsh\\nhttpd\\n'\n")
    path.chmod(0o755)
    return path


def test_the_layout_is_whole_and_the_same_each_time(program: Path, tmp_path: Path) -> None:
    layout = tmp_path / "deep" / "layout"
    assert write_busybox(layout, program) == f"oci:{layout}:latest"
    files = {path: path.read_bytes() for path in layout.rglob("*") if path.is_file()}
    assert write_busybox(layout, program) == f"oci:{layout}:latest"
    assert {path: path.read_bytes() for path in layout.rglob("*") if path.is_file()} == files
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    blobs = layout / "blobs" / "sha256"
    manifest = json.loads((blobs / entry["digest"].removeprefix("sha256:")).read_text())
    with tarfile.open(blobs / manifest["layers"][0]["digest"].removeprefix("sha256:")) as archive:
        assert archive.getmember("bin/sh").linkname == "busybox"
        assert archive.getmember("bin/busybox").mode == 0o755
        assert archive.getmember("home/app").uid == 1000


def test_what_cannot_be_made_says_what_to_do(program: Path, tmp_path: Path) -> None:
    with pytest.raises(TankError, match="apt install busybox-static"):
        write_busybox(tmp_path / "a", tmp_path / "absent")
    with pytest.raises(TankError, match=r"needs libraries.*\n.*busybox-static"):
        write_busybox(tmp_path / "a", Path(shutil.which("env") or ""))
    other = tmp_path / "other"
    other.mkdir()
    (other / "photo.jpg").touch()
    with pytest.raises(TankError, match="holds something else"):
        write_busybox(other, program)
    with pytest.raises(TankError, match=r"photo.jpg.*cannot write"):
        write_busybox(other / "photo.jpg", program)
    assert not (tmp_path / "a").exists()
