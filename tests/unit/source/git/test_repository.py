"""Repositories on this machine: made, read, watched; and copying the fetch of an untrusted helper."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.source.git.access import GitError
from tank_agent.source.git.repository import Repository, clean, init_bare, read_local_ref, scratch_directory
from tank_agent.source.watch import RefWatcher
from tests.support.git import ENVIRONMENT, Work, wait_until


def local_ref(path: Path, name: str) -> str | None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return read_local_ref(fd, name)
    finally:
        os.close(fd)


def test_a_bare_repository_takes_pushes(tmp_path: Path) -> None:
    work = Work(tmp_path)
    made = tmp_path / "new" / "fleet.git"
    assert init_bare(made)
    assert not init_bare(made)
    assert subprocess.run(["git", "-C", made, "fsck"], env=ENVIRONMENT, check=False).returncode == 0
    assert local_ref(made, "HEAD") is None
    work.write("a.toml")
    first = work.commit("first", push=False)
    work.git("push", "--quiet", str(made), "main")
    assert local_ref(made, "HEAD") == local_ref(made, "refs/heads/main") == first
    work.git("commit", "--quiet", "--amend", "-m", "other")
    # Rewritten history would be refused by the machine: so it is already at the push.
    with pytest.raises(AssertionError, match="non-fast-forward"):
        work.git("push", "--quiet", "--force", str(made), "main")


def test_an_interrupted_init_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "x.git/objects/pack").mkdir(parents=True)
    assert init_bare(tmp_path / "x.git")
    (tmp_path / "y").mkdir()
    (tmp_path / "y/file").write_text("")
    for path in (tmp_path / "y", tmp_path / "y/file"):
        with pytest.raises(Stalled):
            init_bare(path)


def test_refs_are_found_packed_and_loose(tmp_path: Path) -> None:
    work = Work(tmp_path)
    first = work.commit("first")
    work.git("tag", "-a", "-m", "x", "v1")
    work.git("push", "--quiet", "origin", "v1")
    tag = work.git("rev-parse", "v1")
    for _ in range(2):
        assert local_ref(work.bare, "refs/heads/main") == local_ref(work.bare, "HEAD") == first
        assert local_ref(work.bare, "refs/tags/v1") == tag
        work.run("git", "-C", str(work.bare), "pack-refs", "--all")
    second = work.commit("second")
    assert local_ref(work.bare, "refs/heads/main") == second


def test_refs_that_lead_elsewhere_are_not_read(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.commit("first")
    (tmp_path / "outside").write_text("1" * 40 + "\n")
    (work.bare / "refs/heads/link").symlink_to(tmp_path / "outside")
    (work.bare / "refs/heads/up").write_text("ref: ../outside\n")
    (work.bare / "refs/heads/loop").write_text("ref: refs/heads/loop\n")
    (work.bare / "refs/heads/text").write_text("no name\n")
    os.mkfifo(work.bare / "refs/heads/fifo")
    for name in ("link", "up", "loop", "text", "fifo", "none", "../outside"):
        assert local_ref(work.bare, f"refs/heads/{name}") is None


def test_a_push_wakes_and_reading_does_not(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.commit("first")
    woken = threading.Semaphore(0)
    watcher = RefWatcher(work.bare, woken.release)
    try:
        assert watcher.check() is None
        for _ in range(10):
            local_ref(work.bare, "HEAD")
        work.commit("second")
        assert woken.acquire(timeout=60)

        def reading_wakes_nobody() -> bool:
            while woken.acquire(timeout=0.2):
                pass
            assert local_ref(work.bare, "HEAD") == work.head()
            return not woken.acquire(timeout=0.2)

        # What is left to tell of the push may come late.
        wait_until(reading_wakes_nobody)
        work.run("git", "-C", str(work.bare), "pack-refs", "--all")
        assert woken.acquire(timeout=60)
        # Moved away and put back, it is watched again at the next look.
        work.bare.rename(tmp_path / "away")
        assert "can't watch" in (watcher.check() or "")
        subprocess.run(["cp", "-a", tmp_path / "away", work.bare], check=True)
        wait_until(lambda: watcher.check() is None)
        while woken.acquire(blocking=False):
            pass
        work.commit("third")
        assert woken.acquire(timeout=60)
    finally:
        watcher.stop()


PACK = "pack-" + "a" * 40


def fill(scratch: Path, name: str = PACK) -> Path:
    pack = scratch / "objects/pack"
    pack.mkdir(parents=True)
    (pack / f"{name}.pack").write_bytes(b"P" * 1000)
    (pack / f"{name}.idx").write_bytes(b"I" * 100)
    return pack


def taken(tmp_path: Path, prepare) -> list[str]:  # type: ignore[no-untyped-def]
    repository = Repository(tmp_path / "repository")
    repository.prepare()
    with scratch_directory(tmp_path) as (path, fd):
        prepare(path)
        repository.take_over(fd, 2000)
    assert not list(tmp_path.glob("scratch-*"))
    return sorted(entry.name for entry in (repository.objects / "pack").iterdir())


def test_packs_are_taken_over(tmp_path: Path) -> None:
    def prepare(path: Path) -> None:
        fill(path)
        (path / "shallow").write_text("b" * 40 + "\n../../etc\n")
        (path / "objects/pack/evil").write_text("x")
        (path / "objects/pack/pack-half.pack").write_text("x")

    assert taken(tmp_path, prepare) == [f"{PACK}.idx", f"{PACK}.pack"]
    assert (tmp_path / "repository/shallow").read_text() == "b" * 40 + "\n"


def make_link(path: Path) -> None:
    pack = fill(path)
    (pack / f"{PACK}.pack").unlink()
    (pack / f"{PACK}.pack").symlink_to("/etc/shadow")


def make_fifo(path: Path) -> None:
    pack = fill(path)
    (pack / f"{PACK}.pack").unlink()
    os.mkfifo(pack / f"{PACK}.pack")


def make_directory_link(path: Path) -> None:
    (path / "objects").mkdir()
    (path / "objects/pack").symlink_to("/etc")


def make_large(path: Path) -> None:
    os.truncate(fill(path) / f"{PACK}.pack", 1 << 40)


def make_large_boundary(path: Path) -> None:
    fill(path)
    (path / "shallow").touch()
    os.truncate(path / "shallow", 1 << 40)


@pytest.mark.parametrize(
    "prepare", [make_link, make_fifo, make_directory_link, make_large, make_large_boundary]
)
def test_what_is_no_fetch_is_refused(tmp_path: Path, prepare) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GitError):
        taken(tmp_path, prepare)


def test_a_pack_without_its_index_is_left(tmp_path: Path) -> None:
    def prepare(path: Path) -> None:
        (fill(path) / f"{PACK}.idx").unlink()

    assert taken(tmp_path, prepare) == []


def test_leftovers_are_removed_and_links_not_followed(tmp_path: Path) -> None:
    for name in ("scratch-1", "repository.new", "repository.old", "repository"):
        (tmp_path / "git" / name).mkdir(parents=True)
    (tmp_path / "precious").write_text("x")
    (tmp_path / "git/scratch-1/link").symlink_to(tmp_path)
    clean(tmp_path / "git")
    assert [entry.name for entry in (tmp_path / "git").iterdir()] == ["repository"]
    assert (tmp_path / "precious").exists()
