"""What the runtime says, in words for a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.runtime.container.crun import refused


@pytest.mark.parametrize("quote", ["`", "'"])
def test_a_file_on_a_directory_and_the_other_way_round(tmp_path: Path, quote: str) -> None:
    (tmp_path / "file").touch()

    def message(source: str, target: str) -> str:
        mount = f"mount {quote}{tmp_path / source}{quote} to {quote}{target}{quote}: Not a directory"
        return str(refused(mount, {}))

    on_directory = message("file", "etc/nginx")
    assert "a file can't be mounted at /etc/nginx, where the image has a directory" in on_directory
    assert "/etc/nginx/app.conf" in on_directory
    on_file = message(".", "etc/passwd")
    assert "a directory can't be mounted at /etc/passwd, where the image has a file" in on_file
    assert str(tmp_path) not in on_directory + on_file
    assert str(refused("something else", {})) == "something else"
