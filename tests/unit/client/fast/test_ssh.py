"""Addresses of other machines: what is one, what ssh is told of it, and what an ssh that fails means."""

from __future__ import annotations

import os
import signal
import sys
import termios
from pathlib import Path

import pexpect
import pytest

from tank_agent.client.fast import ssh
from tank_agent.client.fast.ssh import HostAddress, SshConnection
from tank_agent.errors import AgentUnreachable, TankError
from tests.support.fake_service import until

# An ssh that asks without an echo. As the real one does, it handles signals that it was started without.
ASKS = """
import os, signal, sys, termios, time
terminal = os.open("/dev/tty", os.O_RDWR)
before = termios.tcgetattr(terminal)
def end(*_):
    termios.tcsetattr(terminal, termios.TCSANOW, before)
    os.write(2, b"Host key verification failed.\\r\\n")
    os._exit(255)
"""
QUESTION = """
silent = termios.tcgetattr(terminal)
silent[3] &= ~termios.ECHO
termios.tcsetattr(terminal, termios.TCSANOW, silent)
os.write(terminal, b"%d is sure? " % os.getpid())
while True:
    time.sleep(1000)
"""
ENDS = "signal.signal(signal.SIGINT, end); signal.signal(signal.SIGTERM, end)"
ASKS_AGAIN = "signal.signal(signal.SIGINT, lambda *_: None); signal.signal(signal.SIGTERM, end)"
STAYS = (
    "signal.signal(signal.SIGINT, lambda *_: None); signal.signal(signal.SIGTERM, signal.SIG_IGN); end = None"
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ssh://edge", ("", "edge", "", "")),
        ("ssh://edge/", ("", "edge", "", "")),
        ("ssh://ann@edge-1.example.com:2222", ("ann", "edge-1.example.com", "2222", "")),
        ("ssh://ann@corp.example@edge", ("ann@corp.example", "edge", "", "")),
        ("ssh://[fd00::7]", ("", "fd00::7", "", "")),
        ("ssh://ann@[fe80::1%eth0]:22/run/my tank.sock", ("ann", "fe80::1%eth0", "22", "/run/my tank.sock")),
        ("ssh://192.0.2.7/x", ("", "192.0.2.7", "", "/x")),
    ],
)
def test_addresses(text: str, parts: tuple[str, str, str, str]) -> None:
    found = ssh.parse(text)
    assert found == HostAddress(*parts)
    assert ssh.parse(f"{found.host}{found.socket}") == found


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "edge",
            "tcp://edge",
            "ssh:edge",
            "ssh://",
            "ssh:///run/tank.sock",
            "ssh://@edge",
            "ssh://edge:",
        ),
        *("ssh://-oProxyCommand=x", "ssh://-l@edge", "ssh://edge:x", "ssh://edge:0", "ssh://edge:65536"),
        *("ssh://a b", "ssh://a\n", "ssh://a\x00b", "ssh://a\x1b", "ssh://$(x)", "ssh://a;b", "ssh://a,b"),
        *("ssh://[::1", "ssh://[::1]x", "ssh://[]", "ssh://[a;b]", "ssh://fd00::7", "ssh://ann:pw@edge"),
        *(
            "ssh://ann:p/pw@edge",
            "ssh://ann:p@pw@edge",
            "ssh://:pw@edge",
            "ssh://ann:pw\n@edge",
            "ann:pw@edge",
        ),
        *(
            "tcp://ann:pw@edge",
            "ssh:ann:pw@edge",
            "SSH://ann:pw@edge:22/run/x",
            "ssh://ann:pw@",
            "ssh://a:/pw@b",
        ),
        *("ssh://edge/a\nb", "ssh://é", "ssh://a'b", "ssh://%h", "ssh://edge:22:22", "ssh://edge:+1"),
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(TankError) as caught:
        ssh.parse(text)
    assert caught.value.hint
    assert "pw" not in str(caught.value)


def test_a_port_and_a_path_with_an_at_are_no_password() -> None:
    assert ssh.parse("ssh://edge:22/run/user@1000").socket == "/run/user@1000"
    with pytest.raises(TankError, match="the address of 'edge' is given with a password"):
        ssh.parse("ssh://ann:p/w@edge")


def test_the_socket_of_the_other_machine() -> None:
    assert ssh.address("ssh://edge/run/a", None) == "ssh://edge/run/a"
    assert ssh.address("ssh://edge/run/a", "/run/b") == "ssh://edge/run/b"
    with pytest.raises(TankError, match="absolute"):
        ssh.address("ssh://edge", "tank.sock")


def test_only_constant_words_and_a_quoted_path_reach_the_shell() -> None:
    argv = ssh.parse("ssh://ann@[fd00::7]:22/x'; rm -rf $HOME").argv(batch=False)
    assert argv[-4:] == ["ann", "--", "fd00::7", "tank dial --socket '/x'\"'\"'; rm -rf $HOME'"]
    assert argv[argv.index("-p") + 1] == "22"
    assert "-oBatchMode=yes" not in argv
    argv = ssh.parse("ssh://edge").argv(batch=True)
    assert argv[-3:] == ["--", "edge", "tank dial"]
    assert "-oBatchMode=yes" in argv


def put_ssh(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Make `ssh` a shell script."""
    program = directory / "ssh"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def has_ended(pid: int) -> bool:
    """Return whether a process has ended for whose end nobody has asked."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    ("answer", "late"), [(ENDS, False), (ENDS, True), (ASKS_AGAIN, False), (STAYS, False)]
)
@pytest.mark.parametrize("words", [("exec", "web", "sh"), ("list",)])
def test_ctrl_c_at_a_question_of_ssh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], answer: str, late: bool
) -> None:
    """It ends with 130, whatever ssh does at it; `late` is a tank that acts on it after ssh has ended."""
    script = tmp_path / "asks.py"
    script.write_text(f"{ASKS}{answer}{QUESTION}")
    put_ssh(tmp_path, monkeypatch, f"exec '{sys.executable}' -IS '{script}'")
    child = pexpect.spawn(sys.executable, ["-m", "tank_agent", "--host", "ssh://edge", *words], timeout=20)
    before = termios.tcgetattr(child.child_fd)
    child.expect(r"(\d+) is sure\? ")
    asking = int(child.match[1])
    if late:
        os.kill(child.pid, signal.SIGSTOP)
    child.send("\x03")
    if late:
        until(lambda: has_ended(asking))
        os.kill(child.pid, signal.SIGCONT)
    child.expect(pexpect.EOF)
    assert b"Traceback" not in child.before
    # One that has to be killed leaves the terminal as it is.
    assert answer == STAYS or termios.tcgetattr(child.child_fd) == before
    child.close()
    assert (child.exitstatus, child.signalstatus) == (130, None)
    until(lambda: not Path(f"/proc/{asking}").exists())


@pytest.mark.parametrize("error", [KeyboardInterrupt, AgentUnreachable])
def test_an_ssh_that_has_ended_before_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def greet(self: SshConnection, _: float | None) -> None:
        until(lambda: has_ended(self._pid))
        raise error("")

    put_ssh(tmp_path, monkeypatch, "exit 255")
    monkeypatch.setattr(SshConnection, "greet", greet)
    with pytest.raises(error):
        ssh.connect("ssh://edge")
    assert ssh._open == []


def test_ctrl_c_right_after_the_end_of_ssh_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_ssh(tmp_path, monkeypatch, "exit 255")
    wait = os.waitpid

    def interrupted(pid: int, options: int) -> None:
        assert wait(pid, options)[0] == pid
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "waitpid", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ssh.connect("ssh://edge")
    assert ssh._open == []
