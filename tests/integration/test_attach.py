"""`tank attach`: the terminal of a container's main process, taken over, left, and come back to."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tank_agent import Detached, Exited, NotATty, NotRunning, Signaled
from tank_agent.errors import PodNotFound
from tests.support.agent import Agent, running_agent, wait_for
from tests.support.terminal import LEAVE, Terminal, add_commands, terminal

SHELL = 'tty = true\nstop_grace = "0s"'


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("attach")) as started:
        prepare(started)
        yield started


def prepare(agent: Agent) -> None:
    add_commands(agent, "stty", "vi", "yes", "tty", "dd", "seq", "usleep", "test", "wc")


@pytest.fixture
def own_agent(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent that the test may kill."""
    with running_agent(tmp_path) as started:
        prepare(started)
        yield started


@contextlib.contextmanager
def console(agent: Agent, command: str = "exec sh", head: str = "") -> Iterator[str]:
    """Run a pod whose main process has a terminal; yield its name."""
    name = f"console-{time.monotonic_ns()}"
    agent.write(name, agent.pod_text(command=["/bin/sh", "-c", command], head=head, extra=SHELL))
    agent.wait_phase(name, "running")
    yield name
    (agent.pods / f"{name}.toml").unlink()
    agent.wait_gone(name)


def run_line(user: Terminal, line: str, answer: str) -> None:
    user.line(line)
    user.expect(answer)
    user.prompt()


def test_leave_come_back_and_end_it(agent: Agent) -> None:
    with console(agent) as name:
        with terminal(agent, "attach", name) as user:
            user.prompt()
            run_line(user, "mark=4711; echo mark''ed", "marked")
            user.type(LEAVE)
            user.expect("detached")
            assert user.end() == 0
            assert user.is_restored()
        main = agent.pid(name)
        with terminal(agent, "attach", name) as user:
            # What was printed last is shown, and it is the same shell.
            user.expect("marked")
            user.prompt()
            run_line(user, "echo still $mark", "still 4711")
            user.line("exit 5")
            assert user.end() == 5
            assert user.is_restored()
        # restart = "always": a fresh one comes right back.
        wait_for(lambda: _restarts(agent, name) == 1, "it is restarted")
        agent.wait_phase(name, "running")
        assert agent.pid(name) != main
        with terminal(agent, "attach", name) as user:
            user.prompt()
            run_line(user, "echo fresh${mark}", "fresh")
            user.type(LEAVE)
            assert user.end() == 0


def _restarts(agent: Agent, name: str) -> int:
    status = agent.status(name)
    return status["containers"][0]["restarts"] if status else -1


def test_a_signal_that_ends_it_gives_128_and_its_number(agent: Agent) -> None:
    with console(agent) as name, terminal(agent, "attach", name) as user:
        user.prompt()
        os.kill(agent.pid(name), signal.SIGKILL)
        assert user.end() == 128 + signal.SIGKILL
        assert user.is_restored()


def test_no_tty_and_not_running_say_so(agent: Agent) -> None:
    agent.write("plain", agent.pod_text(command=["/bin/sleep", "1000"]))
    agent.wait_phase("plain", "running")
    job = agent.pod_text(command=["/bin/true"], head='restart = "never"', extra="tty = true")
    agent.write("job", job)
    agent.wait_phase("job", "completed")
    for name, message in (
        ("plain", "plain/app is not a tty"),
        ("job", "job/app is not running: it is completed"),
        ("nobody", "there is no pod nobody"),
        ("plain/nobody", "pod plain has no container nobody"),
    ):
        done = agent.tank("attach", name)
        assert (done.returncode, done.stdout) == (1, ""), name
        assert message in done.stderr
    for name, error in (("plain", NotATty), ("job", NotRunning), ("nobody", PodNotFound)):
        with pytest.raises(error):
            agent.client.attach(name)


def test_of_several_containers_the_one_with_a_terminal_is_meant(agent: Agent) -> None:
    other = f'[[containers]]\nname = "shell"\nrootfs = "{agent.rootfs}"\ncommand = ["/bin/sh"]\n{SHELL}\n'
    agent.write("several", agent.pod_text(command=["/bin/sleep", "1000"]) + other)
    agent.wait_phase("several", "running")
    for name in ("several", "several/shell"):
        with terminal(agent, "attach", name) as user:
            user.prompt()
            run_line(user, "echo in''side", "inside")
            user.type(LEAVE)
            assert user.end() == 0
    assert "several/app is not a tty" in agent.tank("attach", "several/app").stderr


