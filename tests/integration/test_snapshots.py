"""An update that ruins the data of its volumes gives it back; without a copy it never begins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent, ended, running_agent, wait_for
from tests.support.disks import SHARING, disk
from tests.support.trees import describe
from tests.support.updates import events_of, outcomes, push, update_table, wait_state

VOLUME = '[[volumes]]\nname = "data"\nsnapshot = {how}\n'
MOUNT = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
LOOP = "while :; do sleep 1000 & wait $!; done"
GOOD = f"test -e /data/db || echo good > /data/db; echo running; trap 'exit 0' TERM; {LOOP}"
# Rewrites its data as it starts, cannot work with it, and fails.
BAD = "echo ruined > /data/db; rm -f /data/kept; echo ruined; exit 1"
SLOW = f"echo slow >> /data/db; echo slow; trap 'exit 0' TERM; {LOOP}"


def database(agent: Agent, script: str, *, how: str = "true", word: str = "1") -> str:
    """Return the text of a pod that keeps something in its volume."""
    head = update_table(min_healthy="500ms", max_restarts=1) + VOLUME.format(how=how)
    extra = f'env = {{ VERSION = "{word}" }}\n{MOUNT}'
    return agent.pod_text(command=["/bin/sh", "-c", script], head=head, extra=extra)


def live(agent: Agent) -> Path:
    return agent.data / "volumes" / "db" / "data"


def read(path: Path) -> str:
    return (path / "db").read_text().strip()


def snapshots(agent: Agent) -> list[str]:
    return sorted(path.name for path in (agent.data / "snapshots" / "db" / "data").glob("*"))


def wait_data(agent: Agent, text: str) -> None:
    """Wait for the data of the volume: what has no probe may be good before its first line has run."""
    wait_for(lambda: (live(agent) / "db").exists() and read(live(agent)) == text, f"the data is {text!r}")


def begin(agent: Agent, *, how: str = "true") -> None:
    """Have a good revision with data."""
    push(agent, "db", database(agent, GOOD, how=how), "first", "good")
    wait_state(agent, "db", "good")
    agent.wait_output("db", "running")
    (live(agent) / "kept").write_text("of a client")
    os.chown(live(agent) / "kept", 70, 71)


def assert_given_back(agent: Agent) -> None:
    """Check that the good revision runs with its data, and that of the failed one is kept."""
    assert read(live(agent)) == "good"
    kept = live(agent) / "kept"
    assert (kept.read_text(), kept.stat().st_uid, kept.stat().st_gid) == ("of a client", 70, 71)
    aside = sorted(path.name for path in live(agent).parent.glob("data.*"))
    assert aside == ["data.failed-2"]
    assert read(live(agent).parent / "data.failed-2") == "ruined"
    wait_for(
        lambda: not [*live(agent).parent.glob(".*"), *(agent.data / "snapshots").rglob("*.part")],
        "nothing half done is left",
    )


@pytest.fixture
def stopped_agent(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent that does not run yet."""
    agent = Agent(tmp_path)
    with ended(agent):
        yield agent


def test_an_update_that_ruins_its_data_gets_it_back(agent: Agent) -> None:
    begin(agent)
    push(agent, "db", database(agent, BAD, word="2"), "rolled-back")
    assert_given_back(agent)
    assert outcomes(agent, "db") == ["good", "failed", "good"]
    told = events_of(agent, "db")
    assert told.index("snapshot-taken") < told.index("data-restored")
    assert told.count("snapshot-taken") == told.count("data-restored") == 1
    # The next good push goes through, from the data that was given back.
    push(agent, "db", database(agent, SLOW, word="3"), "good")
    wait_data(agent, "good\nslow")


def test_a_good_update_keeps_the_snapshot_for_a_while(agent: Agent) -> None:
    begin(agent)
    for number, word in enumerate(("2", "3", "4", "5"), 1):
        push(agent, "db", database(agent, SLOW, word=word), "good")
        wait_data(agent, "\n".join(["good", *["slow"] * number]))
    # Two, as agent.toml has it by default.
    wait_for(lambda: snapshots(agent) == ["4", "5"], "older ones are removed")
    listed = json.loads(agent.tank("volume", "ls", "-o", "json").stdout)
    assert [one["generation"] for one in listed[0]["snapshots"]] == [5, 4]
    with agent.config.open("a") as config:
        config.write("[volumes]\nsnapshot_keep = 1\n")
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    wait_for(lambda: '"reloaded"' in agent.log.read_text(), "agent.toml is read again")
    push(agent, "db", database(agent, SLOW, word="6"), "good")
    wait_for(lambda: snapshots(agent) == ["6"], "one stays")


def test_an_update_that_touches_no_volume_copies_none(agent: Agent) -> None:
    other = (
        '\n[[containers]]\nname = "other"\nrootfs = "{}"\ncommand = ["/bin/sleep", "{}"]\nstop_grace = "0s"\n'
    )
    text = database(agent, GOOD)
    push(agent, "db", text + other.format(agent.rootfs, 1000), "good")
    before = agent.pid("db")
    push(agent, "db", text + other.format(agent.rootfs, 1001), "good")
    assert agent.pid("db") == before
    assert not (agent.data / "snapshots").exists()


