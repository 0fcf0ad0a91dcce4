"""Live pages: what is written for a frame, and how they begin and end on a terminal."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pexpect
import pytest

from tank_agent.api.reports import PodReport
from tank_agent.cli.live import Screen, clipped
from tests.support.fake_service import FakeService, serving, until

ENTERED, LEFT = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"


def test_a_frame_is_what_has_changed() -> None:
    screen = Screen()
    assert screen.frame("a\nb\n", 80, 24) == b"\x1b[1;1Ha\x1b[K\x1b[2;1Hb\x1b[K\x1b[3;1H\x1b[J"
    assert screen.frame("a\nb\n", 80, 24) == b""
    assert screen.frame("a\nc\n", 80, 24) == b"\x1b[2;1Hc\x1b[K"
    assert screen.frame("a\nc\nd\n", 80, 24) == b"\x1b[3;1Hd\x1b[K"
    assert screen.frame("a\n", 80, 24) == b"\x1b[2;1H\x1b[J"
    screen.forget()
    assert screen.frame("a\n", 80, 24) == b"\x1b[1;1Ha\x1b[K\x1b[2;1H\x1b[J"


def test_a_frame_fits_into_the_window() -> None:
    frame = Screen().frame("one\ntwo\nthree\nfour\n", 5, 3)
    assert frame == "\x1b[1;1Hone\x1b[K\x1b[2;1Htwo\x1b[K\x1b[3;1H… 2 m\x1b[K".encode()
    assert Screen().frame("one\ntwo\n", 5, 2).endswith(b"\x1b[2;1Htwo\x1b[K")


@pytest.mark.parametrize(
    ("line", "columns", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "abc"),
        ("\x1b[31mabc\x1b[0m", 3, "\x1b[31mabc\x1b[0m"),
        ("\x1b[31mabcd\x1b[0m", 3, "\x1b[31mabc\x1b[0m"),
        ("a\x1b[31mb\x1b[0mcd", 3, "a\x1b[31mb\x1b[0mc\x1b[0m"),
        ("東京都", 5, "東京"),
    ],
)
def test_a_line_is_clipped_with_its_colors(line: str, columns: int, shown: str) -> None:
    assert clipped(line, columns) == shown


class Counting(FakeService):
    """Counts the requests for the status of all pods."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def status(self, name: str | None = None, **options: bool) -> list[PodReport]:
        if name is None:
            self.asked += 1
        return super().status(name, **options)


@pytest.fixture
def service() -> Counting:
    service = Counting()
    usage = {"memory": 60_000_000, "cpu": 12.5, "pids": 3}
    app = {"name": "app", "phase": "running", "pid": 17, "restarts": 0, "image": "nginx", "usage": usage}
    for name in ("db", "web"):
        service.add(
            name, containers=[{**app, "started_at": "2026-01-01T00:00:00Z", "memory_limit": 256 << 20}]
        )
    service.add("idle", "completed")
    return service


@pytest.fixture
def socket(service: Counting, tmp_path: Path) -> Iterator[Path]:
    with serving(service, tmp_path / "tank.sock"):
        yield tmp_path / "tank.sock"


def spawn(socket: Path, *words: str, **environment: str) -> pexpect.spawn:
    environment = {**os.environ, "TANK_SOCKET": str(socket), "TERM": "xterm", **environment}
    words = ("-m", "tank_agent", *words)
    return pexpect.spawn(sys.executable, [*words], timeout=20, dimensions=(24, 80), env=environment)


@pytest.mark.parametrize("words", [("top", "--interval", "0.1s"), ("status", "-w", "--interval", "0.1s")])
@pytest.mark.parametrize("way", ["q", "ctrl-c", "term"])
def test_a_live_page_leaves_the_terminal_as_it_was(socket: Path, words: tuple[str, ...], way: str) -> None:
    child = spawn(socket, *words)
    before = termios.tcgetattr(child.child_fd)
    child.expect_exact(ENTERED)
    child.expect_exact("web")
    assert not termios.tcgetattr(child.child_fd)[3] & (termios.ICANON | termios.ECHO)
    if way == "term":
        child.kill(signal.SIGTERM)
    else:
        child.send("q" if way == "q" else "\x03")
    child.expect_exact(LEFT)
    child.expect(pexpect.EOF)
    assert b"Traceback" not in child.before
    until(lambda: not child.isalive())
    ends = {"q": (0, None), "ctrl-c": (130, None), "term": (None, signal.SIGTERM)}
    assert (child.exitstatus, child.signalstatus) == ends[way]
    assert termios.tcgetattr(child.child_fd) == before
    child.close()


def test_another_size_of_the_window_is_drawn_at_once_without_a_look(socket: Path, service: Counting) -> None:
    child = spawn(socket, "status", "-w", "--interval", "60s")
    child.expect_exact("RESTARTS")
    until(lambda: service.asked == 2, 20)
    asked = service.asked
    child.setwinsize(24, 20)
    child.expect(re.compile(rb"\x1b\[1;1H[0-9:]+"))
    # Of the narrow one: the size from before, which was set after the start, may still be drawn.
    child.expect(re.compile(rb"PHASE *\x1b"))
    assert service.asked == asked
    child.send("q")
    child.expect(pexpect.EOF)
    assert b"RESTARTS" not in child.before
    child.close()


