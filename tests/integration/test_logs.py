"""`tank logs`: what containers printed, over all their runs, while files are rotated under conmon's hands."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tank_agent.errors import AgentUnreachable, PodNotFound
from tests.support.agent import Agent, ended, running_agent, wait_for
from tests.support.terminal import add_commands, terminal

MARKED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}\+00:00 ")
COMMANDS = ("seq", "printf", "usleep", "tr", "dd", "test", "mkfifo")
ONCE = 'restart = "never"'


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("logs")) as started:
        add_commands(started, *COMMANDS)
        yield started


@pytest.fixture
def small_logs(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent that rotates at 64 KiB and keeps many files."""
    made = Agent(tmp_path)
    add_commands(made, *COMMANDS)
    made.config.write_text(made.config.read_text() + '[logs]\nmax_size = "64K"\nmax_files = 100\n')
    made.start()
    with ended(made):
        yield made


def run_once(agent: Agent, name: str, script: str, extra: str = "") -> None:
    text = agent.pod_text(command=["/bin/sh", "-c", script], head=ONCE, extra=extra)
    agent.write(name, text)
    agent.wait_phase(name, "completed")


def logs(agent: Agent, *arguments: str) -> str:
    done = agent.tank("logs", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@contextlib.contextmanager
def following(agent: Agent, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tank_agent", "logs", "-f", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TANK_SOCKET": str(agent.run / "tank.sock")},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_both_streams_as_they_were_printed(agent: Agent) -> None:
    run_once(agent, "both", r"echo out; echo err >&2; echo; printf 'tab\there \303\244\n'; printf 'no end'")
    assert sorted(logs(agent, "both").split("\n")) == sorted(["out", "err", "", "tab\there ä", "no end"])
    assert logs(agent, "both").endswith("no end")
    lines = [json.loads(line) for line in logs(agent, "both", "-o", "json").splitlines()]
    assert {(line["stream"], line["message"]) for line in lines} == {
        ("stdout", "out"),
        ("stderr", "err"),
        ("stdout", ""),
        ("stdout", "tab\there ä"),
        ("stdout", "no end"),
    }
    assert {(line["pod"], line["container"]) for line in lines} == {("both", "app")}
    assert lines[-1]["partial"]
    assert all(MARKED.fullmatch(line["time"] + " ") for line in lines)


def test_bytes_that_are_no_text_arrive_as_they_are(agent: Agent) -> None:
    run_once(agent, "binary", r"printf '\377\000\001\r\n\033[31mred\033[0m\n'")
    assert [line.content for line in agent.client.logs("binary")] == [
        b"\xff\x00\x01\r",
        b"\x1b[31mred\x1b[0m",
    ]
    assert json.loads(logs(agent, "binary", "-o", "json").splitlines()[0])["message"] == "\ufffd\0\x01\r"


def test_a_terminal_gets_colours_and_nothing_that_steers_it(agent: Agent) -> None:
    run_once(agent, "steers", r"printf '\033[31mred\033[0m \033[2Jcleared \007 \302\233 end\n'")
    with terminal(agent, "logs", "steers") as user:
        user.expect("\x1b[31mred\x1b[0m ^[[2Jcleared ^G \\x9b end\r\n")
        assert user.end() == 0


def test_tail_since_and_timestamps(agent: Agent) -> None:
    run_once(agent, "tail", "seq 100; usleep 300000; echo err >&2; usleep 300000; seq 101 200")
    everything = [line.content for line in agent.client.logs("tail")]
    assert len(everything) == 201
    assert logs(agent, "tail", "--tail", "3") == "198\n199\n200\n"
    assert logs(agent, "tail", "--tail", "0") == ""
    assert len(logs(agent, "tail", "--tail", "1000").splitlines()) == 201
    marked = logs(agent, "tail", "--timestamps").splitlines()
    assert all(MARKED.match(line) for line in marked)
    moment = next(line.split()[0] for line in marked if line.endswith(" 101"))
    since = logs(agent, "tail", "--since", re.sub(r"(\.\d{6})\d*", r"\1", moment)).splitlines()
    assert since == [str(number) for number in range(101, 201)]
    assert len(logs(agent, "tail", "--since", "1h").splitlines()) == 201
    assert logs(agent, "tail", "--since", str(time.time() + 60)) == ""
    assert agent.tank("logs", "tail", "--since", "yesterday-ish").returncode == 2


def test_long_lines_come_whole(agent: Agent) -> None:
    script = r"dd if=/dev/zero bs=1000 count=100 2>/dev/null | tr '\0' x; echo; echo short"
    run_once(agent, "long", script)
    assert logs(agent, "long").splitlines() == ["x" * 100_000, "short"]
    assert logs(agent, "long", "--tail", "2").splitlines() == ["x" * 100_000, "short"]
    (longest, _) = agent.client.logs("long")
    assert longest.whole
    # What would not fit anywhere comes in pieces that belong together.
    endless = r"dd if=/dev/zero bs=100000 count=10 2>/dev/null | tr '\0' y"
    run_once(agent, "endless", endless)
    pieces = list(agent.client.logs("endless"))
    assert len(pieces) > 1
    assert b"".join(piece.content for piece in pieces) == b"y" * 1_000_000
    assert logs(agent, "endless") == "y" * 1_000_000


def test_a_terminals_lines_have_no_carriage_return(agent: Agent) -> None:
    run_once(agent, "tty", "echo one; echo two", extra="tty = true")
    assert logs(agent, "tty") == "one\ntwo\n"


def test_several_containers_come_in_the_order_of_time_with_their_names(agent: Agent) -> None:
    def container(name: str, script: str) -> str:
        head = f'[[containers]]\nname = "{name}"\nrootfs = "{agent.rootfs}"\n'
        return f'{head}command = ["/bin/sh", "-c", {script}]\n'

    one = container("one", json.dumps("echo first; usleep 600000; echo third"))
    two = container("two", json.dumps("usleep 300000; echo second"))
    agent.write("several", f"{ONCE}\n{one}{two}")
    agent.wait_phase("several", "completed")
    printed = logs(agent, "several").splitlines()
    assert sorted(printed) == ["one | first", "one | third", "two | second"]
    assert printed.index("one | first") < printed.index("one | third")
    times = [line.time for line in agent.client.logs("several")]
    assert times == sorted(times)
    assert logs(agent, "several/two") == "second\n"
    assert sorted(logs(agent, "several", "--tail", "1").splitlines()) == ["one | third", "two | second"]


def test_who_is_not_there_is_named(agent: Agent) -> None:
    run_once(agent, "there", "true")
    assert logs(agent, "there") == ""
    done = agent.tank("logs", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no pod nobody" in done.stderr
    assert "pod there has no container nobody" in agent.tank("logs", "there/nobody").stderr
    with pytest.raises(PodNotFound):
        agent.client.logs("nobody")


def test_follow_goes_on_over_restarts_and_ends_with_the_pod(agent: Agent) -> None:
    text = agent.pod_text(command=["/bin/sh", "-c", "echo run; usleep 300000"])
    agent.write("again", text)
    with following(agent, "again") as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == "run\n"
        (agent.pods / "again.toml").unlink()
        rest, err = process.communicate(timeout=60)
        assert set(rest.splitlines()) <= {"run"}
        assert (process.returncode, err) == (0, "")


# Counts its runs in a volume, and prints some of both streams in each.
COUNTED = "echo x >> /data/runs; n=$(wc -l < /data/runs)"
PRINTING = "echo out $n; usleep 300000; echo err $n >&2; read go < /data/go"
VOLUME = """
[[containers.mounts]]
volume = "data"
path = "/data"
[[volumes]]
name = "data"
"""


def test_logs_are_of_every_run_in_their_order_and_followers_see_the_same(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        add_commands(agent, "wc", "usleep", "mkfifo")
        script = f"test -p /data/go || mkfifo /data/go; {COUNTED}; {PRINTING}"
        agent.write("runs", agent.pod_text(command=["/bin/sh", "-c", script], extra=VOLUME))
        agent.wait_phase("runs", "running")
        wanted: list[str] = []
        for number in range(1, 4):
            wanted += [f"out {number}", f"err {number}"]
            wait_for(lambda so_far=tuple(wanted): printed(agent, "runs") == so_far, "it has printed")
            if number == 2:
                # It goes on, and no line is there twice.
                agent.stop()
                agent.start()
                assert logs(agent, "runs").splitlines() == wanted
            if number < 3:
                agent.tank("exec", "runs", "--", "sh", "-c", "echo > /data/go")
        streams = [(line.stream, line.content.decode()) for line in agent.client.logs("runs")]
        assert streams == [("stderr" if text.startswith("err") else "stdout", text) for text in wanted]
        with following(agent, "runs") as process:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in wanted] == [f"{text}\n" for text in wanted]
            agent.tank("exec", "runs", "--", "sh", "-c", "echo > /data/go")
            assert process.stdout.readline() == "out 4\n"
            assert process.stdout.readline() == "err 4\n"


def printed(agent: Agent, name: str) -> tuple[str, ...]:
    return tuple(logs(agent, name).splitlines())


def test_follow_from_the_end_and_as_json(agent: Agent) -> None:
    script = "seq 50; read go < /go; echo new; echo bad >&2"
    agent.write("fresh", agent.pod_text(command=["/bin/sh", "-c", f"mkfifo /go; {script}"], head=ONCE))
    agent.wait_phase("fresh", "running")
    wait_for(lambda: logs(agent, "fresh").endswith("50\n"), "it has printed")
    with following(agent, "fresh", "--tail", "0") as ends, following(agent, "fresh", "-o", "json") as all_:
        assert ends.stdout is not None and all_.stdout is not None
        seen = [json.loads(all_.stdout.readline())["message"] for _ in range(50)]
        assert seen == [str(number) for number in range(1, 51)]
        # Until it follows, it could miss what is new.
        wait_for(lambda: _followers(agent) == 2, "both follow")
        agent.tank("exec", "fresh", "--", "sh", "-c", "echo > /go")
        assert sorted(ends.communicate(timeout=60)[0].splitlines()) == ["bad", "new"]
        rest = [json.loads(line) for line in all_.communicate(timeout=60)[0].splitlines()]
        assert sorted((line["stream"], line["message"]) for line in rest) == [
            ("stderr", "bad"),
            ("stdout", "new"),
        ]
        assert ends.returncode == all_.returncode == 0


def _followers(agent: Agent) -> int:
    """Return how many have the log open that the agent reads for them."""
    assert agent.process is not None
    opened = Path(f"/proc/{agent.process.pid}/fd").iterdir()
    count = 0
    for entry in opened:
        with contextlib.suppress(OSError):
            count += entry.readlink().name == "app.log" and "fresh" in str(entry.readlink())
    return count


def test_since_from_python(agent: Agent) -> None:
    run_once(agent, "since", "echo one; usleep 50000; echo two; usleep 50000; echo three")
    lines = list(agent.client.logs("since"))
    moment = datetime.fromisoformat(lines[1].time[:26] + "+00:00").timestamp()
    assert [line.content for line in agent.client.logs("since", since=moment)] == [b"two", b"three"]
    assert list(agent.client.logs("since", since=time.time() + 60)) == []


def test_follow_ends_when_a_pod_is_over(agent: Agent) -> None:
    agent.write("over", agent.pod_text(command=["/bin/sh", "-c", "read x; echo last"], head=ONCE))
    agent.wait_phase("over", "completed")
    with following(agent, "over") as process:
        out, _ = process.communicate(timeout=60)
        assert (out, process.returncode) == ("last\n", 0)


def test_follow_shows_at_once_and_ends_with_ctrl_c(agent: Agent) -> None:
    agent.write("slow", agent.pod_text(command=["/bin/sh", "-c", "echo begun; exec sleep 1000"]))
    with terminal(agent, "logs", "-f", "slow") as user:
        user.expect("begun")
        user.type("\x03")
        assert user.end() == 130


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_an_agent_that_ends_is_said(tmp_path: Path, end: str) -> None:
    with running_agent(tmp_path) as agent:
        agent.write("web", agent.pod_text())
        agent.wait_phase("web", "running")
        lines = agent.client.logs("web", follow=True)
        assert next(lines).content == b"started"
        events = agent.client.events(follow=True)
        assert next(events).type == "started"
        getattr(agent, end)()
        for left in (lines, events):
            with pytest.raises(AgentUnreachable):
                next(left)
        agent.start()


# Rotation

COUNT = (
    "i=0; while test $i -lt 40000; do echo line-$i-0123456789012345678901234567890123456789; i=$((i+1)); done"
)


def expected_lines() -> list[bytes]:
    return [b"line-%d-0123456789012345678901234567890123456789" % number for number in range(40_000)]


def files(agent: Agent, name: str) -> list[str]:
    return sorted(path.name for path in (agent.data / "logs" / name).iterdir())


def test_rotation_loses_no_line_and_followers_see_each_once(small_logs: Agent) -> None:
    agent = small_logs
    # Slowed down, so that it is rotated many times while it writes.
    script = COUNT.replace("i=$((i+1))", "i=$((i+1)); test $((i % 2000)) -ne 0 || usleep 250000")
    agent.write("count", agent.pod_text(command=["/bin/sh", "-c", script], head=ONCE))
    agent.wait_phase("count", "running")
    seen: list[bytes] = []
    follower = threading.Thread(
        target=lambda: seen.extend(line.content for line in agent.client.logs("count", follow=True))
    )
    follower.start()
    agent.wait_phase("count", "completed", 60)
    follower.join(60)
    assert seen == expected_lines()
    assert len(files(agent, "count")) > 3
    assert [line.content for line in agent.client.logs("count")] == expected_lines()
    assert [line.content for line in agent.client.logs("count", tail=5000)] == expected_lines()[-5000:]


def test_a_follower_misses_nothing_over_rotation_and_a_restart_of_the_container(small_logs: Agent) -> None:
    agent = small_logs
    add_commands(agent, "wc")
    # Each run prints 200 KB, slowly enough to be rotated meanwhile; three of them.
    count = (
        "i=0; while test $i -lt 4000; do echo run-$n-$i-0123456789012345678901234567890123456789; i=$((i+1))"
    )
    script = f"{COUNTED}; {count}; test $((i % 1000)) -ne 0 || usleep 600000; done; test $n -ge 3"
    agent.write(
        "rounds",
        agent.pod_text(command=["/bin/sh", "-c", script], head='restart = "on-failure"', extra=VOLUME),
    )
    agent.wait_phase("rounds", "running")
    seen = [line.content for line in agent.client.logs("rounds", follow=True)]
    wanted = [
        b"run-%d-%d-0123456789012345678901234567890123456789" % (run, line)
        for run in range(1, 4)
        for line in range(4000)
    ]
    assert seen == wanted
    assert len(files(agent, "rounds")) > 3
    assert [line.content for line in agent.client.logs("rounds")] == wanted


def test_no_more_than_so_many_files_are_kept(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    add_commands(agent, *COMMANDS)
    agent.config.write_text(agent.config.read_text() + '[logs]\nmax_size = "64K"\nmax_files = 2\n')
    agent.start()
    with ended(agent):
        chatty = "while :; do seq 2000; usleep 50000; done"
        agent.write("chatty", agent.pod_text(command=["/bin/sh", "-c", chatty]))
        agent.wait_phase("chatty", "running")
        log = agent.data / "logs" / "chatty" / "app.log"
        first = wait_for(lambda: log.exists() and log.stat().st_ino, "it prints")
        older = log.with_name("app.log.1")
        wait_for(lambda: older.exists() and older.stat().st_ino != first, "it was rotated twice")
        # conmon begins a new file under another name.
        kept = [name for name in files(agent, "chatty") if name != "app.log.tmp"]
        assert kept in (["app.log", "app.log.1"], ["app.log.1"])
        numbers = [int(line.content) for line in agent.client.logs("chatty", tail=1000)]
        assert all(after in (before + 1, 1) for before, after in itertools.pairwise(numbers))


def test_a_lower_limit_counts_at_once(small_logs: Agent) -> None:
    agent = small_logs
    assert agent.process is not None
    bursts = "for i in 1 2 3 4 5 6; do seq 20000; usleep 1500000; done"
    script = f"{bursts}; echo over; while :; do usleep 1000000; done"
    agent.write("some", agent.pod_text(command=["/bin/sh", "-c", script]))
    agent.wait_phase("some", "running")
    wait_for(
        lambda: [line.content for line in agent.client.logs("some", tail=1)] == [b"over"],
        "it printed all",
        60,
    )
    wait_for(lambda: len(files(agent, "some")) > 3, "it was rotated")
    agent.config.write_text(agent.config.read_text().replace("max_files = 100", "max_files = 2"))
    agent.process.send_signal(signal.SIGHUP)
    wait_for(
        lambda: files(agent, "some") in (["app.log", "app.log.1"], ["app.log.1"]), "the older ones are gone"
    )


@pytest.mark.parametrize("fault", ["logs:renamed", "logs:shifted@2"])
def test_an_agent_killed_while_it_rotates_loses_no_line(small_logs: Agent, fault: str) -> None:
    agent = small_logs
    agent.stop()
    agent.launch(fault=fault)
    script = COUNT.replace("i=$((i+1))", "i=$((i+1)); test $((i % 1000)) -ne 0 || usleep 200000")
    agent.write("count", agent.pod_text(command=["/bin/sh", "-c", script], head=ONCE))
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_phase("count", "completed", 60)
    assert [line.content for line in agent.client.logs("count")] == expected_lines()


def test_a_log_that_somebody_removed_is_begun_again(agent: Agent) -> None:
    script = "while :; do echo tick; usleep 100000; done"
    agent.write("tick", agent.pod_text(command=["/bin/sh", "-c", script]))
    agent.wait_phase("tick", "running")
    log = agent.data / "logs" / "tick" / "app.log"
    wait_for(log.exists, "it prints")
    log.unlink()
    wait_for(lambda: log.exists() and b"tick" in log.read_bytes(), "it is written again")


def test_the_logs_of_a_removed_pod_are_removed_too(agent: Agent) -> None:
    run_once(agent, "gone", "echo here")
    (agent.pods / "gone.toml").unlink()
    agent.wait_gone("gone")
    assert not (agent.data / "logs" / "gone").exists()
