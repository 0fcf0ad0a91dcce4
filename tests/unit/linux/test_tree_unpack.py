"""Archives are stored below their directory only, and files are replaced as a whole."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tank_agent.linux.copy_target import open_target, own_descriptors
from tank_agent.linux.kernel_files import KernelFiles
from tank_agent.linux.paths import Closing
from tank_agent.linux.tar_stream import CopyError, TarReader
from tank_agent.linux.tree_pack import Notes
from tank_agent.linux.tree_unpack import Options, Unpacker


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    info.mode = 0o6755
    return info, content


def store(
    target: Path,
    *members: tuple[tarfile.TarInfo, bytes],
    base: bytes | None = None,
    owners: bool = False,
    umask: int = 0,
) -> list[str]:
    """Store an archive, and return the notes."""
    made, notes = io.BytesIO(), list[str]()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    made.seek(0)
    place = open_target(os.fspath(target), os.path.realpath, os.open)
    with Closing(place.anchor), own_descriptors() as descriptors:
        kernel = KernelFiles(allowed=True)
        unpacker = Unpacker(TarReader(made), place, descriptors, Notes(notes.append), kernel)
        unpacker.unpack(Options(base, owners=owners, umask=umask))
    return notes


@pytest.mark.parametrize(
    "members",
    [
        [member("../out", b"bad")],
        [member("a/../../out", b"bad")],
        [member("link", kind=tarfile.SYMTYPE, link=".."), member("link/out", b"bad")],
        [member("link", kind=tarfile.SYMTYPE, link=".."), member("link/out", kind=tarfile.DIRTYPE)],
        [member("link", kind=tarfile.SYMTYPE, link=".."), member("link", kind=tarfile.DIRTYPE)],
        [member("hard", kind=tarfile.LNKTYPE, link="../secret")],
        [
            member("link", kind=tarfile.SYMTYPE, link=".."),
            member("hard", kind=tarfile.LNKTYPE, link="link/secret"),
        ],
        [member("there/out", b"bad")],
    ],
)
def test_names_and_links_lead_nowhere_else(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    (tmp_path / "secret").write_text("of the host")
    target = tmp_path / "in"
    target.mkdir()
    (target / "there").symlink_to(tmp_path)
    with pytest.raises(CopyError):
        store(target, *members)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", "secret"]
    assert not (target / "hard").exists()


def test_an_absolute_name_is_below_too(tmp_path: Path) -> None:
    store(tmp_path, member("/etc/x", b"y"))
    assert (tmp_path / "etc/x").read_bytes() == b"y"


def test_a_file_that_is_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    target = tmp_path / "in"
    target.mkdir()
    (target / "x").symlink_to(tmp_path / "secret")
    store(target, member("x", b"new"))
    assert (tmp_path / "secret").read_text() == "mine"
    assert (target / "x").read_bytes() == b"new"
    assert not (target / "x").is_symlink()


def test_devices_are_left_out_and_setuid_bits(tmp_path: Path) -> None:
    notes = store(
        tmp_path, member("dev", kind=tarfile.CHRTYPE), member("pipe", kind=tarfile.FIFOTYPE), member("x")
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
    assert len(notes) == 2
    assert (tmp_path / "x").stat().st_mode & 0o7777 == 0o755


def test_names_that_were_not_asked_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CopyError, match="not asked for"):
        store(tmp_path, member("x", b"1"), member("y", b"2"), base=b"x")


def test_a_single_file_is_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("old")
    cut = io.BytesIO()
    with tarfile.open(fileobj=cut, mode="w") as archive:
        archive.addfile(*_with_content("x", b"n" * 100_000))
    place = open_target(os.fspath(tmp_path / "x"), os.path.realpath, os.open)
    short = TarReader(io.BytesIO(cut.getvalue()[:5000]))
    with Closing(place.anchor), own_descriptors() as descriptors, pytest.raises(CopyError, match="too early"):
        Unpacker(short, place, descriptors, Notes(print), KernelFiles(allowed=True)).unpack(Options(b"x"))
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("x", "old")]


def _with_content(name: str, content: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info, _ = member(name, content)
    return info, io.BytesIO(content)


@pytest.mark.parametrize("number", [95, 21, 22])
def test_without_nameless_files_a_name_beside_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real: Callable[..., int] = os.open

    def opened(path: str | bytes, flags: int, *rest: int, **named: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, "no")
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", opened)
    (tmp_path / "x").write_text("old")
    store(tmp_path / "x", member("x", b"new"), base=b"x")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("x", "new")]


def test_a_file_without_a_name_that_gets_none_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(1, "no")

    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "x").write_text("old")
    store(tmp_path / "x", member("x", b"new"), base=b"x")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("x", "new")]


def test_a_hostile_number_of_levels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CopyError, match="deeper"):
        store(tmp_path, member("d/" * 1000 + "x"))


def test_the_umask_takes_from_modes_unless_they_are_kept(tmp_path: Path) -> None:
    store(tmp_path, member("d", kind=tarfile.DIRTYPE), member("x"), umask=0o027)
    assert [(tmp_path / name).stat().st_mode & 0o7777 for name in ("d", "x")] == [0o750, 0o750]
    store(tmp_path / "y", member("x"), base=b"x", umask=0o077)
    assert (tmp_path / "y").stat().st_mode & 0o7777 == 0o700
    if os.getuid() == 0:
        store(tmp_path / "z", member("x"), base=b"x", umask=0o077, owners=True)
        assert (tmp_path / "z").stat().st_mode & 0o7777 == 0o6755