def test_a_live_page_that_is_stopped_gives_the_terminal_back(socket: Path) -> None:
    script = 'set -m; "$@"; echo paused; stty -a | tr -d ";"; fg >/dev/null; echo over $?'
    words = ["-c", script, "bash", sys.executable, "-m", "tank_agent", "top", "--interval", "0.1s"]
    environment = {**os.environ, "TANK_SOCKET": str(socket), "TERM": "xterm"}
    child = pexpect.spawn("/bin/bash", words, timeout=20, dimensions=(24, 80), env=environment)
    child.expect_exact("web/app")
    child.send("\x1a")
    child.expect_exact(LEFT)
    child.expect_exact("paused")
    child.expect(" icanon .* echo ")
    child.expect_exact(ENTERED)
    child.expect_exact("CONTAINER")
    child.send("q")
    child.expect_exact(LEFT)
    child.expect_exact("over 0")
    child.expect(pexpect.EOF)
    child.close()


def test_a_live_page_that_nobody_could_continue_is_not_stopped(socket: Path) -> None:
    # The kernel ignores SIGTSTP for a process whose parent is in another session.
    child = spawn(socket, "top", "--interval", "0.1s")
    child.expect_exact("web/app")
    child.send("\x1a")
    child.expect_exact(LEFT)
    child.expect_exact(ENTERED)
    child.expect_exact("CONTAINER")
    child.send("q")
    child.expect_exact(LEFT)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_live_page_outlives_the_agent(service: Counting, tmp_path: Path) -> None:
    with serving(service, tmp_path / "tank.sock"):
        child = spawn(tmp_path / "tank.sock", "top", "--interval", "0.1s")
        child.expect_exact("web/app")
    child.expect_exact("the agent is not running")
    with serving(service, tmp_path / "tank.sock"):
        child.expect_exact("every 0.1s, q ends")
        child.send("q")
        child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_terminal_gets_only_what_changes(socket: Path, service: Counting) -> None:
    child = spawn(socket, "top", "--interval", "0.1s")
    child.expect_exact("web/app")
    # The second look has the CPU, which is the last that changes.
    child.expect(r"web/app +0\.0 .*?K")
    asked = service.asked
    until(lambda: service.asked >= asked + 30, 20)
    child.send("q")
    child.expect_exact(LEFT)
    seconds = len(re.findall(rb"\d\d:\d\d:\d\d", child.before))
    # Of thirty frames, those of another second have the time.
    assert seconds < 20
    assert len(child.before) <= 60 * (seconds + 2)
    for clears in (b"\x1b[2J", b"\x1b[J", b"web/app"):
        assert clears not in child.before
    child.expect(pexpect.EOF)
    child.close()


class Busy(Counting):
    """A thousand pods, of which each look finds another number of restarts."""

    def status(self, name: str | None = None, **options: bool) -> list[PodReport]:
        if name is None:
            self.asked += 1
        app = {"name": "app", "phase": "running", "pid": 17, "restarts": self.asked * 1000, "image": "nginx"}
        one = msgspec.convert({"name": "x", "phase": "running", "containers": [app]}, PodReport)
        return [msgspec.structs.replace(one, name=f"pod-{at}") for at in range(1000)]


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple[Busy, int, subprocess.Popen[bytes]]]:
    """Show a thousand pods live; yield who is asked, the other side of the terminal, and the process."""
    service = Busy()
    with serving(service, tmp_path / "tank.sock"):
        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (50, 100))
        words = [sys.executable, "-m", "tank_agent", "status", "-w", "--interval", "0.1s"]
        # As if it were over ssh, for those that answer.
        environment = {**os.environ, "TANK_SOCKET": str(tmp_path / "tank.sock"), "TERM": "xterm"}
        environment["SSH_CONNECTION"] = "192.0.2.1 50000 192.0.2.2 22"
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        with subprocess.Popen(words, **streams, env=environment, start_new_session=True) as process:
            os.close(theirs)
            yield service, ours, process
            process.kill()
        os.close(ours)


def test_a_slow_line_gets_fewer_frames_and_none_late(busy: tuple[Busy, int, subprocess.Popen[bytes]]) -> None:
    service, line, process = busy
    seen, late, last = b"", list[int](), 0
    # Each frame has 5 KB, and the line takes 2 KB in a second.
    for _ in range(60):
        seen = (seen + os.read(line, 200))[-8000:]
        numbers = re.findall(rb" (\d+)000 ", seen)
        if numbers:
            last = int(numbers[-1])
            late.append(service.asked - last)
        time.sleep(0.1)
    # What the kernel keeps for a terminal is all that is ever late.
    assert len(late) > 20 and max(late[5:]) <= 8
    assert service.asked < 20
    os.write(line, b"q")
    ended = time.monotonic()
    while b"\x1b[?1049l" not in seen:
        assert time.monotonic() < ended + 30
        with contextlib.suppress(OSError):
            seen = (seen + os.read(line, 200))[-8000:]
        time.sleep(0.01)
    assert process.wait(20) == 0