def test_nothing_that_was_printed_before_anybody_attached_is_missed(agent: Agent) -> None:
    with console(agent, "seq 300; exec sh") as name, terminal(agent, "attach", name) as user:
        user.expect("\r\n".join(map(str, range(1, 301))))
        user.type(LEAVE)
        assert user.end() == 0


def test_several_see_the_same_and_each_may_type(agent: Agent) -> None:
    with (
        console(agent) as name,
        terminal(agent, "attach", name) as one,
        terminal(agent, "attach", name) as two,
    ):
        one.prompt()
        two.prompt()
        one.line("echo from''one")
        one.expect("fromone")
        two.expect("fromone")
        two.line("echo from''two")
        one.expect("fromtwo")
        two.expect("fromtwo")
        two.type(LEAVE)
        assert two.end() == 0
        one.line("exit 6")
        assert one.end() == 6


def test_the_size_is_right_from_the_first_moment_and_after_resizes(agent: Agent) -> None:
    with console(agent) as name:
        for rows, columns in ((33, 101), (24, 80)):
            with terminal(agent, "attach", name, size=(rows, columns)) as user:
                user.prompt()
                has_size(user, rows, columns)
                # More of them than conmon could follow one by one; the last one counts.
                for step in range(30):
                    user.resize(rows + step, columns + step)
                has_size(user, rows + 29, columns + 29)
                user.type(LEAVE)
                assert user.end() == 0


def has_size(user: Terminal, rows: int, columns: int) -> None:
    user.line(f"until [ \"$(stty size)\" = '{rows} {columns}' ]; do usleep 20000; done; echo si''zed")
    user.expect("sized")
    user.prompt()


def test_vi_is_drawn_again_for_who_comes_back_and_at_the_new_size(agent: Agent) -> None:
    with console(agent, "exec vi /etc/passwd") as name:
        with terminal(agent, "attach", name, size=(24, 80)) as user:
            user.expect("root:x:0:0")
            user.type(LEAVE)
            user.expect("detached")
            assert user.end() == 0
        with terminal(agent, "attach", name, size=(24, 80)) as user:
            user.expect("root:x:0:0")
            user.expect("\x1b[24;1H")
            user.resize(12, 60)
            user.expect("\x1b[12;1H")
            user.type(":q!\r")
            assert user.end() == 0
            assert user.is_restored()


DRAWS = "n=0; trap 'n=$((n+1)); echo drawn $n $(stty size)' WINCH; echo up; while :; do usleep 20000; done"


def test_who_comes_back_at_the_same_size_is_drawn_to_again(agent: Agent) -> None:
    with console(agent, DRAWS) as name:
        come_back(agent, name)


def test_who_comes_back_after_a_restart_of_the_agent_is_drawn_to_again(own_agent: Agent) -> None:
    with console(own_agent, DRAWS) as name:
        come_back(own_agent, name)
        assert own_agent.stop() == 0
        own_agent.start()
        come_back(own_agent, name)


def come_back(agent: Agent, name: str) -> None:
    """Attach several times, always at one size, and expect a new drawing each time."""
    for _ in range(4):
        drawn = len(drawings(agent, name))
        with terminal(agent, "attach", name, size=(24, 80)) as user:
            user.wait_raw()
            wait_for(
                lambda drawn=drawn: drawings(agent, name)[drawn:][-1:] == ["24 80"],
                "it is drawn at that size",
            )
            user.type(LEAVE)
            assert user.end() == 0
        settled(agent, name)


def drawings(agent: Agent, name: str) -> list[str]:
    """Return the size of each drawing so far."""
    return [line.split(" ", 2)[2] for line in printed(agent, name) if line.startswith("drawn ")]


def printed(agent: Agent, name: str) -> list[str]:
    """Return the lines that a container has printed."""
    return [line.content.decode() for line in agent.client.logs(name)]


def settled(agent: Agent, name: str) -> None:
    """Wait until all lines to conmon have been written, which takes no more than three tenths of a second."""
    seen = [len(drawings(agent, name))] * 2
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        seen.append(len(drawings(agent, name)))
        if seen[-1] != seen[-2]:
            until = time.monotonic() + 0.5
        time.sleep(0.02)


def test_ctrl_c_reaches_the_process_and_a_lone_ctrl_p_as_well(agent: Agent) -> None:
    script = "trap 'echo inter''rupted' INT; stty -echo; echo ready; while :; do usleep 20000; done"
    with console(agent, script) as name, terminal(agent, "attach", name) as user:
        user.expect("ready")
        user.type("\x03")
        user.expect("interrupted")
        user.type(LEAVE)
        assert user.end() == 0
    script = "stty raw -echo; echo ready; dd bs=1 count=1 2>/dev/null | wc -c; exec sleep 1000"
    with console(agent, script) as name, terminal(agent, "attach", name) as user:
        user.expect("ready")
        user.type("\x10")
        # Nothing else is typed.
        user.expect("1")
        user.type(LEAVE)
        assert user.end() == 0


