"""Every way in which people and tools write pod files wakes at once, one row each."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tank_agent.source import watch
from tests.unit.source.test_watch import Watched

DEADLINE = 60.0


def text(path: Path, content: str) -> None:
    path.write_text(content)


def config_map(pods: Path, other: Path) -> None:
    for version in "ab":
        (pods / f"..2024_{version}").mkdir()
        text(pods / f"..2024_{version}" / "web.toml", version)
    (pods / "..data").symlink_to("..2024_a")
    (pods / "web.toml").symlink_to("..data/web.toml")


def swap_config_map(pods: Path, other: Path) -> None:
    (pods / "..data_tmp").symlink_to("..2024_b")
    (pods / "..data_tmp").rename(pods / "..data")
    shutil.rmtree(pods / "..2024_a")


def link(pods: Path, other: Path) -> None:
    text(other / "web.toml", "a")
    (pods / "web.toml").symlink_to(other / "web.toml")


def chain(pods: Path, other: Path) -> None:
    """A link to a link in a linked directory, as stow and nix make them."""
    (other / "store-1").mkdir()
    (other / "store-2").mkdir()
    for store in ("store-1", "store-2"):
        text(other / store / "web.toml", store)
    (other / "current").symlink_to("store-1")
    (other / "web").symlink_to("current/web.toml")
    (pods / "web.toml").symlink_to(other / "web")


def switch(pods: Path, other: Path) -> None:
    (other / "next").symlink_to("store-2")
    (other / "next").rename(other / "current")


def plain(pods: Path, other: Path) -> None:
    text(pods / "web.toml", "a")


def rename_into_place(pods: Path, other: Path) -> None:
    text(other / "new", "b")
    (other / "new").rename(pods / "web.toml")


def hidden_temporary(pods: Path, other: Path) -> None:
    """As rsync, syncthing and sed -i do it."""
    text(pods / ".web.toml.Ab12Cd", "b")
    (pods / ".web.toml.Ab12Cd").rename(pods / "web.toml")


def backup_by_rename(pods: Path, other: Path) -> None:
    """As emacs and vim do it."""
    (pods / "web.toml").rename(pods / "web.toml~")
    text(pods / "web.toml", "b")
    (pods / "web.toml~").unlink()


def exchange(pods: Path, other: Path) -> None:
    text(other / "web.toml", "b")
    program = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None, use_errno=True);"
        "a, b = map(os.fsencode, sys.argv[1:]);"
        "sys.exit(libc.renameat2(-100, a, -100, b, 2))"
    )
    subprocess.run([sys.executable, "-c", program, other / "web.toml", pods / "web.toml"], check=True)


def unnamed_file(pods: Path, other: Path) -> None:
    """O_TMPFILE and linkat, as systemd and Go's renameio do it."""
    fd = os.open(pods, os.O_TMPFILE | os.O_WRONLY)
    os.write(fd, b"b")
    os.link(
        f"/proc/self/fd/{fd}", pods / "new.toml", src_dir_fd=os.open("/", os.O_RDONLY), follow_symlinks=True
    )
    os.close(fd)


def mapped(pods: Path, other: Path) -> None:
    with (pods / "web.toml").open("r+b") as file, mmap.mmap(file.fileno(), 1) as content:
        content[:1] = b"b"


def shell(command: str) -> Callable[[Path, Path], None]:
    def write(pods: Path, other: Path) -> None:
        subprocess.run(["/bin/sh", "-c", command], cwd=pods, check=True, timeout=60)

    return write


def nothing(pods: Path, other: Path) -> None:
    pass


def move_parent(pods: Path, other: Path) -> None:
    """A tree that is deployed whole takes the place of the former one."""
    grandparent = pods.parent.parent
    (grandparent / "new" / "tank" / "pods.d").mkdir(parents=True)
    text(grandparent / "new" / "tank" / "pods.d" / "web.toml", "b")
    pods.parent.rename(grandparent / "old")
    (grandparent / "new" / "tank").rename(pods.parent)


def move_grandparent(pods: Path, other: Path) -> None:
    top = pods.parent.parent
    (top.parent / "fresh" / "tank" / "pods.d").mkdir(parents=True)
    top.rename(top.parent / "stale")
    (top.parent / "fresh").rename(top)