POINTS = [
    "snapshot:begun",
    "snapshot:copied",
    "snapshot:synced",
    "snapshot:marked",
    "update:copy-recorded",
    "update:rolled-back",
    "snapshot:ready",
    "snapshot:noted",
    "snapshot:aside",
    "snapshot:back",
    "update:copy-recorded@2",
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_step(stopped_agent: Agent, point: str) -> None:
    agent = stopped_agent
    agent.start()
    begin(agent)
    agent.kill()
    agent.write("db", database(agent, BAD, word="2"))
    agent.launch(fault=point)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    wait_state(agent, "db", "rolled-back", after=1)
    assert_given_back(agent)
    assert len(snapshots(agent)) == 1
    # The monitor of what failed ends a moment after it.
    wait_for(lambda: len(agent.conmons()) == 1, "one monitor is left")


def test_killed_again_and_again(stopped_agent: Agent) -> None:
    agent = stopped_agent
    agent.start()
    begin(agent)
    agent.kill()
    agent.write("db", database(agent, BAD, word="2"))
    for point in POINTS:
        # The copy before it was another agent's.
        agent.launch(fault=point.removesuffix("@2"))
        assert agent.died() == -signal.SIGKILL, point
    agent.start()
    wait_state(agent, "db", "rolled-back", after=1)
    assert_given_back(agent)


def test_no_room_is_found_before_anything_is_stopped(agent: Agent, tmp_path: Path) -> None:
    begin(agent)
    (live(agent) / "big").write_bytes(os.urandom(8 << 20))
    place = agent.data / "snapshots"
    place.mkdir(mode=0o700)
    with disk(tmp_path, "ext4", 32) as small:
        subprocess.run(["mount", "--bind", small, place], check=True)
        try:
            filler = small / "filler"
            with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(1 << 20))
                    file.flush()
            before = agent.pid("db")
            status = push(agent, "db", database(agent, SLOW, word="2"), "blocked")
            assert "a snapshot takes" in status["rollout"]["reason"]
            assert agent.pid("db") == before
            # It has an error, and runs.
            assert (status["phase"], agent.output("db")) == ("degraded", ["running"])
            assert read(live(agent)) == "good"
            # Another revision is not blocked by the try of the former.
            filler.unlink()
            push(agent, "db", database(agent, SLOW, word="3"), "good")
            wait_data(agent, "good\nslow")
            assert snapshots(agent) == ["3"]
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)


def test_no_room_in_the_middle_starts_the_old_one_again(agent: Agent, tmp_path: Path) -> None:
    begin(agent)
    for number in range(1000):
        (live(agent) / f"{number}").write_text("x" * 4000)
    place = agent.data / "snapshots"
    place.mkdir(mode=0o700)
    # Each file takes 64 kB there, which nobody can foresee.
    with disk(tmp_path, "ext4", 32, "-O", "bigalloc", "-C", "65536", "-N", "4096") as small:
        subprocess.run(["mount", "--bind", small, place], check=True)
        try:
            status = push(agent, "db", database(agent, SLOW, word="2"), "blocked")
            assert "No space left on device" in status["rollout"]["reason"]
            agent.wait_output("db", "running", "running")
            assert read(live(agent)) == "good"
            assert snapshots(agent) == []
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)
    # There is room now, and it is tried again by itself, half a minute after the first time.
    wait_state(agent, "db", "good", after=1, deadline=60)
    wait_data(agent, "good\nslow")


def test_reflinks_are_demanded_where_there_are_none(agent: Agent) -> None:
    # Where the tests run, data_dir is on a file system without them.
    begin(agent, how='"reflink"')
    status = push(agent, "db", database(agent, SLOW, how='"reflink"', word="2"), "blocked", "good")
    if status["rollout"]["state"] == "blocked":
        assert "needs a file system that shares blocks" in status["rollout"]["reason"]
        assert agent.output("db") == ["running"]


def test_a_new_revision_in_the_middle_of_the_copy(agent: Agent) -> None:
    begin(agent)
    for number in range(30_000):
        (live(agent) / f"{number}").touch()
    agent.write("db", database(agent, BAD, word="2"))
    wait_for(lambda: [name for name in snapshots(agent) if name.endswith(".part")], "the copy has begun")
    push(agent, "db", database(agent, SLOW, word="3"), "good")
    assert outcomes(agent, "db") == ["good", "superseded", "good"]
    wait_data(agent, "good\nslow")
    assert "ruined" not in agent.output("db")
    wait_for(lambda: len(snapshots(agent)) == 1, "there is one snapshot")


