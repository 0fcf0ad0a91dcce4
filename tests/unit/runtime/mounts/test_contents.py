"""The files of runs: whole, of the digest in their names, and gone with their runs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import structlog

from tank_agent.errors import Retry
from tank_agent.linux import mounts
from tank_agent.runtime.mounts import contents as module
from tank_agent.runtime.mounts.contents import Contents, Owned, Payload

OWN = Owned(uid=os.getuid(), gid=os.getgid(), mode=0o440)


def payload(text: str, *, secret: bool = False) -> Payload:
    return Payload(read=lambda: (text.encode(), f"digest-of-{text}"), secret=secret)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    return tmp_path / "bundle"


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Note mounts in the place of making them."""
    made: list[tuple[str, str]] = []
    monkeypatch.setattr(mounts, "mount", lambda _s, _t, kind, _f, options="": made.append((kind, options)))
    monkeypatch.setattr(mounts, "unmount_all", lambda _: made.clear())
    monkeypatch.setattr(module, "_is_mounted", lambda _: bool(made))
    return made


def test_a_file_is_written_once_for_each_content_and_kept_while_it_is_delivered(
    tmp_path: Path, bundle: Path
) -> None:
    made = Contents(tmp_path / "run")
    assert made.write("r", bundle, "/conf", payload("one"), OWN) == "digest-of-one"
    first = made.source("r", bundle, "/conf", "digest-of-one")
    assert first is not None
    assert (first.read_text(), first.stat().st_mode & 0o7777) == ("one", 0o440)
    assert made.source("r", bundle, "/conf", "digest-of-two") is None
    # The owner and the permissions of the former one.
    assert made.write_again("r", bundle, "/conf", payload("two")) == "digest-of-two"
    second = made.source("r", bundle, "/conf", "digest-of-two")
    assert second is not None
    assert (second.read_text(), second.stat().st_mode & 0o7777) == ("two", 0o440)
    assert first.read_text() == "one"
    inode = first.stat().st_ino
    made.write_again("r", bundle, "/conf", payload("one"))
    assert first.stat().st_ino == inode
    # Another path with the same beginning has its own.
    with pytest.raises(Retry, match="was removed"):
        made.write_again("r", bundle, "/conf2", payload("two"))


def test_a_half_written_file_is_begun_anew(tmp_path: Path, bundle: Path) -> None:
    made = Contents(tmp_path / "run")
    made.write("r", bundle, "/conf", payload("one"), OWN)
    file = made.source("r", bundle, "/conf", "digest-of-one")
    assert file is not None
    file.rename(f"{file}.new")
    made.write("r", bundle, "/conf", payload("one"), OWN)
    assert file.read_text() == "one"
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_secrets_are_mounted_with_the_first_and_unmounted_with_the_last(
    tmp_path: Path, bundle: Path, mounted: list[tuple[str, str]]
) -> None:
    made = Contents(tmp_path)
    for run in ("a", "b"):
        made.write(run, bundle, "/key", payload("x", secret=True), OWN)
    assert mounted == [("tmpfs", f"mode=0700,size={64 << 20},noswap")]
    made.remove("a")
    assert mounted
    made.sweep({"b", "c"})
    assert mounted
    assert made.source("b", bundle, "/key", "digest-of-x") is not None
    made.sweep(())
    assert not mounted
    assert not (tmp_path / "secrets").exists()
    made.remove("b")


def test_without_noswap_secrets_are_in_a_ramfs_which_is_said_once(
    tmp_path: Path, bundle: Path, mounted: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mount(_source: str, _target: Path, kind: str, _flags: int, options: str) -> None:
        if "noswap" in options:
            raise OSError(errno.EINVAL, "invalid")
        mounted.append((kind, options))

    monkeypatch.setattr(mounts, "mount", mount)
    made = Contents(tmp_path)
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            made.write("a", bundle, "/key", payload("x", secret=True), OWN)
            assert mounted == [("ramfs", "mode=0700")]
            made.remove("a")
    assert len(logged) == 1


def test_what_cannot_be_had_is_said_by_whom_it_is(tmp_path: Path, bundle: Path) -> None:
    def read() -> tuple[bytes, str]:
        raise Retry("secret key: no identity fits")

    with pytest.raises(Retry, match="no identity fits"):
        Contents(tmp_path).write("a", bundle, "/key", Payload(read=read), OWN)
    bundle.rmdir()
    with pytest.raises(Retry, match="mount /conf: cannot write"):
        Contents(tmp_path).write("a", bundle, "/conf", payload("x"), OWN)


@pytest.mark.parametrize("number", range(8))
def test_what_a_killed_agent_left_half_written_gives_nobody_its_owner(
    tmp_path: Path, bundle: Path, number: int
) -> None:
    made = Contents(tmp_path / "run")
    made.write("r", bundle, "/conf", payload("4"), OWN)
    file = made.source("r", bundle, "/conf", "digest-of-4")
    assert file is not None
    # Of any digest, since the first of them by name was taken.
    half = file.with_name(f"{file.name[:-1]}{number}.new")
    half.touch(mode=0o600)
    made.write_again("r", bundle, "/conf", payload(f"{number}"))
    found = made.source("r", bundle, "/conf", f"digest-of-{number}")
    assert found is not None and found.stat().st_mode & 0o7777 == OWN.mode