WRITERS: dict[str, tuple[Callable[[Path, Path], None], Callable[[Path, Path], None]]] = {
    "ConfigMap": (config_map, swap_config_map),
    "target of a link": (link, lambda pods, other: text(other / "web.toml", "b")),
    "target of a link, renamed into place": (
        link,
        lambda pods, other: (text(other / "n", "b"), (other / "n").rename(other / "web.toml"))[0],
    ),
    "target of a link, removed": (link, lambda pods, other: (other / "web.toml").unlink()),
    "target of a link that was not there": (
        lambda pods, other: (pods / "web.toml").symlink_to(other / "web.toml"),
        lambda pods, other: text(other / "web.toml", "b"),
    ),
    "link in a chain": (chain, switch),
    "end of a chain": (chain, lambda pods, other: text(other / "store-1" / "web.toml", "b")),
    "redirection": (plain, shell("echo b > web.toml")),
    "cp": (plain, shell("echo b > .n; cp .n web.toml")),
    "cp -a": (plain, shell("touch -d 2001-01-01 .n; cp -a .n web.toml")),
    "install": (plain, shell("echo b > .n; install -m 644 .n web.toml")),
    "sed -i": (plain, shell("sed -i s/a/b/ web.toml")),
    "tar": (plain, shell("echo b > web.toml; tar cf .t web.toml; rm web.toml; tar xf .t")),
    "ln -f": (plain, shell("echo b > .n; ln -f .n web.toml")),
    "ln -sf": (plain, shell("echo b > .n; ln -sf .n web.toml")),
    "dd in place": (plain, shell("printf b | dd of=web.toml conv=notrunc status=none")),
    "truncate": (plain, shell("truncate -s 0 web.toml")),
    "rm": (plain, shell("rm web.toml")),
    "rename into place": (plain, rename_into_place),
    "hidden temporary file": (plain, hidden_temporary),
    "backup by rename": (plain, backup_by_rename),
    "exchange": (plain, exchange),
    "unnamed file": (plain, unnamed_file),
    "mmap": (plain, mapped),
    "parent moved": (plain, move_parent),
    "grandparent moved": (plain, move_grandparent),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_is_seen_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str) -> None:
    # No check finds later what no event told.
    monkeypatch.setattr(watch, "CHECK_EVERY", 3600.0)
    prepare, write = WRITERS[writer]
    pods, other = tmp_path / "etc" / "tank" / "pods.d", tmp_path / "elsewhere"
    pods.mkdir(parents=True)
    other.mkdir()
    prepare(pods, other)
    watched = Watched(pods)
    assert watched.watcher.start() is None
    try:
        watched.wait_until_armed()
        write(pods, other)
        watched.wakes.get(timeout=DEADLINE)
        # And so is whatever comes next, in what is there now.
        deadline = time.monotonic() + DEADLINE
        while not watched.watcher.wait_for_marker(pods, 0.2):
            assert time.monotonic() < deadline, "the directory is not watched any more"
    finally:
        watched.watcher.stop()


_MOUNTS = """
import os, pathlib, subprocess, sys
from tank_agent.source import watch
from tests.unit.source.test_watch import Watched

watch.CHECK_EVERY = 3600.0
home = pathlib.Path(sys.argv[1])
pods, other = home / "pods.d", home / "other"
for directory in (pods, other):
    directory.mkdir()
    (directory / "web.toml").write_text("a")
watched = Watched(pods)
assert watched.watcher.start() is None
watched.wait_until_armed()
for what in (
    ["mount", "--bind", other, pods],
    ["umount", pods],
    ["mount", "-t", "tmpfs", "tmpfs", pods],
    ["umount", pods],
    # Two names of one file: not on an overlay, which /tmp may be, since it takes them for two.
    ["ln", "-f", other / "web.toml", pods / "web.toml"],
    ["sh", "-c", "echo b > other/web.toml"],
    ["rm", pods / "web.toml"],
    ["cp", other / "web.toml", pods / "web.toml"],
    ["mount", "--bind", other / "web.toml", pods / "web.toml"],
    ["sh", "-c", "echo b > other/web.toml"],
    ["umount", pods / "web.toml"],
    ["sh", "-c", "mkdir u w; mount -t overlay o -o lowerdir=other:pods.d,upperdir=u,workdir=w pods.d"],
    ["sh", "-c", "echo b > pods.d/web.toml"],
    ["umount", pods],
):
    subprocess.run(what, cwd=home, check=True)
    watched.wakes.get(timeout=60)
    watched.wait_until_armed()
watched.watcher.stop()
print("fine")
"""


@pytest.mark.machine
def test_mounts_over_the_directory_or_a_file_and_writers_by_another_name_are_seen_at_once(
    tmp_path: Path,
) -> None:
    # Not on an overlay, which can't be a layer's work directory.
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    script = 'mount -t tmpfs tmpfs "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [*command, script, "sh", str(tmp_path), sys.executable, _MOUNTS],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)