def test_other_detach_keys_and_none(agent: Agent) -> None:
    script = "stty raw -echo; echo ready; dd bs=1 count=2 2>/dev/null | wc -c; exec sleep 1000"
    with console(agent, script) as name:
        with terminal(agent, "attach", name, "--detach-keys", "ctrl-x,x") as user:
            user.expect("ready")
            user.type("\x18x")
            user.expect("detached")
            assert user.end() == 0
        with terminal(agent, "attach", name, "--detach-keys", "none") as user:
            user.expect("ready")
            # Both keys arrive, and nothing else did before.
            user.type(LEAVE)
            user.expect("2")
            os.kill(agent.pid(name), signal.SIGKILL)
            assert user.end() == 128 + signal.SIGKILL


def test_what_was_typed_before_the_keys_that_leave_arrives(agent: Agent) -> None:
    with console(agent) as name:
        for number in range(5):
            with terminal(agent, "attach", name) as user:
                # In one write, so that all of it comes in one read.
                user.wait_raw()
                user.type(f"echo typed''{number}\r{LEAVE}")
                assert user.end() == 0
            wait_for(lambda number=number: f"typed{number}" in printed(agent, name), "it was run")


def test_a_client_that_is_killed_takes_nothing_with_it(agent: Agent) -> None:
    with console(agent) as name:
        main = agent.pid(name)
        with terminal(agent, "attach", name) as user:
            user.prompt()
            os.kill(user.child.pid, signal.SIGKILL)
            assert user.status() == -signal.SIGKILL
        with terminal(agent, "attach", name) as user:
            user.prompt()
            run_line(user, "echo still''here", "stillhere")
            user.type(LEAVE)
            assert user.end() == 0
        assert agent.pid(name) == main


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_to_the_client_restores_the_terminal_and_the_container_goes_on(
    agent: Agent, number: int
) -> None:
    with console(agent) as name:
        main = agent.pid(name)
        with terminal(agent, "attach", name) as user:
            user.prompt()
            os.kill(user.child.pid, number)
            assert user.status() == -number
            assert user.is_restored()
        assert agent.pid(name) == main


def test_a_client_that_stops_reading_stalls_neither_container_nor_log_nor_others(agent: Agent) -> None:
    # 3 MB of numbered lines: far more than anybody keeps for who does not read.
    lines = 400_000
    script = f"stty -echo; echo ready; read go; seq -w 1 {lines}; echo all; exec sh"
    with (
        console(agent, script) as name,
        terminal(agent, "attach", name) as stuck,
        terminal(agent, "attach", name) as user,
    ):
        stuck.expect("ready")
        user.expect("ready")
        os.kill(stuck.child.pid, signal.SIGSTOP)
        user.line("go")
        # The other one sees all of it meanwhile, up to the last line.
        user.child.expect_exact(f"{lines}\r\nall\r\n", timeout=60)
        user.prompt()
        os.kill(stuck.child.pid, signal.SIGCONT)
        # It has missed much, is told so, and has what came last.
        stuck.expect("bytes of output skipped")
        stuck.expect(f"{lines}\r\nall")
        stuck.prompt()
        wanted = ["ready", *(f"{number:06}" for number in range(1, lines + 1)), "all"]
        assert printed(agent, name)[: len(wanted)] == wanted
        user.line("stty echo")
        user.prompt()
        run_line(stuck, "echo a''live", "alive")
        stuck.type(LEAVE)
        assert stuck.end() == 0


def test_the_agent_is_the_only_client_of_a_terminal(agent: Agent) -> None:
    with console(agent) as name:
        with terminal(agent, "attach", name) as one, terminal(agent, "attach", name) as two:
            for user in (one, two):
                user.prompt()
            # /proc/net/unix has one line for each end that conmon has accepted, with the socket's path.
            assert len(accepted(agent, name)) == 1
            for user in (one, two):
                user.type(LEAVE)
                assert user.end() == 0
        # It goes on to read, though nobody looks.
        assert len(accepted(agent, name)) == 1


def accepted(agent: Agent, name: str) -> list[str]:
    """Return the connections to the attach socket of a pod's only container."""
    (monitor,) = [pid for pid in agent.conmons() if f"/{name}/" in Path(f"/proc/{pid}/cmdline").read_text()]
    held = {str(entry.readlink()) for entry in Path(f"/proc/{monitor}/fd").iterdir()}
    table = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    # Type 5 keeps messages apart; one that listens has state 1, one that is connected 3.
    return [
        row[6] for row in table if row[4:6] == ["0005", "03"] and row[7:] and f"socket:[{row[6]}]" in held
    ]


