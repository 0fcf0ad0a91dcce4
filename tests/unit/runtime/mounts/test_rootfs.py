"""Root file systems: which layers lie on which, and what is private."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tank_agent.errors import Retry, Stalled
from tank_agent.linux import mounts
from tank_agent.linux.namespaces import IdMapping, IdRange
from tank_agent.runtime.mounts.rootfs import FILES, RootFilesystems
from tests.support.agent import wait_for


@pytest.fixture
def root_filesystems(tmp_path: Path) -> Iterator[RootFilesystems]:
    made = RootFilesystems(tmp_path / "data")
    yield made
    made.close()


class Overlays:
    """What was mounted, or the error that mounting fails with."""

    def __init__(self) -> None:
        self.lower: list[Path] = []
        self.private: tuple[Path, Path] | None = None
        self.error: OSError | None = None

    def __call__(self, lower: Sequence[Path], upper: Path, work: Path, target: Path) -> None:
        if self.error is not None:
            raise self.error
        assert target.is_dir()
        self.lower, self.private = list(lower), (upper, work)


@pytest.fixture
def overlays(monkeypatch: pytest.MonkeyPatch) -> Overlays:
    made = Overlays()
    monkeypatch.setattr(mounts, "overlay", made)
    return made


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    return tmp_path / "bundle"


def layers(tmp_path: Path, *modes: int) -> list[Path]:
    made = []
    for number, mode in enumerate(modes):
        made.append(tmp_path / f"layer-{number}")
        made[-1].mkdir()
        made[-1].chmod(mode)
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_our_skeleton_is_on_top_of_the_layers(
    root_filesystems: RootFilesystems, overlays: Overlays, bundle: Path, tmp_path: Path
) -> None:
    lowest, upper = layers(tmp_path, 0o755, 0o711)
    assert root_filesystems.mount("one", [lowest, upper], bundle) == bundle / "rootfs"
    skeleton = tmp_path / "data" / "base" / "skeleton"
    assert overlays.lower == [skeleton, upper, lowest]
    private = tmp_path / "data" / "overlay" / "one"
    assert overlays.private == (private / "upper", private / "work")
    assert mode(private) == 0o700
    # What the container sees as "/" is as in its image.
    assert mode(private / "upper") == 0o711
    assert root_filesystems.runs() == {"one"}
    assert root_filesystems.private("one") == private


def test_an_image_without_layers_has_the_skeletons_root(
    root_filesystems: RootFilesystems, overlays: Overlays, bundle: Path, tmp_path: Path
) -> None:
    root_filesystems.mount("one", [], bundle)
    assert overlays.lower == [tmp_path / "data" / "base" / "skeleton"]
    assert mode(tmp_path / "data" / "overlay" / "one" / "upper") == 0o755


def test_the_skeleton_hides_what_the_runtime_mounts_over(
    root_filesystems: RootFilesystems, tmp_path: Path
) -> None:
    skeleton = tmp_path / "data" / "base" / "skeleton"
    assert mode(skeleton.parent) == 0o700
    found = {entry.name: mode(entry) for entry in skeleton.iterdir()}
    assert found == {"tmp": 0o1777, **dict.fromkeys(("dev", "etc", "proc", "run", "sys"), 0o755)}
    assert {entry.name: mode(entry) for entry in (skeleton / "etc").iterdir()} == dict.fromkeys(FILES, 0o644)


def test_a_missing_layer_stalls_and_a_full_disk_does_not(
    root_filesystems: RootFilesystems, overlays: Overlays, bundle: Path, tmp_path: Path
) -> None:
    overlays.error = FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "gone"))
    with pytest.raises(Stalled, match="gone does not exist"):
        root_filesystems.mount("one", layers(tmp_path, 0o755), bundle)
    overlays.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(Retry, match="No space left"):
        root_filesystems.mount("two", [tmp_path / "layer-0"], bundle)


def test_layers_of_another_namespace_are_mapped_one_by_one(
    root_filesystems: RootFilesystems,
    overlays: Overlays,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mapped: list[tuple[str, int | None, bool]] = []

    def bind(source: int, target: Path, *, read_only: bool, mapping: int | None) -> None:
        del target
        mapped.append((str(Path(f"/proc/self/fd/{source}").readlink()), mapping, read_only))

    monkeypatch.setattr(mounts, "bind", bind)
    (layer,) = layers(tmp_path, 0o755)
    root_filesystems.mount("one", [layer], bundle, IdMapping(IdRange(base=1 << 30, size=65536), 99))
    assert overlays.lower == [bundle / "layers" / "1", bundle / "layers" / "0"]
    skeleton = str(tmp_path / "data" / "base" / "skeleton")
    assert mapped == [(str(layer), 99, True), (skeleton, 99, True)]

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(mounts, "bind", refuse)
    with pytest.raises(Stalled, match="cannot map ids"):
        root_filesystems.mount("two", [layer], bundle, IdMapping(IdRange(base=1 << 30, size=65536), 99))


def test_what_a_run_wrote_goes_with_it(
    root_filesystems: RootFilesystems, overlays: Overlays, bundle: Path, tmp_path: Path
) -> None:
    root_filesystems.mount("one", [], bundle)
    assert overlays.private is not None
    (overlays.private[0] / "written").touch()
    root_filesystems.remove("one")
    root_filesystems.remove("one")
    assert root_filesystems.runs() == frozenset()
    wait_for(lambda: list((tmp_path / "data" / "trash").iterdir()) == [], "it is deleted")


def test_an_older_agents_open_skeleton_is_removed_once_unused(tmp_path: Path) -> None:
    old = tmp_path / "data" / "skeleton"
    (old / "tmp" / "planted").mkdir(parents=True)
    (tmp_path / "data" / "overlay" / "one").mkdir(parents=True)
    RootFilesystems(tmp_path / "data").close()
    assert mode(old) == 0o700
    assert list((old / "tmp").iterdir()) == []
    (tmp_path / "data" / "overlay" / "one").rmdir()
    RootFilesystems(tmp_path / "data").close()
    assert not old.exists()
