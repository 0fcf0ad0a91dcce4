"""The chapter "Sessions containers" of the guide that this project began with, sentence by sentence.

Its calls in Elixir are ours in Python: `Tank.exec/3` is `Client.exec`, `{:ok, {:exited, 3}}` is `Exited(3)`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tank_agent import Exited, NotATty, NotRunning
from tests.support.agent import Agent, running_agent, wait_for
from tests.support.images import PATH, debian_layout
from tests.support.terminal import LEAVE, Terminal, add_commands, terminal
from tests.support.trees import big_directory

# Packages are fetched once, by one test at a time.
pytestmark = pytest.mark.timeout(900)

SHELL = """
[[containers]]
name = "app"
image = "oci:{layout}:debian"
command = ["/bin/sleep", "infinity"]
stop_grace = "0s"
"""
CONSOLE = """
restart = "always"
[[containers]]
name = "sh"
image = "oci:{layout}:debian"
command = ["/bin/bash"]
tty = true
stop_grace = "0s"
"""
# As Debian's own bash writes it, in the image's working directory.
SHELL_PROMPT = "root@shell:/srv# "
CONSOLE_PROMPT = "root@console:/srv# "


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    config = {"Env": [f"PATH={PATH}", "FROM_IMAGE=yes"], "WorkingDir": "/srv"}
    with big_directory() as home:
        layout = debian_layout(home / "layout", config)
        with running_agent(home) as started:
            started.write("shell", SHELL.format(layout=layout))
            started.write("console", CONSOLE.format(layout=layout))
            for name in ("shell", "console"):
                started.wait_phase(name, "running", 120)
            yield started


@contextmanager
def python(agent: Agent, call: str) -> Iterator[Terminal]:
    """Make a call of the client in a terminal of its own, where its result is printed."""
    script = f"from tank_agent import Client; print('result:', repr(Client().{call}))"
    with terminal(agent, program=sys.executable, arguments=("-c", script)) as user:
        yield user


def processes(agent: Agent) -> list[list[str]]:
    """Return number and name of each process in pod shell, without the ps that finds them."""
    done = agent.tank("exec", "shell", "--", "ps", "-e", "-o", "pid,comm")
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    return [row for row in rows if row[1] != "ps"]


def restarts(agent: Agent, name: str) -> int:
    status = agent.status(name)
    assert status is not None
    count = status["containers"][0]["restarts"]
    assert isinstance(count, int)
    return count


def stays_as_it_is(agent: Agent, main: int) -> None:
    """Check that pod shell still runs the process that it ran, and nothing but that."""
    assert agent.pid("shell") == main
    assert restarts(agent, "shell") == 0
    wait_for(lambda: processes(agent) == [["1", "sleep"]], "nothing but the main process runs")


# Tank.exec


def test_you_get_an_interactive_bash_prompt_inside_the_container(agent: Agent) -> None:
    # "the pod's main process keeps doing its job while you run a **second** process — typically a shell —
    # that enters the container's namespaces with a PTY."
    main = agent.pid("shell")
    # "Exec again whenever you like"
    for _ in range(2):
        with terminal(agent, "exec", "shell", "--", "/bin/bash") as user:
            # "You get an interactive bash prompt **inside** the container — its own filesystem"
            user.expect(SHELL_PROMPT)
            user.line("cat /etc/os-release")
            user.expect('PRETTY_NAME="Debian GNU/Linux ')
            user.expect(SHELL_PROMPT)
            # "its own isolated process tree": "the pod's keepalive is pid 1, and the bash you exec'd is a
            # fresh process beside it."
            user.line("ps -e -o pid,comm")
            user.expect("PID COMMAND")
            user.expect(SHELL_PROMPT)
            rows = [line.split() for line in user.printed.splitlines()]
            found = [row for row in rows if len(row) == 2 and row[0].isdigit()]
            assert [name for _, name in found] == ["sleep", "bash", "ps"]
            assert found[0][0] == "1"
            user.line("tty")
            user.expect("/dev/pts/")
            user.expect(SHELL_PROMPT)
            # "Typing `exit` ends only the bash — `sleep infinity` keeps running."
            user.line("exit")
            assert user.end() == 0
            assert user.is_restored()
        # "Leaving the shell does not stop the container."
        stays_as_it_is(agent, main)


def test_you_can_run_several_exec_sessions_into_the_same_pod_at_once(agent: Agent) -> None:
    # "you can run several exec sessions into the same pod at once (each from its own `iex`)."
    main = agent.pid("shell")
    with (
        python(agent, 'exec("shell", ["/bin/bash"])') as one,
        python(agent, 'exec("shell", ["bash"])') as two,
    ):
        for user, number in ((one, 1), (two, 2)):
            user.expect(SHELL_PROMPT)
            user.line(f"mine={number}")
            user.expect(SHELL_PROMPT)
        assert sorted(name for _, name in processes(agent)) == ["bash", "bash", "sleep"]
        for user, number in ((two, 2), (one, 1)):
            user.line("echo mi''ne is $mine")
            user.expect(f"mine is {number}")
            user.expect(SHELL_PROMPT)
            user.line(f"exit 1{number}")
            user.expect(f"result: Exited(1{number})")
            assert user.end() == 0
            assert user.is_restored()
    stays_as_it_is(agent, main)


def test_exec_returns_the_sessions_terminal_result(agent: Agent) -> None:
    # "`Tank.exec/3` returns the session's terminal result": {:ok, {:exited, 3}}
    with python(agent, 'exec("shell", ["/bin/sh", "-c", "echo hi; exit 3"])') as user:
        user.expect("hi\r\n")
        user.expect("result: Exited(3)")
        assert user.end() == 0


def test_you_can_leave_an_interactive_session_without_ending_the_command(agent: Agent) -> None:
    # "You can also leave an interactive session **without** ending the command: press the detach sequence —
    # `Ctrl-P` `Ctrl-Q` (docker's default) — and the call returns `{:ok, :detached}`, restoring your terminal
    # while the command keeps running inside the container"
    main = agent.pid("shell")
    with python(agent, 'exec("shell", ["/bin/bash"])') as user:
        user.expect(SHELL_PROMPT)
        (bash,) = [number for number, name in processes(agent) if name == "bash"]
        user.type(LEAVE)
        user.expect("result: Detached()")
        assert user.end() == 0
        assert user.is_restored()
    assert [bash, "bash"] in processes(agent)
    agent.tank("exec", "shell", "--", "kill", "-KILL", bash)
    stays_as_it_is(agent, main)


def test_the_session_inherits_the_containers_environment(agent: Agent) -> None:
    # "The exec session inherits the **container's** environment — the image's `Env` (so `PATH` resolves
    # against the rootfs) plus a default `TERM` for a usable shell — and starts in the container's working
    # directory."
    done = agent.tank("exec", "shell", "--", "sh", "-c", 'echo "$FROM_IMAGE $PATH $TERM $PWD"')
    assert done.stdout == f"yes {PATH} xterm /srv\n"


def test_cwd_and_env_override_per_call(agent: Agent) -> None:
    # "Override per call": cwd: "/tmp", env: ["DEBUG=1"]
    with python(agent, 'exec("shell", ["/bin/bash"], cwd="/tmp", env=["DEBUG=1"])') as user:
        user.expect("root@shell:/tmp# ")
        user.line("echo de''bug $DEBUG $FROM_IMAGE")
        user.expect("debug 1 yes")
        user.expect("root@shell:/tmp# ")
        user.line("exit")
        user.expect("result: Exited(0)")
        assert user.end() == 0
    # "`:env` entries are merged over the container's own environment (last writer per key wins); `:cwd`
    # overrides the starting directory."
    script = '[ "$A $FROM_IMAGE $PWD" = "last over /usr" ] && [ "$PATH" = "$0" ]'
    result = agent.client.exec(
        "shell",
        ["sh", "-c", script, PATH],
        cwd="/usr",
        env=["A=first", "FROM_IMAGE=over", "A=last"],
        tty=False,
    )
    assert result == Exited(0)


def test_it_restores_your_terminal_even_on_a_crash(agent: Agent) -> None:
    # "it blocks for the life of the session and restores your terminal cleanly when the command exits, even
    # on a crash."
    main = agent.pid("shell")
    with python(agent, 'exec("shell", ["/bin/bash"])') as user:
        user.expect(SHELL_PROMPT)
        (bash,) = [number for number, name in processes(agent) if name == "bash"]
        assert user.is_raw()
        agent.tank("exec", "shell", "--", "kill", "-SEGV", bash)
        user.expect("result: Signaled(11)")
        assert user.end() == 0
        assert user.is_restored()
    stays_as_it_is(agent, main)


# Tank.attach


def test_your_terminal_becomes_the_containers_bash(agent: Agent) -> None:
    # "instead of running a *second* process, the container's **main** process *is* the interactive program,
    # and you take over its terminal."
    main = agent.pid("console")
    with python(agent, 'attach("console")') as user:
        user.expect(CONSOLE_PROMPT)
        user.line("mark=4711; echo I am $$ on $(tty)")
        user.expect("I am 1 on /dev/")
        user.expect(CONSOLE_PROMPT)
        # "leave *without* killing it by pressing the detach sequence — `Ctrl-P` `Ctrl-Q`": {:ok, :detached}
        user.type(LEAVE)
        user.expect("result: Detached()")
        assert user.end() == 0
        assert user.is_restored()
    # "re-attach whenever you like": "back in the same bash, still running"
    for _ in range(2):
        with terminal(agent, "attach", "console") as user:
            user.expect(CONSOLE_PROMPT)
            user.line("echo ma''rk $mark")
            user.expect("mark 4711")
            user.type(LEAVE)
            user.expect("detached")
            assert user.end() == 0
    assert agent.pid("console") == main


@pytest.mark.parametrize(("how", "result"), [("exit", "Exited(0)"), ("crash", "Signaled(9)")])
def test_if_you_do_end_the_main_process_a_fresh_bash_comes_right_back_up(
    agent: Agent, how: str, result: str
) -> None:
    # "If you *do* end the main process (type `exit`, or it crashes), `attach/1` returns its terminal result
    # and the pod stops — at which point the reconciler applies the pod's `restart` policy. With
    # `restart: :always`, a fresh bash comes right back up." … {:ok, {:exited, 0}}
    main, before = agent.pid("console"), restarts(agent, "console")
    with python(agent, 'attach("console")') as user:
        user.expect(CONSOLE_PROMPT)
        user.line("mark=4712; echo mar''ked")
        user.expect("marked")
        user.expect(CONSOLE_PROMPT)
        if how == "exit":
            user.line("exit")
        else:
            os.kill(main, signal.SIGKILL)
        user.expect(f"result: {result}")
        assert user.end() == 0
        assert user.is_restored()
    wait_for(lambda: restarts(agent, "console") == before + 1, "it is restarted")
    agent.wait_phase("console", "running")
    assert agent.pid("console") != main
    with terminal(agent, "attach", "console") as user:
        user.expect(CONSOLE_PROMPT)
        user.line("echo fresh:$mark:")
        user.expect("fresh::")
        user.type(LEAVE)
        assert user.end() == 0


def test_what_cannot_be_attached_to_says_why(agent: Agent) -> None:
    # "`attach/1` returns `{:error, :not_a_tty}` if the container wasn't declared `tty: true`"
    with pytest.raises(NotATty):
        agent.client.attach("shell")
    # "and `{:error, :not_running}` if the pod has no live workload."
    job = agent.pod_text(command=["/bin/true"], head='restart = "never"', extra="tty = true")
    agent.write("job", job)
    agent.wait_phase("job", "completed")
    with pytest.raises(NotRunning):
        agent.client.attach("job")


# exec vs attach


def test_a_shell_beside_a_running_service_which_keeps_serving(agent: Agent) -> None:
    # "use `exec` to get a shell *beside* a running service (the common case — the service keeps serving)"
    add_commands(agent, "httpd", "wget")
    page = Path("tmp") / "page"
    serve = f"mkdir -p /tmp; echo hello > /{page}; exec busybox httpd -f -p 8080 -h /tmp"
    agent.write("web", agent.pod_text(command=["/bin/sh", "-c", f"busybox {serve}"]))
    agent.wait_phase("web", "running")
    main = agent.pid("web")
    ask = ("wget", "-qO-", "http://127.0.0.1:8080/page")
    wait_for(lambda: agent.tank("exec", "web", "--", *ask).stdout == "hello\n", "it serves")
    with terminal(agent, "exec", "web", "--", "sh") as user:
        user.prompt()
        assert agent.tank("exec", "web", "--", *ask).stdout == "hello\n"
        user.line("echo changed > /tmp/page; exit")
        assert user.end() == 0
    assert agent.tank("exec", "web", "--", *ask).stdout == "changed\n"
    assert agent.pid("web") == main