@pytest.mark.parametrize(
    ("policy", "end", "code", "phase"),
    [
        ("on-failure", "exit", 0, "completed"),
        ("on-failure", "exit 3", 3, "running"),
        ("never", "exit", 0, "completed"),
        ("never", "exit 3", 3, "failed"),
    ],
)
def test_the_restart_policy_acts_when_the_process_ends(
    agent: Agent, policy: str, end: str, code: int, phase: str
) -> None:
    with console(agent, head=f'restart = "{policy}"') as name:
        with terminal(agent, "attach", name) as user:
            user.prompt()
            user.line(end)
            assert user.end() == code
        if phase == "running":
            wait_for(lambda: _restarts(agent, name) == 1, "it is restarted")
        agent.wait_phase(name, phase)
        assert _restarts(agent, name) == (1 if phase == "running" else 0)


def test_a_terminal_that_gets_its_size_later_passes_it_on(agent: Agent) -> None:
    with console(agent) as name, terminal(agent, "attach", name, size=(0, 0)) as user:
        user.prompt()
        user.resize(33, 101)
        has_size(user, 33, 101)
        user.type(LEAVE)
        assert user.end() == 0


def test_an_interrupt_from_outside_ends_the_client_and_the_container_goes_on(agent: Agent) -> None:
    with console(agent) as name:
        main = agent.pid(name)
        with terminal(agent, "attach", name) as user:
            user.prompt()
            os.kill(user.child.pid, signal.SIGINT)
            assert user.end() == 130
            assert user.is_restored()
        assert agent.pid(name) == main


def test_questions_to_the_terminal_are_not_asked_again(agent: Agent) -> None:
    script = r"printf 'asked \033[6n\033[c\033]11;?\007 done\n'; stty raw; exec sleep 1000"
    with console(agent, script) as name:
        wait_for(lambda: agent.output(name), "it has printed")
        with terminal(agent, "attach", name) as user:
            user.expect("asked ")
            user.expect(" done")
            assert user.printed == ""
            user.type(LEAVE)
            assert user.end() == 0


def test_an_agent_that_stops_says_so_and_the_container_goes_on(own_agent: Agent) -> None:
    agent = own_agent
    with console(agent) as name:
        main = agent.pid(name)
        with terminal(agent, "attach", name) as user:
            user.prompt()
            run_line(user, "echo be''fore", "before")
            assert agent.stop() == 0
            user.expect("the agent stops, which ends the attachment")
            user.expect("it goes on; attach again")
            assert user.end() == 1
            assert user.is_restored()
        agent.start()
        assert agent.pid(name) == main
        with terminal(agent, "attach", name) as user:
            # The new agent knows what was printed before its time.
            user.expect("before")
            user.prompt()
            run_line(user, "echo af''ter", "after")
            user.type(LEAVE)
            assert user.end() == 0


def test_a_killed_agent_leaves_terminal_and_container_in_order(own_agent: Agent) -> None:
    agent = own_agent
    with console(agent) as name:
        main = agent.pid(name)
        with terminal(agent, "attach", name) as user:
            user.prompt()
            agent.kill()
            user.expect("the agent ended")
            assert user.end() == 1
            assert user.is_restored()
        agent.start()
        assert agent.pid(name) == main
        with terminal(agent, "attach", name) as user:
            user.prompt()
            run_line(user, "echo al''ive", "alive")
            user.line("exit 4")
            assert user.end() == 4


def test_attach_from_python(agent: Agent) -> None:
    with console(agent, head='restart = "never"') as name, console(agent) as other:
        keys, typed = os.pipe()
        read, output = os.pipe()
        os.write(typed, LEAVE.encode())
        assert agent.client.attach(name, stdin=keys, stdout=output) == Detached()
        os.write(typed, b"exit 7\r")
        assert agent.client.attach(name, stdin=keys, stdout=output) == Exited(7)
        os.write(typed, b"echo he''re\r")
        with ThreadPoolExecutor(1) as pool:
            attached = pool.submit(agent.client.attach, other, stdin=keys, stdout=output)
            wait_for(lambda: b"here" in os.read(read, 4096), "it was run")
            os.kill(agent.pid(other), signal.SIGKILL)
            assert attached.result(60) == Signaled(9)
        for descriptor in (keys, typed, read, output):
            os.close(descriptor)
