from __future__ import annotations

from pathlib import Path

from tank_agent.spec.pages import manual, page


def test_a_page_is_named_where_it_is(tmp_path: Path) -> None:
    package, installed = tmp_path / "tank_agent", tmp_path / "doc"
    installed.mkdir()
    assert page("images", package=package, installed=installed) == "docs/images.md of tank-agent's source"
    (installed / "images.md.gz").touch()
    assert page("images", package=package, installed=installed) == f"{installed}/images.md.gz"
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/images.md").touch()
    assert page("images", package=package, installed=installed) == "docs/images.md"


def test_the_reference_is_a_manual_page_where_it_is_installed(tmp_path: Path) -> None:
    package, installed = tmp_path / "tank_agent", tmp_path / "doc"
    installed.mkdir()
    (installed / "reference.md").touch()
    assert manual("tank-pod", package=package, installed=installed) == "`man tank-pod`"
    assert manual("tank-pod") == "docs/reference.md"
