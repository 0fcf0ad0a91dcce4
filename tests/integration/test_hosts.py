"""`tank --host`: the verbs against an agent behind a real sshd, and what is said where one is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent import Client
from tank_agent.client.fast import ssh
from tank_agent.errors import PodNotFound
from tests.support.agent import Agent, running_agent, wait_for
from tests.support.remote import Remote, remote
from tests.support.terminal import LEAVE, Terminal, add_commands, terminal

HOST = "ssh://edge"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent")) as started:
        add_commands(started, "stty", "tty", "pwd")
        started.write("web", started.pod_text())
        started.wait_phase("web", "running")
        yield started


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    with remote(tmp_path_factory.mktemp("edge")) as made:
        yield made


def socket(agent: Agent) -> list[str]:
    return ["--host", HOST, "--socket", str(agent.run / "tank.sock")]


def test_verbs(agent: Agent, edge: Remote) -> None:
    at, far = socket(agent), f"{HOST}{agent.run}/tank.sock"
    for words in (
        ["version", "-o", "json"],
        ["list"],
        ["status"],
        ["status", "web", "-o", "json"],
        ["top", "-1"],
        ["why", "web"],
        ["get", "web"],
        ["logs", "web"],
        ["events"],
        ["history", "web"],
        ["plan"],
        ["image", "ls"],
        ["volume", "ls"],
        ["sync"],
        ["wait", "web"],
        ["export", "compose", "web"],
        ["git", "status"],
        ["suspend", "web"],
        ["resume", "web"],
        ["exec", "web", "true"],
    ):
        done = edge.tank(*at, *words)
        assert done.returncode == 0, (words, done)
        here = agent.tank(*words)
        assert (here.returncode, here.stderr) == (0, done.stderr), words
    assert "web" in edge.tank(*at, "list").stdout
    # The address of a socket there, by the environment, and behind the verb.
    assert "web" in edge.tank("list", env={"TANK_HOST": far}).stdout
    assert "web" in edge.tank("list", env={"TANK_HOST": HOST, "TANK_SOCKET": f"{agent.run}/tank.sock"}).stdout
    assert "web" in edge.tank("list", "--host", far).stdout
    assert edge.tank(*at, "get", "nothing").stderr == agent.tank("get", "nothing").stderr


def test_apply_sends_the_files_beside(agent: Agent, edge: Remote, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("from here\n")
    file = tmp_path / "sent.toml"
    head = 'name = "sent"\n[[files]]\nname = "page"\nsource = "page.html"\n'
    mount = '[[containers.mounts]]\nfile = "page"\npath = "/page"\n'
    file.write_text(agent.pod_text(head=head, extra=mount))
    planned = edge.tank(*socket(agent), "plan", str(file))
    assert (planned.returncode, planned.stdout[:14]) == (2, "+ sent: create"), planned
    applied = edge.tank(*socket(agent), "apply", str(file))
    assert applied.returncode == 0, applied
    assert edge.tank(*socket(agent), "wait", "sent").returncode == 0
    assert edge.tank(*socket(agent), "exec", "sent", "cat", "/page").stdout == "from here\n"
    assert edge.tank(*socket(agent), "delete", "sent").returncode == 0
    agent.wait_gone("sent")


def test_commands_pass_bytes_and_codes(agent: Agent, edge: Remote) -> None:
    big = os.urandom(3_000_000).hex().encode()
    done = edge.tank(*socket(agent), "exec", "web", "cat", stdin=big)
    assert (done.returncode, done.stdout.encode()) == (0, big)
    for script, code in (("exit 7", 7), ("kill -9 $$", 137), ("echo wrong >&2; exit 1", 1)):
        done = edge.tank("exec", *socket(agent), "web", "sh", "-c", script)
        assert done.returncode == code, done
    assert done.stderr == "wrong\n"


def on_terminal(agent: Agent, edge: Remote, *words: str) -> list[str]:
    """Return the words of a `tank` whose ssh is the user's, to be run in a terminal by `env`."""
    variables = [f"{key}={edge.environment[key]}" for key in ("PATH", "PYTHONPATH")]
    return ["-u", "TANK_SOCKET", *variables, sys.executable, "-m", "tank_agent", *socket(agent), *words]