class FarTerminal:
    """A terminal behind ssh: all that is written is taken at once, and reaches it with 2 KB a second."""

    def __init__(self, line: int, *, answers: bool) -> None:
        self.line, self.answers = line, answers
        self.queue, self.shown, self.longest = b"", b"", 0

    def step(self) -> None:
        """Let a tenth of a second go by."""
        while select.select([self.line], [], [], 0)[0]:
            self.queue += os.read(self.line, 65536)
        self.longest = max(self.longest, len(self.queue))
        shown, self.queue = self.queue[:200], self.queue[200:]
        before, self.shown = self.shown, self.shown + shown
        if self.answers and self.shown.count(b"\x1b[5n") > before.count(b"\x1b[5n"):
            # In pieces, as it may come.
            os.write(self.line, b"\x1b[0")
            os.write(self.line, b"n")
        time.sleep(0.1)


def test_a_slow_line_behind_ssh_has_one_frame_on_its_way(
    busy: tuple[Busy, int, subprocess.Popen[bytes]],
) -> None:
    service, line, process = busy
    terminal = FarTerminal(line, answers=True)
    for _ in range(100):
        terminal.step()
    assert terminal.shown.count(b"\x1b[5n") >= 2
    assert terminal.longest < 1.5 * 6000
    assert service.asked <= 8
    os.write(line, b"q")
    ends = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < ends:
        terminal.step()
    assert process.wait(1) == 0


def test_a_terminal_that_does_not_answer_is_not_waited_for(
    busy: tuple[Busy, int, subprocess.Popen[bytes]],
) -> None:
    service, line, process = busy
    terminal = FarTerminal(line, answers=False)

    def many() -> bool:
        terminal.step()
        terminal.shown, terminal.queue = terminal.queue, b""
        return service.asked > 12

    until(many, 40)
    os.write(line, b"q")
    until(lambda: terminal.step() or process.poll() is not None, 20)
    assert process.wait(1) == 0


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"\x03", 130)])
def test_a_key_ends_it_though_the_line_takes_nothing(
    busy: tuple[Busy, int, subprocess.Popen[bytes]], key: bytes, code: int
) -> None:
    service, line, process = busy
    os.read(line, 200)

    def stuck() -> bool:
        asked = service.asked
        time.sleep(1)
        return asked > 1 and service.asked == asked

    until(stuck, 30)
    os.write(line, key)
    # Without a session's terminal, no key is a signal.
    if key == b"\x03":
        process.send_signal(signal.SIGINT)
    assert process.wait(20) == code


def test_a_thousand_pods_fill_the_window_and_no_more(busy: tuple[Busy, int, subprocess.Popen[bytes]]) -> None:
    _, line, process = busy
    seen = b""
    until_then = time.monotonic() + 20
    while seen.count(b"more lines") < 1:
        assert time.monotonic() < until_then
        seen += os.read(line, 4096)
    first = seen.decode()
    assert first.count("pod-") == 50 - 1 - 3
    assert "… 954 more lines" in first
    assert not re.search(r"\x1b\[(5[1-9]|[6-9]\d|\d{3,});1H", first)
    os.write(line, b"q")
    with contextlib.suppress(OSError):
        while os.read(line, 4096):
            pass
    assert process.wait(20) == 0


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_simple_terminal_has_one_table_below_the_other(socket: Path, term: str) -> None:
    child = spawn(socket, "top", "--interval", "0.1s", TERM=term)
    for _ in range(3):
        child.expect_exact("CONTAINER")
    child.send("\x03")
    child.expect(pexpect.EOF)
    assert b"\x1b[?" not in child.before and b";1H" not in child.before
    child.close()
    assert child.exitstatus == 130


@pytest.mark.parametrize("verb", [("top",), ("status", "-w"), ("status", "-w", "web")])
def test_a_pipe_has_one_table_below_the_other(socket: Path, service: Counting, verb: tuple[str, ...]) -> None:
    words = [sys.executable, "-m", "tank_agent", *verb, "--interval", "0.1s"]
    environment = {**os.environ, "TANK_SOCKET": str(socket)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        tables = 0
        while tables < 3:
            line = process.stdout.readline()
            assert b"\x1b" not in line
            tables += line.startswith((b"CONTAINER", b"NAME"))
        process.stdout.close()
        assert (process.wait(20), process.stderr.read()) == (141, b"")


@pytest.mark.parametrize("verb", [("top",), ("status", "-w")])
def test_the_first_look_must_be_answered(tmp_path: Path, verb: tuple[str, ...]) -> None:
    child = spawn(tmp_path / "none.sock", *verb)
    child.expect_exact("the agent is not running")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1
    assert b"\x1b[?" not in child.before


def test_top_asks_once_a_look(socket: Path, service: Counting) -> None:
    child = spawn(socket, "top", "web", "--interval", "0.2s")
    child.expect_exact("web/app")
    # The second look has the CPU.
    child.expect_exact("0.0")
    child.send("q")
    child.expect(pexpect.EOF)
    child.close()
    assert service.asked >= 2
    assert b"db/app" not in child.before
