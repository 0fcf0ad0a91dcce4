"""Habits of other tools at the command line, in real containers: exec as docker has it, live tables."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.test_exec import prepare, spawned, tank
from tests.support.agent import Agent, running_agent, wait_for
from tests.support.terminal import LEAVE, terminal


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("habits")) as started:
        prepare(started)
        yield started


def out(done: subprocess.CompletedProcess[bytes]) -> tuple[int, bytes]:
    assert b"Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("web", "pwd"),
        ("web", "--", "pwd"),
        ("--", "web", "pwd"),
        ("-i", "web", "pwd"),
        ("web", "-i", "pwd"),
        ("web", "-i", "--", "pwd"),
        ("web/app", "pwd"),
        ("web", "-c", "app", "pwd"),
        ("--wait", "5s", "web", "pwd"),
    ],
)
def test_a_command_needs_no_dashes(agent: Agent, words: tuple[str, ...]) -> None:
    assert out(tank(agent, "exec", *words)) == (0, b"/srv\n")


def test_options_stand_before_the_command_and_the_rest_is_its_own(agent: Agent) -> None:
    assert out(tank(agent, "exec", "web", "-w", "/bin", "pwd")) == (0, b"/bin\n")
    assert out(tank(agent, "exec", "-e", "A=b", "web", "sh", "-c", "echo $A")) == (0, b"b\n")
    assert out(tank(agent, "exec", "web", "echo", "--help", "-it", "--", "x")) == (0, b"--help -it -- x\n")
    done = tank(agent, "exec", "web", "--", "-x")
    assert (done.returncode, b"-x" in done.stderr) == (127, True)
    done = tank(agent, "exec", "web")
    assert (done.returncode, done.stderr) == (
        2,
        b"tank exec: no command; write it behind the name, as in: tank exec web ls -l\n",
    )
    done = tank(agent, "exec", "web/app", "-c", "app", "ls")
    assert (done.returncode, done.stderr) == (
        2,
        b"tank exec: 'web/app' names a container already; leave -c away\n",
    )


def test_standard_input_is_passed_on_with_and_without_i(agent: Agent) -> None:
    for words in (("web",), ("-i", "web"), ("web", "-T"), ("-iT", "web")):
        assert out(tank(agent, "exec", *words, "cat", stdin=b"a\r\nb")) == (0, b"a\r\nb"), words


@pytest.mark.parametrize("flags", ["-t", "-it", "--tty"])
@pytest.mark.parametrize("verb", ["exec", "attach"])
def test_a_terminal_that_is_none_is_said(agent: Agent, verb: str, flags: str) -> None:
    done = tank(agent, verb, flags, "web", *(("ls",) if verb == "exec" else ()))
    text = "-t: standard input is not a terminal; leave -t away, and what is piped in is passed on\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", f"tank {verb}: {text}")


@pytest.mark.parametrize(
    "words", [("-it", "web", "sh"), ("web", "-it", "sh"), ("web", "sh"), ("-t", "web", "sh")]
)
def test_a_shell_in_a_terminal(agent: Agent, words: tuple[str, ...]) -> None:
    with terminal(agent, "exec", *words) as user:
        user.prompt()
        user.line("tty; exit 5")
        user.expect("/dev/pts/")
        assert user.end() == 5
        assert user.is_restored()


def test_i_alone_is_no_terminal_though_stdin_is_one(agent: Agent) -> None:
    with terminal(agent, "exec", "-i", "web", "tty") as user:
        user.expect("not a tty")
        user.end()


def test_attach_takes_the_flags_of_kubectl(agent: Agent) -> None:
    agent.write("console", agent.pod_text(command=["/bin/sh"], extra="tty = true"))
    agent.wait_phase("console", "running")
    with terminal(agent, "attach", "-it", "console", "-c", "app") as user:
        user.line("echo a''b")
        user.expect("ab")
        user.type(LEAVE)
        assert user.end() == 0


def test_logs_of_several_pods_in_the_order_of_time(agent: Agent) -> None:
    for name in ("one", "two"):
        script = f"echo {name} begins; echo {name} goes on; sleep 1000"
        agent.write(name, agent.pod_text(command=["/bin/sh", "-c", script]))
    for name in ("one", "two"):
        agent.wait_phase(name, "running")
        wait_for(lambda name=name: b"goes on" in tank(agent, "logs", name).stdout, "all is printed")
    code, text = out(tank(agent, "logs", "one", "two/app", "-t"))
    lines = [line.split(b" ", 3) for line in text.splitlines()]
    assert code == 0
    assert sorted(b" ".join((line[0], line[3])) for line in lines) == [
        b"one/app one begins",
        b"one/app one goes on",
        b"two/app two begins",
        b"two/app two goes on",
    ]
    times = [line[2] for line in lines]
    assert times == sorted(times)
    assert out(tank(agent, "logs", "one", "-n", "1")) == (0, b"one goes on\n")
    assert out(tank(agent, "logs", "one", "-c", "app", "--lines", "all"))[1].count(b"\n") == 2
    found = out(tank(agent, "logs", "one", "two", "-n", "1", "-o", "json"))[1].splitlines()
    assert {(json.loads(line)["pod"], json.loads(line)["container"]) for line in found} == {
        ("one", "app"),
        ("two", "app"),
    }
    assert tank(agent, "logs", "one", "nobody").returncode == 1
    assert tank(agent, "logs", "one/app", "-c", "app").returncode == 2


def test_logs_of_several_pods_are_followed(agent: Agent) -> None:
    script = "while true; do echo tick; sleep 0.1; done"
    for name in ("left", "right"):
        agent.write(name, agent.pod_text(command=["/bin/sh", "-c", script]))
        agent.wait_phase(name, "running")
    with spawned(agent, "logs", "-f", "-n", "0", "left", "right") as session:
        assert session.stdout is not None
        seen: set[bytes] = set()
        while seen != {b"left/app | tick\n", b"right/app | tick\n"}:
            seen.add(session.stdout.readline())
        session.send_signal(signal.SIGINT)
        assert session.wait(60) == 130


def test_top_and_a_watched_status_of_containers_that_run(agent: Agent) -> None:
    limits = '[containers.limits]\nmemory = "64M"\n'
    agent.write("busy", agent.pod_text(command=["/bin/sh", "-c", "while true; do true; done"], extra=limits))
    agent.wait_phase("busy", "running")
    (found,) = json.loads(out(tank(agent, "top", "busy", "-o", "json"))[1])
    assert (found["pod"], found["memory_limit"], found["pids"]) == ("busy", 64 << 20, 1)
    assert 0 < found["cpu_percent"] < 150
    with terminal(agent, "top", "--interval", "0.2s") as user:
        user.expect("busy/app")
        user.resize(10, 60)
        user.expect("web/unprivileged")
        user.type("q")
        assert user.end() == 0
        assert user.is_restored()
    with terminal(agent, "status", "-w", "--interval", "0.2s") as user:
        user.expect("busy")
        (agent.pods / "busy.toml").unlink()
        user.expect("stopping")
        user.type("\x03")
        assert user.end() == 130
        assert user.is_restored()
    text = out(tank(agent, "status", "web"))[1].decode()
    assert "started     " in text and " of memory, " in text


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("pods", "status", ""), [b"web"]),
        (("jobs", "run", ""), []),
        (("targets", "exec", "web/"), [b"web/app", b"web/unprivileged"]),
        (("containers", "logs", "web", "-c", ""), [b"app", b"unprivileged"]),
        (("images", "image", "rm", ""), []),
        (("volumes", "volume", "rm", ""), []),
        (("revisions", "rollback", "web", ""), [b"1"]),
        (("revisions", "sync", "--confirm", ""), []),
    ],
)
def test_completions_have_names_of_the_agent(
    agent: Agent, words: tuple[str, ...], names: list[bytes]
) -> None:
    done = tank(agent, "complete", *words)
    assert (done.returncode, done.stderr) == (0, b"")
    found = [line.partition(b"\t")[0] for line in done.stdout.splitlines()]
    if words[0] == "pods":
        # Other tests of this agent have pods of their own.
        listed = json.loads(tank(agent, "list", "-o", "json").stdout)
        assert found == [pod["name"].encode() for pod in listed]
        assert set(names) <= set(found)
    else:
        assert found == names
