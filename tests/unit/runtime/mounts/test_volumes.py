"""Managed volumes and paths of the host: who owns them, what is refused, and what is bound in which order."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tank_agent.errors import Retry, Stalled
from tank_agent.linux import mounts
from tank_agent.runtime.mounts.volumes import Volumes, depth, innermost
from tank_agent.spec.model import Mount, Volume
from tests.support.agent import wait_for

OWN = (os.getuid(), os.getgid())
DATA = Volume(name="data")


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    return Volumes(tmp_path / "agent", tmp_path / "run")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    return tmp_path / "bundle"


@pytest.fixture(autouse=True)
def bound(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bool]]:
    """Record what is bound where, instead of doing it: source, name of the target, read-only."""
    found: list[tuple[str, str, bool]] = []

    def bind(source: int, target: Path, *, read_only: bool, mapping: int | None = None) -> None:
        del mapping
        found.append((str(Path(f"/proc/self/fd/{source}").readlink()), target.name, read_only))

    monkeypatch.setattr(mounts, "bind", bind)
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_root_gets_at_volumes_and_the_user_at_its_own(
    volumes: Volumes, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "chown", lambda _, uid, gid, **__: given.append((uid, gid)))
    (mount,) = volumes.bind("web", [DATA], [Mount(volume="data", path="/data")], bundle, owner=(7, 8))
    root = tmp_path / "agent" / "volumes"
    assert [mode(root), mode(root / "web"), mode(root / "web" / "data")] == [0o700, 0o700, 0o755]
    status = (root / "web" / "data").stat()
    assert given == [(7, 8)]
    assert (mount.source, mount.target, mount.read_only) == (bundle / "volumes" / "0", "/data", False)
    assert volumes.managed() == (("web", "data", root / "web" / "data"),)
    assert volumes.inode("web", [DATA], "data") == (status.st_dev, status.st_ino)


def test_directories_that_an_older_agent_left_open_are_closed(tmp_path: Path) -> None:
    (tmp_path / "agent" / "volumes" / "web").mkdir(parents=True, mode=0o755)
    Volumes(tmp_path / "agent", tmp_path / "run")
    assert mode(tmp_path / "agent" / "volumes") == 0o700
    assert mode(tmp_path / "agent" / "volumes" / "web") == 0o700


def test_a_volume_that_is_there_keeps_its_owner_and_its_mode(
    volumes: Volumes, bundle: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "agent" / "volumes" / "web" / "data"
    directory.mkdir(parents=True, mode=0o750)
    volumes.bind("web", [DATA], [Mount(volume="data", path="/data")], bundle, owner=(1, 1))
    assert mode(directory) == 0o750


def test_a_volume_that_is_gone_is_not_made_under_what_runs(volumes: Volumes, bundle: Path) -> None:
    with pytest.raises(Retry, match="was removed"):
        volumes.bind("web", [DATA], [Mount(volume="data", path="/data")], bundle, owner=None)
    with pytest.raises(Retry, match="was removed"):
        volumes.inode("web", [DATA], "data")
    assert volumes.managed() == ()


def test_a_link_in_the_place_of_a_volume_is_not_followed(
    volumes: Volumes, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "agent" / "volumes" / "web").mkdir()
    (tmp_path / "agent" / "volumes" / "web" / "data").symlink_to("/etc")
    with pytest.raises(Retry):
        volumes.bind("web", [DATA], [Mount(volume="data", path="/data")], bundle, owner=OWN)


def test_a_path_of_the_host_is_bound_as_it_is(
    volumes: Volumes, bundle: Path, tmp_path: Path, bound: list[tuple[str, str, bool]]
) -> None:
    (tmp_path / "srv").mkdir()
    (tmp_path / "file").touch()
    pod = [Volume(name="a", host=str(tmp_path / "srv")), Volume(name="b", host=str(tmp_path / "file"))]
    wanted = [Mount(volume="a", path="/a", read_only=True), Mount(volume="b", path="/b")]
    made = volumes.bind("web", pod, wanted, bundle, owner=OWN)
    assert bound == [(str(tmp_path / "srv"), "0", True), (str(tmp_path / "file"), "1", False)]
    assert [mount.source.is_dir() for mount in made] == [True, False]
    assert [mount.read_only for mount in made] == [True, False]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "does not exist"),
        ("link", "leads through a symbolic link"),
        ("link/below", "leads through a symbolic link"),
        ("agent", "holds the agent's own files"),
        ("agent/volumes/web", "holds the agent's own files"),
        ("run", "holds the agent's own files"),
        ("", "holds the agent's own files"),
    ],
)
def test_a_path_of_the_host_that_cannot_be_had(
    volumes: Volumes, bundle: Path, tmp_path: Path, path: str, message: str
) -> None:
    (tmp_path / "srv" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("srv")
    pod = [Volume(name="a", host=str(tmp_path / path))]
    with pytest.raises(Stalled, match=message):
        volumes.bind("web", pod, [Mount(volume="a", path="/a")], bundle, owner=OWN)


def test_a_volume_inside_another_is_mounted_there_by_the_agent(
    volumes: Volumes, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mount point is made in the outer volume; only the outer one is left for crun."""
    attached: list[str] = []
    monkeypatch.setattr(mounts, "clone", lambda path: os.open(path, os.O_PATH))

    def attach(_: int, target: int) -> None:
        attached.append(str(Path(f"/proc/self/fd/{target}").readlink()))

    monkeypatch.setattr(mounts, "attach", attach)
    outer, inner = Mount(volume="outer", path="/a"), Mount(volume="inner", path="/a/b/c")
    pod = [Volume(name="outer"), Volume(name="inner")]
    # What is bound at the outer target, as nothing really is.
    (bundle / "volumes" / "1" / "b" / "c").mkdir(parents=True)
    made = volumes.bind("web", pod, [inner, outer], bundle, owner=OWN)
    assert [mount.target for mount in made] == ["/a"]
    assert attached == [str(bundle / "volumes" / "1" / "b" / "c")]
    assert mode(tmp_path / "agent" / "volumes" / "web" / "outer" / "b" / "c") == 0o755


