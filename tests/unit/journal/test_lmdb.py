from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from tank_agent.errors import Stalled
from tank_agent.journal.journal import Journal
from tank_agent.journal.lmdb import MAP_SIZE, LmdbStore
from tank_agent.journal.records import NewEvent, PodStatus
from tank_agent.journal.store import Table, Write
from tank_agent.journal.transitions import Retention
from tests.support.private_mounts import program_with_private_mounts
from tests.unit.journal.builders import FakeClock, Owners, declared, pod, snapshot
from tests.unit.journal.conformance import JournalConformance


class TestJournalOnLmdb(JournalConformance):
    @pytest.fixture
    def open_journal(
        self, tmp_path: Path, clock: FakeClock, owners: Owners
    ) -> Iterator[Callable[[], Journal]]:
        opened: list[Journal] = []

        def open_() -> Journal:
            journal = Journal(
                LmdbStore(tmp_path / "journal"),
                clock=clock,
                kept=Retention(revisions=3, events=10),
                owner_exists=owners,
            )
            opened.append(journal)
            return journal

        yield open_
        for journal in opened:
            journal.close()


def open_at(path: Path, *, map_size: int = MAP_SIZE) -> Journal:
    return Journal(LmdbStore(path, map_size=map_size), clock=time.time)


def test_a_second_opening_is_refused_and_does_not_hurt_the_first(tmp_path: Path) -> None:
    journal = open_at(tmp_path / "journal")
    with pytest.raises(Stalled, match=f"pid {os.getpid()}"):
        open_at(tmp_path / "journal")
    (tmp_path / "link").symlink_to("journal")
    with pytest.raises(Stalled, match="another tank-agent"):
        open_at(tmp_path / "link")
    journal.put(pod(), "r")
    journal.close()
    again = open_at(tmp_path / "journal")
    assert list(again.desired()) == ["web"]
    again.close()


