"""The directory source and the journal together, on real file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tank_agent.journal.journal import Journal
from tank_agent.journal.store import MemoryStore
from tank_agent.journal.transitions import Applied
from tank_agent.linux import whole_files
from tank_agent.linux.whole_files import BEING_WRITTEN
from tank_agent.settings.settings import Settings
from tank_agent.source import files as file_module
from tank_agent.source.directory import DirectorySource, snapshot_of_texts
from tank_agent.source.kinds import owner_is_there
from tank_agent.source.snapshot import Snapshot
from tests.support.private_mounts import program_with_private_mounts

DEADLINE = 30.0


class FakeMonotonic:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def text(command: str = "sleep 1", name: str | None = None) -> str:
    head = f'name = "{name}"\n' if name else ""
    words = ", ".join(f'"{word}"' for word in command.split())
    return f'{head}[[containers]]\nname = "app"\nrootfs = "/srv/app"\ncommand = [{words}]\n'


class Machine:
    """A pods.d, its source, and the journal that it is merged into."""

    def __init__(self, base: Path) -> None:
        self.pods = base / "pods.d"
        self.pods.mkdir()
        self.monotonic = FakeMonotonic()
        self.store = MemoryStore()
        self.start()

    def start(self, path: Path | None = None, *, optional: bool = False) -> None:
        """Start the agent again."""
        owner_exists = partial(owner_is_there, settings=Settings())
        self.journal = Journal(self.store, clock=time.time, owner_exists=owner_exists)
        self.source = DirectorySource(
            path or self.pods,
            remember=self.journal.remember,
            recall=self.journal.recall,
            monotonic=self.monotonic,
            optional=optional,
            owners=lambda: {pod.owner for pod in self.journal.desired().values()},
        )

    def look(self) -> Applied:
        return self.journal.merge(self.source.snapshot())

    def look_twice(self) -> Applied:
        """Look, and again when a file that vanished is surely gone."""
        self.look()
        self.monotonic.now += 1
        return self.look()

    def running(self) -> dict[str, str]:
        return {
            name: " ".join(found.pod.containers[0].command or ())
            for name, found in self.journal.desired().items()
        }

    def problems(self) -> list[str]:
        return [str(problem) for problem in self.journal.problems()]

    def error(self, name: str) -> str | None:
        found = self.journal.get(name)
        assert found is not None
        return found.error

    def rename_into(self, name: str, content: str) -> None:
        (self.pods / f".{name}.new").write_text(content)
        (self.pods / f".{name}.new").rename(self.pods / name)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# What counts.


def test_toml_files_count_and_leftovers_do_not(machine: Machine) -> None:
    (machine.pods / "web.toml").write_text(text())
    leftovers = (
        ".web.toml.swp",
        ".hidden.toml",
        "web.toml~",
        "4913",
        "web.toml.bak",
        "#web.toml#",
        "web.yaml",
    )
    for leftover in leftovers:
        (machine.pods / leftover).write_text(text())
    (machine.pods / "sub").mkdir()
    (machine.pods / "sub" / "db.toml").write_text(text())
    machine.look()
    assert (machine.running(), machine.problems()) == ({"web": "sleep 1"}, [])
    found = machine.journal.get("web")
    assert found is not None
    assert (found.owner, len(found.revision)) == (f"dir:{machine.pods}/web.toml", 12)


def test_a_link_to_a_file_counts(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(text())
    (machine.pods / "web.toml").symlink_to(tmp_path / "elsewhere")
    machine.look()
    assert machine.running() == {"web": "sleep 1"}
    (tmp_path / "elsewhere").write_text(text("sleep 2"))
    machine.look()
    assert machine.running() == {"web": "sleep 2"}


def test_several_pods_in_one_file(machine: Machine) -> None:
    pods = "\n".join(
        f'[[pods]]\nname = "{name}"\n[[pods.containers]]\nname = "app"\nrootfs = "/r"\ncommand = ["x"]'
        for name in ("a", "b")
    )
    (machine.pods / "both.toml").write_text(pods)
    machine.look()
    assert machine.running() == {"a": "x", "b": "x"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a directory"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "is a link to nowhere, which is not there"),
        (lambda path: path.symlink_to("x.toml"), "can't be read: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (lambda path: path.write_bytes(b"#" * (1 << 20) + b"\n"), "has 1048577 bytes"),
        (lambda path: path.write_bytes(b"# fine\n# \xff\n"), "byte 0xff is not UTF-8"),
    ],
)
def test_what_cannot_be_a_pod_file_is_told_and_holds_up_nothing(
    machine: Machine, make: Callable[[Path], None], message: str
) -> None:
    (machine.pods / "web.toml").write_text(text())
    make(machine.pods / "x.toml")
    looking = threading.Thread(target=machine.look, daemon=True)
    looking.start()
    looking.join(DEADLINE)
    assert not looking.is_alive()
    assert machine.running() == {"web": "sleep 1"}
    (problem,) = machine.problems()
    assert problem.startswith(f"{machine.pods}/x.toml")
    assert message in problem


def test_bad_utf8_is_told_with_its_line(machine: Machine) -> None:
    (machine.pods / "x.toml").write_bytes(b"# fine\n# \xff\n")
    machine.look()
    assert machine.problems()[0].startswith(f"{machine.pods}/x.toml:2: ")


def test_a_name_that_cannot_be_printed_is_told(machine: Machine) -> None:
    (machine.pods / "we\nb.toml").write_text(text())
    os.close(os.open(os.fsencode(machine.pods) + b"/\xff.toml", os.O_CREAT | os.O_WRONLY))
    machine.look()
    assert machine.running() == {}
    assert all("has a name that can't be printed" in problem for problem in machine.problems())
    assert len(machine.problems()) == 2


def test_a_file_at_the_limit_counts(machine: Machine) -> None:
    content = text()
    (machine.pods / "web.toml").write_text(content + "#" * ((1 << 20) - len(content)))
    machine.look()
    assert machine.running() == {"web": "sleep 1"}


# Edits.


def test_an_atomic_rename_replaces(machine: Machine) -> None:
    machine.rename_into("web.toml", text())
    machine.look()
    machine.rename_into("web.toml", text("sleep 2"))
    assert machine.look().changed == ("web",)
    assert machine.running() == {"web": "sleep 2"}


def test_two_edits_within_a_clock_tick_both_arrive(machine: Machine) -> None:
    path = machine.pods / "web.toml"
    for number in range(200):
        # In place, so the inode stays; the same size, so only the times can tell.
        path.write_text(text(f"sleep {number:03}"))
        machine.look()
        assert machine.running() == {"web": f"sleep {number:03}"}


def test_a_young_file_asks_for_another_look(machine: Machine) -> None:
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    delay = machine.source.settle_after()
    assert delay is not None and 0 < delay <= 0.1
    deadline = time.monotonic() + 60
    while machine.source.settle_after() is not None:
        assert time.monotonic() < deadline
        machine.look()
    assert machine.source.snapshot() is machine.source.snapshot()


def test_the_same_text_in_a_new_file_changes_nothing(machine: Machine) -> None:
    machine.rename_into("web.toml", text())
    machine.look()
    machine.rename_into("web.toml", text())
    assert machine.look() == Applied()


def test_a_file_that_is_open_for_writing_waits(machine: Machine) -> None:
    path = machine.pods / "web.toml"
    path.write_text(text())
    machine.look()
    with path.open("w") as file:
        # Cut to nothing, then half of the text: what a slow `cp` looks like.
        machine.look()
        assert machine.running() == {"web": "sleep 1"}
        assert machine.error("web") == f"{path}: {BEING_WRITTEN}"
        file.write(text("sleep 2")[:40])
        file.flush()
        machine.look()
        assert machine.running() == {"web": "sleep 1"}
        file.write(text("sleep 2")[40:])
    assert machine.look().changed == ("web",)
    assert (machine.running(), machine.error("web")) == ({"web": "sleep 2"}, None)


def test_a_new_file_that_another_process_writes_waits(machine: Machine) -> None:
    script = (
        "import sys\nwith open(sys.argv[1], 'w') as file:\n"
        "    file.write(sys.argv[2][:50]); file.flush(); print('half', flush=True)\n"
        "    sys.stdin.read(1); file.write(sys.argv[2][50:])\nprint('done', flush=True)"
    )
    command = [sys.executable, "-c", script, str(machine.pods / "web.toml"), text()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdin is not None
        assert writer.stdout.readline() == "half\n"
        machine.look()
        assert machine.running() == {}
        assert machine.problems() == [f"{machine.pods}/web.toml: {BEING_WRITTEN}"]
        writer.stdin.write("x")
        writer.stdin.close()
        assert writer.stdout.readline() == "done\n"
    machine.look()
    assert (machine.running(), machine.problems()) == ({"web": "sleep 1"}, [])


def test_a_writer_in_a_loop_is_never_seen_half_way(machine: Machine) -> None:
    path = machine.pods / "web.toml"
    path.write_text(text("sleep 0"))
    machine.look()
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with path.open("w", buffering=1) as file:
                for line in text(f"sleep {number}").splitlines(keepends=True):
                    file.write(line)
        with path.open("w") as file:
            file.write(text("sleep end"))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(500):
            machine.look()
            assert list(machine.running()) == ["web"]
            assert {problem.partition(": ")[2] for problem in machine.problems()} <= {BEING_WRITTEN}
    finally:
        stop.set()
        writer.join(60)
    machine.look()
    assert (machine.running(), machine.problems()) == ({"web": "sleep end"}, [])


def test_a_reader_does_not_kill_or_block_a_writer(machine: Machine) -> None:
    path = machine.pods / "web.toml"
    path.write_text(text())
    directory = os.open(machine.pods, os.O_RDONLY)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            file_module.read_file(directory, "web.toml")

    def write() -> None:
        for _ in range(300):
            path.write_text(text())

    reader, writer = threading.Thread(target=read), threading.Thread(target=write, daemon=True)
    reader.start()
    writer.start()
    # A lease that is not given back would hold up one write for 45 s (/proc/sys/fs/lease-break-time).
    writer.join(DEADLINE)
    stop.set()
    reader.join(DEADLINE)
    os.close(directory)
    assert not writer.is_alive()


def test_without_leases_a_young_file_waits(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_leases(fd: int) -> None:
        return None

    monkeypatch.setattr(whole_files, "has_writer", no_leases)
    # So that it is young even if this test is held up.
    monkeypatch.setattr(whole_files, "SETTLE", 3.0)
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    assert machine.running() == {}
    deadline = time.monotonic() + 60
    while machine.running() != {"web": "sleep 1"}:
        assert time.monotonic() < deadline
        assert machine.source.settle_after() is not None
        machine.look()
    assert machine.problems() == []


def test_vim_moves_the_old_file_away_before_it_writes_the_new_one(machine: Machine) -> None:
    path = machine.pods / "web.toml"
    path.write_text(text())
    machine.look()
    (machine.pods / "4913").write_text("")
    (machine.pods / "4913").unlink()
    (machine.pods / ".web.toml.swp").write_text("b0VIM")
    path.rename(machine.pods / "web.toml~")
    machine.look()
    assert machine.running() == {"web": "sleep 1"}
    assert machine.source.settle_after() == pytest.approx(0.2)
    with path.open("w") as file:
        machine.monotonic.now += 1
        machine.look()
        assert machine.running() == {"web": "sleep 1"}
        file.write(text("sleep 2"))
    (machine.pods / "web.toml~").unlink()
    assert machine.look().changed == ("web",)
    assert machine.running() == {"web": "sleep 2"}


def test_a_bad_file_is_held_in_that_moment_too(machine: Machine) -> None:
    path = machine.pods / "web.toml"
    path.write_text(text())
    machine.look()
    path.write_text("restart = \n")
    machine.look()
    path.rename(machine.pods / "web.toml~")
    machine.look()
    assert machine.running() == {"web": "sleep 1"}
    assert machine.look_twice().removed == ("web",)


def test_a_bad_edit_keeps_the_last_good_spec_with_file_and_line(machine: Machine) -> None:
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    machine.rename_into("web.toml", 'restart = "alwys"\n' + text("sleep 2"))
    machine.look()
    assert machine.running() == {"web": "sleep 1"}
    error = machine.error("web")
    assert error is not None and error.startswith(f"{machine.pods}/web.toml:1: restart: ")
    machine.rename_into("web.toml", "this is not toml\n")
    machine.look()
    assert machine.running() == {"web": "sleep 1"}
    error = machine.error("web")
    assert error is not None and error.startswith(f"{machine.pods}/web.toml:1: ")
    machine.rename_into("web.toml", text("sleep 3"))
    machine.look()
    assert (machine.running(), machine.error("web"), machine.problems()) == ({"web": "sleep 3"}, None, [])


def test_an_empty_file_is_a_problem_and_not_a_removal(machine: Machine) -> None:
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    (machine.pods / "web.toml").write_text("")
    machine.look_twice()
    assert machine.running() == {"web": "sleep 1"}
    assert machine.error("web") is not None


# Names.


def test_one_name_in_two_files(machine: Machine) -> None:
    (machine.pods / "b.toml").write_text(text("b", name="web"))
    machine.look()
    (machine.pods / "a.toml").write_text(text("a", name="web"))
    assert machine.look().changed == ()
    assert machine.running() == {"web": "b"}
    (problem,) = machine.problems()
    assert problem.startswith(
        f"{machine.pods}/a.toml:1: name: pod web already belongs to {machine.pods}/b.toml"
    )
    (machine.pods / "b.toml").unlink()
    # An editor may be about to write it again: the other file has to wait for that.
    assert machine.look().changed == ()
    assert machine.look_twice().removed == ()
    assert (machine.running(), machine.problems()) == ({"web": "a"}, [])


def test_a_renamed_file_keeps_its_pod_without_a_moment_of_doubt(machine: Machine) -> None:
    (machine.pods / "a.toml").write_text(text(name="web"))
    machine.look()
    (machine.pods / "a.toml").rename(machine.pods / "b.toml")
    assert machine.look() == Applied(updated=("web",))
    found = machine.journal.get("web")
    assert found is not None
    assert (found.owner, found.generation) == (f"dir:{machine.pods}/b.toml", 1)
    assert machine.problems() == []


def test_a_removed_file_takes_its_pod_after_a_moment(machine: Machine) -> None:
    (machine.pods / "a.toml").write_text(text())
    (machine.pods / "b.toml").write_text(text())
    machine.look()
    (machine.pods / "a.toml").unlink()
    assert machine.look().removed == ()
    machine.monotonic.now += 0.3
    assert machine.look().removed == ("a",)
    assert list(machine.running()) == ["b"]
    assert machine.problems() == []


# Absent is never empty.


def test_a_removed_directory_leaves_the_pods(machine: Machine) -> None:
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    shutil.rmtree(machine.pods)
    machine.look_twice()
    assert machine.running() == {"web": "sleep 1"}
    (problem,) = machine.problems()
    assert problem.startswith(f"{machine.pods}: is not there; the pods that came from it go on")


def test_a_directory_that_nobody_needs_may_be_absent_until_it_had_pods(machine: Machine) -> None:
    machine.pods.rmdir()
    machine.start(optional=True)
    machine.look()
    assert machine.problems() == []
    machine.pods.mkdir()
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    shutil.rmtree(machine.pods)
    for _ in range(2):
        machine.look_twice()
        assert machine.running() == {"web": "sleep 1"}
        (problem,) = machine.problems()
        assert "is not there" in problem
        machine.start(optional=True)


def test_a_directory_made_anew_and_empty_leaves_the_pods(machine: Machine) -> None:
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    shutil.rmtree(machine.pods)
    machine.pods.mkdir()
    for _ in range(2):
        machine.look_twice()
        assert machine.running() == {"web": "sleep 1"}
        (problem,) = machine.problems()
        assert "looks unmounted or replaced" in problem
        assert "tank delete" in problem
        machine.start()
    machine.look()
    assert machine.journal.delete("web") is True
    (machine.pods / "db.toml").write_text(text())
    machine.look()
    assert (list(machine.running()), machine.problems()) == (["db"], [])


def test_a_directory_made_anew_counts_once_it_has_a_pod(machine: Machine) -> None:
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    shutil.rmtree(machine.pods)
    machine.pods.mkdir()
    (machine.pods / "broken.toml").write_text("x")
    machine.look_twice()
    assert list(machine.running()) == ["web"]
    assert len(machine.problems()) == 2
    (machine.pods / "broken.toml").write_text(text())
    machine.look_twice()
    assert list(machine.running()) == ["broken"]


def test_a_directory_emptied_in_place_removes_the_pods(machine: Machine) -> None:
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    (machine.pods / "web.toml").unlink()
    machine.look_twice()
    assert (machine.running(), machine.problems()) == ({}, [])
    # And is as good as any other empty directory from then on.
    machine.pods.rmdir()
    machine.pods.mkdir()
    machine.look_twice()
    assert machine.problems() == []


def test_files_removed_while_the_agent_was_down_remove_their_pods(machine: Machine) -> None:
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    (machine.pods / "web.toml").unlink()
    machine.start()
    machine.look()
    assert machine.running() == {}


def test_a_pods_dir_set_to_an_empty_place_removes_nothing(machine: Machine, tmp_path: Path) -> None:
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    (tmp_path / "other").mkdir()
    machine.start(tmp_path / "other")
    machine.look_twice()
    assert list(machine.running()) == ["web"]


def test_a_linked_directory_that_is_swapped_changes_only_what_differs(
    machine: Machine, tmp_path: Path
) -> None:
    for release, command in (("1", "old"), ("2", "new")):
        (tmp_path / release).mkdir()
        (tmp_path / release / "same.toml").write_text(text())
        (tmp_path / release / "web.toml").write_text(text(command))
    current = tmp_path / "current"
    current.symlink_to("1")
    machine.start(current)
    machine.look()
    (tmp_path / "next").symlink_to("2")
    (tmp_path / "next").rename(current)
    assert machine.look() == Applied(changed=("web",))
    assert machine.running() == {"same": "sleep 1", "web": "new"}


def test_a_file_in_the_place_of_the_directory_is_told(machine: Machine) -> None:
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    shutil.rmtree(machine.pods)
    machine.pods.write_text("")
    machine.look_twice()
    assert list(machine.running()) == ["web"]
    assert "can't be read (Not a directory)" in machine.problems()[0]


_UNMOUNT = """
import subprocess, sys, pathlib
from tests.unit.source.test_directory import Machine, text
base = pathlib.Path(sys.argv[1])
def sh(*argv): subprocess.run(argv, check=True)
machine = Machine(base)
sh("mount", "-t", "tmpfs", "tmpfs", str(machine.pods))
(machine.pods / "web.toml").write_text(text())
machine.look()
assert machine.running() == {"web": "sleep 1"}
sh("umount", str(machine.pods))
machine.look_twice()
assert machine.running() == {"web": "sleep 1"}, "unmounted is not empty"
assert "looks unmounted" in machine.problems()[0], machine.problems()
machine.start()
machine.look_twice()
assert machine.running() == {"web": "sleep 1"}, "nor is it after a restart"
sh("mount", "-t", "tmpfs", "tmpfs", str(machine.pods))
machine.look_twice()
assert machine.running() == {"web": "sleep 1"}, "another empty disk is not the one"
(machine.pods / "db.toml").write_text(text())
machine.look_twice()
assert list(machine.running()) == ["db"], "but its files count"
(machine.pods / "db.toml").unlink()
machine.look_twice()
assert machine.running() == {}, "emptied in place"
sh("umount", str(machine.pods))
machine.look_twice()
assert machine.problems() == []
print("fine")
"""


@pytest.mark.machine
def test_an_unmounted_disk_leaves_the_pods(tmp_path: Path) -> None:
    program_with_private_mounts(_UNMOUNT, tmp_path)


# Cost.


@pytest.fixture
def thousand() -> Iterator[Path]:
    # On a tmpfs, so that the disk of the machine has no say in it.
    base = Path("/dev/shm") / f"tank-source-{os.getpid()}"
    base.mkdir()
    for number in range(1000):
        (base / f"p{number}.toml").write_text(text(f"sleep {number}"))
    yield base
    shutil.rmtree(base)


def test_a_thousand_unchanged_files_are_not_read_again(
    thousand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(MemoryStore(), clock=time.time)
    source = DirectorySource(thousand, remember=journal.remember, recall=journal.recall)
    deadline = time.monotonic() + 30
    journal.merge(source.snapshot())
    while source.settle_after() is not None:
        assert time.monotonic() < deadline
        journal.merge(source.snapshot())
    monkeypatch.setattr("tank_agent.source.files.read_file", None)
    first = source.snapshot()
    calls = Counter[str]()
    sys.setprofile(lambda frame, event, _: calls.update([event]))
    try:
        assert source.snapshot() is first
        assert journal.merge(first) == Applied()
    finally:
        sys.setprofile(None)
    # 10 ms on an idle machine.
    assert calls["call"] + calls["c_call"] < 16 * 1000


def test_the_snapshot_of_texts_is_that_of_the_files(machine: Machine) -> None:
    texts = {f"{machine.pods}/{name}.toml": text(name) for name in ("b", "a")}
    for name, content in texts.items():
        Path(name).write_text(content)
    (machine.pods / "bad.toml").write_text("x")
    texts[f"{machine.pods}/bad.toml"] = "x"
    read: Snapshot = machine.source.snapshot()
    assert snapshot_of_texts(texts) == read