def test_a_removal_takes_what_is_in_it_and_asks_first(volumes: Volumes, bundle: Path, tmp_path: Path) -> None:
    volumes.bind("web", [DATA], [Mount(volume="data", path="/data")], bundle, owner=OWN)
    directory = tmp_path / "agent" / "volumes" / "web" / "data"
    (directory / "below").mkdir()

    def refuse() -> None:
        raise Stalled("it is used")

    with pytest.raises(Stalled, match="it is used"):
        volumes.remove("web", "data", refuse)
    assert directory.exists()
    assert volumes.remove("web", "data")
    assert list((tmp_path / "agent" / "volumes").iterdir()) == []
    assert not volumes.remove("web", "data")


@pytest.mark.parametrize(("pod", "name"), [("..", "volumes"), ("web", ".."), ("web", "../web"), ("", "x")])
def test_a_removal_takes_names_and_no_paths(volumes: Volumes, tmp_path: Path, pod: str, name: str) -> None:
    (tmp_path / "agent" / "volumes" / "web").mkdir()
    assert not volumes.remove(pod, name)
    assert (tmp_path / "agent" / "volumes" / "web").exists()


def test_a_shared_volume_is_the_same_for_all_pods(volumes: Volumes, bundle: Path, tmp_path: Path) -> None:
    media, mount = Volume(name="media", shared=True), Mount(volume="media", path="/m")
    assert volumes.shared() == ()
    assert not (tmp_path / "agent" / "volumes-shared").exists()
    for pod in ("web", "backup"):
        volumes.bind(pod, [media], [mount], bundle, owner=OWN)
    directory = tmp_path / "agent" / "volumes-shared" / "media"
    assert volumes.shared() == (("media", directory),)
    assert volumes.path(None, "media") == directory
    assert volumes.managed() == ()
    assert mode(directory.parent) == 0o700
    (directory / "file").touch()
    with pytest.raises(Retry, match="gone was removed"):
        volumes.inode("web", [Volume(name="gone", shared=True)], "gone")

    def refuse() -> None:
        raise Stalled("it is used")

    with pytest.raises(Stalled, match="it is used"):
        volumes.remove(None, "media", refuse)
    assert volumes.remove(None, "media")
    assert not volumes.remove(None, "media")
    assert not volumes.remove(None, "..")
    assert not directory.parent.exists()


def test_the_next_agent_finishes_the_removal_of_a_shared_one(tmp_path: Path) -> None:
    left = tmp_path / "agent" / "volumes-shared" / ".media.0123.gone"
    (left / "below").mkdir(parents=True)
    volumes = Volumes(tmp_path / "agent", tmp_path / "run")
    assert volumes.shared() == ()
    wait_for(lambda: not left.exists(), "it is removed")


def test_the_next_agent_finishes_a_removal(tmp_path: Path) -> None:
    left = tmp_path / "agent" / "volumes" / "web" / ".data.0123.gone"
    (left / "below").mkdir(parents=True)
    volumes = Volumes(tmp_path / "agent", tmp_path / "run")
    assert volumes.managed() == ()
    wait_for(lambda: not left.parent.exists(), "it is removed")


def test_the_innermost_of_some_paths() -> None:
    assert innermost("/a/b/c", ["/a", "/a/b", "/a/b/c", "/x"]) == "/a/b"
    assert innermost("/ab", ["/a"]) is None
    assert sorted(["/a/b/c", "/b", "/a/b"], key=depth) == ["/b", "/a/b", "/a/b/c"]
