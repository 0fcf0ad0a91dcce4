"""A directory of the host as a root file system: what is looked at is what the container gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.runtime.container.launch import open_rootfs
from tank_agent.runtime.mounts.volumes import Volumes


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    return Volumes(tmp_path / "data", tmp_path / "run")


@pytest.fixture
def newest(tmp_path: Path) -> Path:
    (tmp_path / "shared" / "one").mkdir(parents=True)
    (tmp_path / "shared" / "one" / "marker").touch()
    link = tmp_path / "shared" / "newest"
    link.symlink_to("one")
    return link


def test_a_link_that_is_swapped_after_the_look_is_not_followed(
    tmp_path: Path, newest: Path, volumes: Volumes
) -> None:
    with open_rootfs(str(newest), volumes) as layer:
        newest.unlink()
        newest.symlink_to(tmp_path / "data" / "volumes")
        assert [entry.name for entry in layer.iterdir()] == ["marker"]
    with pytest.raises(Stalled, match="the agent's own files"), open_rootfs(str(newest), volumes):
        pass


@pytest.mark.parametrize(
    "target", ["/proc/1/root", "/proc/self/cwd", "/proc/self/fd", "/sys", "/", "nowhere"]
)
def test_links_to_what_no_container_may_have_are_refused(newest: Path, volumes: Volumes, target: str) -> None:
    newest.unlink()
    newest.symlink_to(target)
    with pytest.raises(Stalled, match="rootfs: "), open_rootfs(str(newest), volumes):
        pass