def test_by_hand(agent: Agent) -> None:
    begin(agent)
    done = agent.tank("volume", "snapshot", "db/data")
    assert done.returncode == 1
    assert "container db/app runs" in done.stderr
    assert "--force" in done.stderr
    assert agent.tank("volume", "snapshot", "db/data", "--force").stdout == "db/data@manual-1\n"
    (live(agent) / "db").write_text("changed")
    done = agent.tank("volume", "restore", "db/data", "manual-1")
    assert done.returncode == 1
    assert "container db/app runs with it" in done.stderr
    file = agent.pods / "db.toml"
    text = file.read_text()
    file.unlink()
    agent.wait_gone("db")
    done = agent.tank("volume", "restore", "db/data", "manual-1")
    assert done.stdout == "db/data has the data of manual-1; what it had is db/data.replaced-0\n"
    assert read(live(agent)) == "good"
    shown = agent.tank("volume", "ls").stdout.splitlines()
    assert [line.split()[0] for line in shown] == [
        "VOLUME",
        "db/data",
        "db/data@manual-1",
        "db/data.replaced-0",
    ]
    assert agent.tank("volume", "rm", "db/data.replaced-0").stdout == "db/data.replaced-0 removed\n"
    agent.write("db", text)
    agent.wait_phase("db", "running")
    agent.wait_output("db", "running")
    file.unlink()
    agent.wait_gone("db")
    assert agent.tank("volume", "rm", "db/data").stdout == "db/data removed with its snapshot\n"
    assert agent.tank("volume", "ls", "-o", "json").stdout.strip() == "[]"


def test_a_plan_says_what_is_copied(agent: Agent) -> None:
    begin(agent)
    (live(agent) / "big").write_bytes(os.urandom(20 << 20))
    new = agent.home / "new" / "db.toml"
    new.parent.mkdir()
    new.write_text(database(agent, SLOW, word="2"))
    (planned,) = json.loads(agent.tank("plan", str(new.parent), "-o", "json").stdout)["pods"]
    assert any("MB of volume data" in note for note in planned["notes"])
    new.write_text(database(agent, GOOD))
    (planned,) = json.loads(agent.tank("plan", str(new.parent), "-o", "json").stdout)["pods"]
    assert not planned["notes"]


HOSTILE = """
cd /data
mkfifo fifo
ln -s /etc/shadow shadow
ln -s / root
echo linked > one
ln one two
mkdir -m 000 closed
touch "$(printf 'new\\nline')"
here=/data
for level in $(seq 100); do mkdir a-directory-in-a-directory && cd a-directory-in-a-directory; done
echo deep > bottom
"""


def test_whatever_a_container_leaves_in_its_volume_is_copied_and_put_back(agent: Agent) -> None:
    script = f"test -e /data/db || {{ {HOSTILE}\necho good > /data/db; }}; cd /; {GOOD}"
    push(agent, "db", database(agent, script), "first", "good")
    wait_state(agent, "db", "good")
    agent.wait_output("db", "running")
    before = describe(live(agent))
    assert len(before) > 100
    ruin = "rm -rf /data/*; ln -s /etc/shadow /data/db; exit 1"
    push(agent, "db", database(agent, ruin, word="2"), "rolled-back")
    assert describe(live(agent)) == before
    assert (live(agent).parent / "data.failed-2" / "db").is_symlink()


@pytest.mark.parametrize("kind", SHARING)
def test_a_disk_that_shares_blocks(tmp_path: Path, kind: str) -> None:
    with disk(tmp_path, kind) as place:
        (place / "home").mkdir()
        with running_agent(place / "home") as agent:
            begin(agent, how='"reflink"')
            # There would be no room for a copy.
            (live(agent) / "big").write_bytes(os.urandom(150 << 20))
            push(agent, "db", database(agent, BAD, how='"reflink"', word="2"), "rolled-back")
            assert_given_back(agent)
            assert (live(agent) / "big").stat().st_size == 150 << 20


def test_data_goes_back_by_hand_with_a_rollback(agent: Agent) -> None:
    begin(agent)
    push(agent, "db", database(agent, SLOW, word="2"), "good")
    wait_data(agent, "good\nslow")
    done = agent.tank("rollback", "db", "--with-data")
    assert done.returncode == 0, done.stderr
    wait_state(agent, "db", "good", "rolled-back", after=2)
    assert read(live(agent)) == "good"
    aside = list(live(agent).parent.glob("data.*"))
    assert [read(path) for path in aside] == ["good\nslow"]


def test_the_end_of_the_agent_does_not_wait_for_a_copy(agent: Agent) -> None:
    begin(agent)
    for number in range(30_000):
        (live(agent) / f"{number}").touch()
    agent.write("db", database(agent, SLOW, word="2"))
    wait_for(lambda: [name for name in snapshots(agent) if name.endswith(".part")], "the copy has begun")
    assert agent.stop() == 0
    agent.start()
    wait_state(agent, "db", "good", after=1, deadline=60)
    wait_data(agent, "good\nslow")
    assert snapshots(agent) == ["2"]