def test_a_terminal(agent: Agent, edge: Remote) -> None:
    with terminal(agent, program="env", arguments=on_terminal(agent, edge, "exec", "web", "sh")) as user:
        shell(user)
        user.line("stty size")
        user.expect("24 80")
        user.resize(40, 100)
        wait_for(lambda: sized(user, "40 100"), "the new size has arrived")
        # What prints it has the terminal; before that, the shell might swallow the key.
        user.line("sh -c 'echo be$((1))gun; exec sleep 1000'")
        user.expect("be1gun")
        user.type("\x03")
        user.line("echo still $((1 + 1))")
        user.expect("still 2")
        user.line("exit 5")
        assert user.end() == 5
        assert user.is_restored()
    with terminal(agent, program="env", arguments=on_terminal(agent, edge, "exec", "web", "sh")) as user:
        shell(user)
        user.type(LEAVE)
        user.expect("detached")
        assert user.end() == 0
        assert user.is_restored()


def shell(user: Terminal) -> None:
    user.wait_raw()
    user.line("echo $((6 * 7))")
    user.expect("42")


def sized(user: Terminal, text: str) -> bool:
    user.line("stty size; echo end $((0))")
    user.expect("end 0")
    return text in user.printed


def test_attach(agent: Agent, edge: Remote) -> None:
    agent.write("shell", agent.pod_text(command=["/bin/sh"], extra="tty = true"))
    agent.wait_phase("shell", "running")
    with terminal(agent, program="env", arguments=on_terminal(agent, edge, "attach", "shell")) as user:
        shell(user)
        user.type(LEAVE)
        user.expect("detached")
        assert user.end() == 0
        assert user.is_restored()
    (agent.pods / "shell.toml").unlink()
    agent.wait_gone("shell")


def test_ssh_is_killed_in_the_middle(agent: Agent, edge: Remote) -> None:
    with terminal(agent, program="env", arguments=on_terminal(agent, edge, "exec", "web", "sh")) as user:
        shell(user)
        for pid in ssh_pids(edge):
            os.kill(pid, signal.SIGKILL)
        user.expect("the connection to it broke off")
        assert user.end() == 1
        assert user.is_restored()


def ssh_pids(edge: Remote) -> list[int]:
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if f"ssh -F {edge.base}" in line]