def test_another_process_is_refused(tmp_path: Path) -> None:
    journal = open_at(tmp_path / "journal")
    script = (
        "import sys, time, pathlib\n"
        "from tank_agent.errors import Stalled\n"
        "from tank_agent.journal.journal import Journal\n"
        "from tank_agent.journal.lmdb import LmdbStore\n"
        "try:\n    Journal(LmdbStore(pathlib.Path(sys.argv[1])), clock=time.time)\n"
        "except Stalled as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "journal")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"another tank-agent (pid {os.getpid()}) uses the journal" in done.stdout
    journal.close()


def test_a_full_map_grows(tmp_path: Path) -> None:
    journal = open_at(tmp_path / "journal", map_size=256 << 10)
    pods = [declared(pod(f"p{number}", "x" * 2000), f"p{number}.toml") for number in range(500)]
    assert len(journal.merge(snapshot(*pods)).changed) == 500
    journal.record("p1", PodStatus(error="running"), [NewEvent(pod="p1", type="t", message="m" * 5000)] * 200)
    journal.close()
    again = open_at(tmp_path / "journal", map_size=256 << 10)
    assert (len(again.desired()), len(again.events())) == (500, 200)
    again.close()


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    open_at(tmp_path / "journal").close()
    store = LmdbStore(tmp_path / "journal")
    store.write([Write(Table.META, b"schema", b"99")])
    store.close()
    for _ in range(2):
        with pytest.raises(Stalled, match=r"newer tank-agent \(format 99"):
            open_at(tmp_path / "journal")
    store = LmdbStore(tmp_path / "journal")
    assert store.get(Table.META, b"schema") == b"99"
    store.close()


def test_a_damaged_entry_is_told_and_left_alone(tmp_path: Path) -> None:
    open_at(tmp_path / "journal").close()
    store = LmdbStore(tmp_path / "journal")
    store.write([Write(Table.DESIRED, b"web", b'{"name": 1}')])
    store.close()
    for _ in range(2):
        with pytest.raises(Stalled, match=r"b'web' of its table desired"):
            open_at(tmp_path / "journal")


@pytest.mark.parametrize("damage", ["garbage", "cut"])
def test_a_broken_file_is_refused_with_the_way_out(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "journal"
    journal = open_at(path)
    for number in range(50):
        journal.put(pod(f"p{number}"), "r")
    journal.close()
    data = path / "data.mdb"
    if damage == "garbage":
        data.write_bytes(os.urandom(data.stat().st_size))
    else:
        os.truncate(data, data.stat().st_size // 2)
    before = data.read_bytes()
    for _ in range(2):
        with pytest.raises(Stalled, match=r"mv .*/journal .*/journal\.broken"):
            open_at(path)
    assert data.read_bytes() == before


def test_a_file_without_a_byte_is_a_new_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    open_at(path).close()
    (path / "data.mdb").write_bytes(b"")
    journal = open_at(path)
    assert not journal.desired()
    journal.put(pod("web"), "r")
    journal.close()
    journal = open_at(path)
    assert [*journal.desired()] == ["web"]
    journal.close()


_LITTLE_MEMORY = """
import pathlib, resource, sys, time
from tank_agent.errors import Retry
from tank_agent.journal.journal import Journal
from tank_agent.journal.lmdb import LmdbStore
path = pathlib.Path(sys.argv[1])
size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), resource.RLIM_INFINITY))
try:
    Journal(LmdbStore(path), clock=time.time)
except Retry as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(*Journal(LmdbStore(path), clock=time.time).desired())
"""


def test_too_little_memory_is_no_reason_to_throw_a_journal_away(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = open_at(path)
    journal.put(pod("web"), "r")
    journal.close()
    command = [sys.executable, "-c", _LITTLE_MEMORY, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Cannot allocate memory" in done.stdout, done.stdout + done.stderr
    assert "the journal is sound" in done.stdout
    assert "mv " not in done.stdout
    assert done.stdout.splitlines()[-1] == "web"


def test_an_impossible_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Stalled, match="cannot open the journal"):
        open_at(tmp_path / "file" / "journal")


_FULL_DISK = """
import subprocess, sys, time, pathlib
from tank_agent.errors import Retry
from tank_agent.journal.journal import Journal
from tank_agent.journal.lmdb import LmdbStore
from tests.unit.journal.builders import pod
base = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(base)], check=True)
journal = Journal(LmdbStore(base / "journal"), clock=time.time)
filler = base / "filler"
stored = []
with filler.open("wb", buffering=0) as file:
    try:
        while file.write(b"x" * 4096):
            pass
    except OSError:
        pass
failed = 0
for number in range(200):
    try:
        journal.put(pod(f"p{number}"), "r")
        stored.append(f"p{number}")
    except Retry as error:
        failed += 1
assert failed > 0, "the disk was not full"
assert sorted(journal.desired()) == sorted(stored)
filler.unlink()
journal.put(pod("after"), "r")
stored.append("after")
journal.close()
again = Journal(LmdbStore(base / "journal"), clock=time.time)
assert sorted(again.desired()) == sorted(stored), "what was acknowledged is not there"
again.close()
print("fine")
"""


@pytest.mark.machine
def test_a_full_disk_is_a_retry_and_loses_nothing(tmp_path: Path) -> None:
    program_with_private_mounts(_FULL_DISK, tmp_path)


# Writes generation after generation of a set of pods, and says so after each call returned.
_WRITER = """
import os, sys, time, pathlib
from tank_agent.journal.journal import Journal
from tank_agent.journal.lmdb import LmdbStore
from tank_agent.journal.records import NewEvent, PodStatus
from tests.unit.journal.builders import declared, pod, snapshot
journal = Journal(LmdbStore(pathlib.Path(sys.argv[1])), clock=time.time)
number = int(sys.argv[2])
while True:
    number += 1
    journal.merge(snapshot(*(declared(pod(f"p{i}", f"sleep {number}"), f"p{i}.toml") for i in range(20))))
    os.write(1, f"m{number}\\n".encode())
    journal.record("p0", PodStatus(error=str(number)), [NewEvent(pod="p0", type="t", message=str(number))])
    os.write(1, f"r{number}\\n".encode())
"""


def _write_until_killed(path: Path, first: int, seconds: float) -> tuple[int, int]:
    """Return the last merge and the last record that the writer was told were done; 0 for none."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), str(first)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        ready, _, _ = select.select([writer.stdout], [], [], 30)
        assert ready
        # The moment of the kill is the point: random, from the first commit on.
        select.select([], [], [], seconds)
        writer.send_signal(signal.SIGKILL)
        lines = writer.stdout.read().decode().split()
    merges = [int(line[1:]) for line in lines if line[0] == "m"]
    records = [int(line[1:]) for line in lines if line[0] == "r"]
    return max(merges, default=0), max(records, default=0)


def test_a_kill_at_any_moment_leaves_the_old_set_or_the_new(tmp_path: Path) -> None:
    path, chance = tmp_path / "journal", random.Random(7)
    merged = recorded = 0
    for _ in range(30):
        now_merged, now_recorded = _write_until_killed(path, merged, chance.random() * 0.02)
        merged, recorded = max(merged, now_merged), max(recorded, now_recorded)
        journal = open_at(path)
        commands = {found.pod.containers[0].command for found in journal.desired().values()}
        assert len(commands) == 1, "half of a snapshot"
        (command,) = commands
        assert command is not None
        assert int(command[1]) >= merged, "an acknowledged merge is gone"
        assert len(journal.desired()) == 20
        events = journal.events(limit=1_000_000)
        last = int(events[-1].message) if events else 0
        assert last >= recorded, "an acknowledged record is gone"
        assert journal.status("p0") == (PodStatus(error=str(last)) if last else PodStatus()), (
            "half of a record"
        )
        merged, recorded = int(command[1]), last
        journal.close()


def test_what_a_person_finds_in_a_dump_is_json(tmp_path: Path) -> None:
    journal = open_at(tmp_path / "journal")
    journal.put(pod(), "r")
    journal.close()
    with lmdb.open(str(tmp_path / "journal"), max_dbs=8, readonly=True) as environment:
        desired = environment.open_db(b"desired", create=False)
        with environment.begin() as transaction:
            value = transaction.get(b"web", db=desired)
    assert value is not None and value.startswith(b'{"name":"web","pod":{')