def test_streams_follow(agent: Agent, edge: Remote) -> None:
    agent.write("talk", agent.pod_text(command=["/bin/sh", "-c", "echo one; sleep 1; echo two; sleep 1"]))
    client = Client(agent.run / "tank.sock", host=HOST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", edge.environment["PATH"])
        assert client.wait("talk", timeout=20.0).phase == "running"
        lines = client.logs("talk", follow=True)
        assert [next(lines).content, next(lines).content] == [b"one", b"two"]
        del lines
        number = 0
        for event in client.events(follow=True):
            number += 1
            if event.pod == "talk":
                break
        assert number
        with pytest.raises(PodNotFound):
            client.status("nothing")
        ssh.close_all()
    (agent.pods / "talk.toml").unlink()
    agent.wait_gone("talk")


def test_one_connection_serves_many_requests(
    agent: Agent, edge: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", edge.environment["PATH"])
    client = Client(agent.run / "tank.sock", host="ssh://edge-of-one")
    pids = set()
    for _ in range(5):
        client.status()
        pids |= set(ssh_pids(edge))
    assert len(pids) == 1
    (pid,) = pids
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not edge.processes(), "the ssh has ended")
    assert client.info().version
    assert ssh_pids(edge) != [pid]
    ssh.close_all()


def test_what_is_missing(agent: Agent, edge: Remote, tmp_path: Path) -> None:
    """Each fault has its sentence, with what ssh says, and ends with 1."""

    def said(*words: str, env: dict[str, str] | None = None) -> str:
        done = edge.tank(*(words or ("--host", HOST, "list")), env=env)
        assert done.returncode == 1, done
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    known = (edge.base / "known_hosts").read_text()
    config = (edge.base / "config").read_text()
    try:
        assert "there is no ssh on this machine" in said(env={"PATH": str(tmp_path)})
        edge.configure("Host edge", "HostName no-such-host.invalid")
        assert "there is no host of this name" in said()
        edge.configure("Host edge", "Port 1")
        text = said()
        assert "no ssh server listens there" in text
        assert "(ssh: ssh: connect to host 127.0.0.1 port 1: Connection refused)" in text
        edge.configure("Host edge", f"IdentityFile {edge.keys.other}", "PubkeyAuthentication no")
        assert "ssh is not let in" in said()
        edge.configure()
        (edge.base / "known_hosts").write_text("")
        assert "the host's key is not known" in said()
        other = Path(f"{edge.keys.other}.pub").read_text().split()
        (edge.base / "known_hosts").write_text(f"[127.0.0.1]:{edge.port} {other[0]} {other[1]}\n")
        assert "another one than ~/.ssh/known_hosts has" in said()
        (edge.base / "known_hosts").write_text(known)
        missing = tmp_path / "tank.sock"
        text = said("--host", HOST, "--socket", str(missing), "list")
        assert "the agent is not running" in text
        assert f"{HOST}{missing}" in text
        for line, sentence in (
            ("echo tank: command not found >&2; exit 127", "there is no tank on that machine"),
            ("exit 126", "cannot be executed on that machine"),
            ("echo 'tank: there is no dial' >&2; exit 2", "is too old"),
            ("exit 9", "ended with code 9"),
            ("kill -9 $$", "ssh failed"),
            ("head -c 100000 /dev/zero", "prints text of its own"),
        ):
            edge.write_tank(line)
            assert sentence in said(), line
    finally:
        (edge.base / "known_hosts").write_text(known)
        (edge.base / "config").write_text(config)
        edge.write_tank(edge.line)
    edge.wait_quiet()


def test_questions_of_ssh_are_the_users(agent: Agent, edge: Remote) -> None:
    known, question = edge.base / "known_hosts", "Are you sure you want to continue connecting"
    text = known.read_text()
    try:
        known.write_text("")
        words = on_terminal(agent, edge, "exec", "web", "sh")
        with terminal(agent, program="env", arguments=words) as user:
            user.expect(question)
            user.type("\x03")
            assert user.end() == 130
            assert user.is_restored()
        edge.wait_quiet()
        with terminal(agent, program="env", arguments=words) as user:
            user.expect(question)
            user.line("yes")
            shell(user)
            user.line("exit 3")
            assert user.end() == 3
    finally:
        known.write_text(text)


def test_a_shell_that_prints_and_a_user_who_is_no_member(agent: Agent, edge: Remote) -> None:
    try:
        edge.write_tank(f"echo welcome; {edge.line}")
        assert edge.tank(*socket(agent), "list").returncode == 0
        edge.write_tank(f"exec setpriv --reuid 65534 --regid 65534 --clear-groups {edge.line[5:]}")
        (agent.run / "tank.sock").chmod(0o666)
        done = edge.tank(*socket(agent), "list")
        assert done.returncode == 1
        assert "only root" in done.stderr
    finally:
        (agent.run / "tank.sock").chmod(0o660)
        edge.write_tank(edge.line)


def test_hostile_addresses(edge: Remote) -> None:
    for text in (
        "ssh://-oProxyCommand=touch${IFS}x",
        "ssh://-l@edge",
        "ssh://edge:22x",
        "ssh://edge:0",
        "ssh://edge:70000",
        "ssh://",
        "ssh://a b",
        "ssh://edge\n",
        "ssh://edge\x1b[2J",
        "ssh://$(touch x)",
        "ssh://a;b",
        "ssh://u:secret@edge",
        "ssh://[::1",
        "ssh://edge/run\n/x",
        "tcp://edge",
        "edge",
        "-oProxyCommand=x",
    ):
        done = edge.tank(f"--host={text}", "list")
        assert done.returncode == 1, done
        assert "secret" not in done.stderr
        assert "\x1b" not in done.stderr
    assert "write ssh://edge" in edge.tank("--host", "edge", "list").stderr
    # What a shell would read in a path is a part of the path.
    done = edge.tank("--host", HOST, "--socket", f"/x'; touch {edge.base}/bad; '$(id)", "list")
    assert "the agent is not running" in done.stderr
    assert not (edge.base / "bad").exists()


def test_verbs_about_this_machine(agent: Agent, edge: Remote, tmp_path: Path) -> None:
    for words in (
        ["validate", "x.toml"],
        ["schema"],
        ["doctor"],
        ["secret", "recipients"],
        ["git", "init", "x"],
    ):
        done = edge.tank("--host", HOST, *words)
        assert done.returncode == 1, done
        assert "is about this machine" in done.stderr
    assert edge.tank("schema", env={"TANK_HOST": HOST}).returncode == 0
    assert agent.tank("--host", "", "list").returncode == 0
    several = edge.tank("--host", HOST, "--host", "ssh://b", "list")
    assert several.returncode == 1
    assert "asks one machine" in several.stderr
    file = tmp_path / "web.toml"
    file.write_text(agent.pod_text())
    # A name is the machine to plan for, as it was before.
    assert edge.tank("plan", str(file), "--host", "nas").returncode == 2


def test_status_of_several(agent: Agent, edge: Remote, tmp_path: Path) -> None:
    with running_agent(tmp_path) as second:
        second.write("db", second.pod_text())
        second.wait_phase("db", "running")
        one, two = f"ssh://one{agent.run}/tank.sock", f"ssh://two{second.run}/tank.sock"
        done = edge.tank("status", "--host", one, "--host", two)
        assert done.returncode == 0, done
        lines = [line.split() for line in done.stdout.splitlines()]
        assert lines[0][:3] == ["HOST", "NAME", "PHASE"]
        assert [line[:3] for line in lines[1:3]] == [["one", "web", "running"], ["two", "db", "running"]]
        found = edge.tank("status", "-o", "json", env={"TANK_HOST": f"{one}, {two}"})
        assert [(pod["host"], pod["name"]) for pod in json.loads(found.stdout)] == [
            ("ssh://one", "web"),
            ("ssh://two", "db"),
        ]
        details = edge.tank("status", "db", "--host", one, "--host", two)
        assert details.returncode == 0
        assert "host        ssh://two" in details.stdout
        assert edge.tank("status", "nothing", "--host", one, "--host", two).returncode == 1
        gone = edge.tank("status", "--host", one, "--host", two, "--host", "ssh://gone:1")
        assert gone.returncode == 1
        assert "one   web" in gone.stdout
        assert "ssh://gone:1" in gone.stderr
        assert "no ssh server listens there" in gone.stderr


def test_the_agent_is_killed(edge: Remote, tmp_path: Path) -> None:
    with running_agent(tmp_path) as own:
        own.write("web", own.pod_text())
        own.wait_phase("web", "running")
        with terminal(own, program="env", arguments=on_terminal(own, edge, "exec", "web", "sh")) as user:
            shell(user)
            own.kill()
            user.expect("the agent ended, or the connection to it broke off")
            assert user.end() == 1
            assert user.is_restored()
        own.start()


def test_the_server_goes_away(agent: Agent, tmp_path: Path) -> None:
    with remote(tmp_path) as own:
        at = [*socket(agent), "events", "-f"]
        following = subprocess.Popen(
            [sys.executable, "-m", "tank_agent", *at],
            env=own.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert following.stdout
        assert following.stdout.readline()
        own.end_sessions()
        _, said = following.communicate(timeout=30)
        assert following.returncode == 1
        assert "the connection to it broke off" in said
