"""`tank exec` in real containers: pipes, terminals, exit codes, and what happens when something goes away."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tank_agent import Detached, Exited, NotRunning, Signaled
from tank_agent.api import frames
from tank_agent.client.client import Client
from tank_agent.errors import AgentUnreachable, CannotRun, CommandNotFound, PodNotFound, Retry, TankError
from tests.support.agent import Agent, running_agent, wait_for
from tests.support.terminal import LEAVE, Terminal, add_commands, terminal

COMMANDS = (
    *("vi", "top", "stty", "tty", "env", "pwd", "sha256sum", "wc", "grep", "dd", "seq", "test", "nohup"),
    *("printf", "umask", "yes", "tail", "mkfifo", "timeout"),
)
WEB = """
{head}
[[containers]]
name = "app"
rootfs = "{rootfs}"
command = ["/bin/sleep", "infinity"]
stop_grace = "0s"
working_dir = "/srv"
env = {{ GREETING = "hello", LOUD = "no" }}
[containers.limits]
pids = 200
[[containers]]
name = "unprivileged"
rootfs = "{rootfs}"
command = ["/bin/sleep", "infinity"]
stop_grace = "0s"
user = "web"
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("exec")) as started:
        prepare(started)
        yield started
        # The client has its answer a moment before the agent has tidied up.
        wait_for(lambda: not list((started.run / "exec").iterdir()), "no files of commands are left")


def prepare(agent: Agent) -> None:
    add_commands(agent, *COMMANDS)
    for name, content in (("garbage", "no program"), ("orphan", "#!/no/such/interpreter\n")):
        (agent.rootfs / "bin" / name).write_text(content)
        (agent.rootfs / "bin" / name).chmod(0o755)
    agent.write("web", WEB.format(rootfs=agent.rootfs, head=""))
    agent.wait_phase("web", "running")


@pytest.fixture
def own_agent(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent that the test may kill."""
    with running_agent(tmp_path) as started:
        prepare(started)
        yield started


def tank(agent: Agent, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    with spawned(agent, *arguments) as process:
        out, err = process.communicate(stdin, timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@contextlib.contextmanager
def spawned(
    agent: Agent, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tank_agent", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TANK_SOCKET": str(agent.run / "tank.sock"), **(env or {})},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def inside(agent: Agent) -> list[str]:
    """Return what runs in the container, process 1 not counted."""
    return list(processes_inside(agent))


def processes_inside(agent: Agent) -> dict[str, int]:
    main = agent.pid("web")
    namespace = Path(f"/proc/{main}/ns/pid").readlink()
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                entry.name.isdigit()
                and int(entry.name) != main
                and (entry / "ns/pid").readlink() == namespace
            ):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found[words] = int(entry.name)
    return {words: pid for words, pid in found.items() if words}


def kill_inside(agent: Agent, words: str) -> None:
    os.kill(processes_inside(agent)[words], signal.SIGKILL)
    wait_inside(agent, lambda names: words not in names, f"{words} is gone")


def wait_inside(agent: Agent, condition: Callable[[list[str]], bool], what: str) -> None:
    wait_for(lambda: condition(inside(agent)), f"{what}; now {inside(agent)}")


# How it ends


@pytest.mark.parametrize("code", [0, 1, 3, 77, 125, 126, 127, 128, 255])
@pytest.mark.parametrize("tty", [False, True])
def test_the_exit_code_is_the_commands(agent: Agent, code: int, tty: bool) -> None:
    if tty:
        with terminal(agent, "exec", "web", "--", "sh", "-c", f"tty; exit {code}") as user:
            user.expect("/dev/pts/")
            assert user.end() == code
            assert user.is_restored()
        return
    done = tank(agent, "exec", "web", "--", "sh", "-c", f"exit {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_gives_128_and_its_number(agent: Agent, number: int) -> None:
    done = tank(agent, "exec", "web", "--", "sh", "-c", f"kill -{number} $$")
    assert done.returncode == 128 + number
    with terminal(agent, "exec", "web", "--", "sh", "-c", f"tty; kill -{number} $$") as user:
        user.expect("/dev/pts/")
        assert user.end() == 128 + number
        assert user.is_restored()


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("no-such-command", 127, "not found"),
        ("/no/such/path", 127, "not found"),
        ("/etc/passwd", 126, "cannot be executed"),
        ("/etc", 126, "cannot be executed"),
        ("garbage", 126, "format"),
        ("orphan", 127, "No such file"),
    ],
)
def test_what_cannot_be_run_says_so(agent: Agent, command: str, code: int, message: str) -> None:
    done = tank(agent, "exec", "web", "--", command)
    assert (done.returncode, done.stdout) == (code, b"")
    assert message in done.stderr.decode()
    with terminal(agent, "exec", "web", "--", command) as user:
        user.expect(message)
        assert user.end() == code
        assert user.is_restored()


def test_commands_are_found_on_the_path_of_the_container(agent: Agent) -> None:
    tools = agent.rootfs / "srv" / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    (tools / "only-here").write_text("#!/bin/sh\necho found $PATH\n")
    (tools / "only-here").chmod(0o755)
    extra = 'env = { PATH = "/srv/tools" }'
    agent.write("tools", agent.pod_text(command=["/bin/sleep", "1000"], extra=extra))
    agent.wait_phase("tools", "running")
    done = tank(agent, "exec", "tools", "--", "only-here")
    assert (done.returncode, done.stdout) == (0, b"found /srv/tools\n")
    assert tank(agent, "exec", "web", "--", "only-here").returncode == 127
    # Neither a directory that others have on their path, nor a program that only the host has.
    assert tank(agent, "exec", "tools", "--", "sh").returncode == 127
    own = agent.home / "bin"
    own.mkdir()
    (own / "only-on-the-host").symlink_to("/bin/true")
    path = f"{own}:{os.environ['PATH']}"
    with spawned(agent, "exec", "web", "--", "only-on-the-host", env={"PATH": path}) as session:
        _, err = session.communicate(timeout=60)
    assert session.returncode == 127
    assert b"only-on-the-host: not found in the container" in err
    # The call's own path counts as well.
    found = tank(agent, "exec", "tools", "--env", "PATH=/srv:/bin", "--", "sh", "-c", "echo $PATH")
    assert found.stdout == b"/srv:/bin\n"
    assert tank(agent, "exec", "tools", "--env", "PATH=/srv:/bin", "--", "only-here").returncode == 127


def test_a_directory_that_is_not_there_or_not_allowed_is_refused(agent: Agent) -> None:
    for directory in (
        "/no/such",
        "/etc/passwd",
        "relative",
        "//proc/self/fd/3",
        "/proc/self/fd/3",
        "/sys",
        "/dev/../proc/1",
    ):
        done = tank(agent, "exec", "web", "--cwd", directory, "--", "pwd")
        assert (done.returncode, done.stdout) == (126, b""), directory
        assert "cannot run" in done.stderr.decode()


def test_who_is_not_there_is_named(agent: Agent) -> None:
    for name, message in (
        ("nobody", "there is no pod nobody"),
        ("web/nobody", "pod web has no container nobody"),
    ):
        done = tank(agent, "exec", name, "--", "true")
        assert done.returncode == 1
        assert message in done.stderr.decode()
    assert tank(agent, "exec", "web").returncode == 2
    assert tank(agent, "exec", "web", "--").returncode == 2
    assert tank(agent, "exec", "web", "--env", "no-equals-sign", "--", "true").returncode == 2
    assert tank(agent, "exec", "web", "--detach-keys", "ctrl-", "--", "true").returncode == 2


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--", "echo", "\udcff"], "the command"),
        (["--env", "X=\udcff", "--", "true"], "--env"),
        (["--cwd", "/\udcff", "--", "true"], "--cwd"),
        # As argparse reads it.
        (["--env=X=\udcff", "--", "true"], "--env"),
    ],
)
def test_bytes_that_are_no_text_are_refused(agent: Agent, words: list[str], what: str) -> None:
    done = tank(agent, "exec", "web", *words)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"tank exec: {what} is not valid UTF-8, which a container takes only\n"


def test_a_terminal_with_a_name_that_is_no_text_is_any_terminal(agent: Agent) -> None:
    with terminal(agent, "exec", "web", "--", "sh", "-c", "echo $TERM.", term="\udcff") as user:
        user.expect("xterm.")
        assert user.end() == 0


def test_a_pod_that_does_not_run_is_not_entered(agent: Agent) -> None:
    agent.write("done", agent.pod_text(command=["/bin/true"], head='restart = "never"'))
    agent.wait_phase("done", "completed")
    done = tank(agent, "exec", "done", "--", "true")
    assert done.returncode == 1
    assert "done/app is not running: it is completed" in done.stderr.decode()
    with pytest.raises(NotRunning):
        agent.client.exec("done", ["true"])


# What it runs in


def test_it_has_the_containers_environment_with_term_and_its_own_over_it(agent: Agent) -> None:
    arguments = ("exec", "web", "--env", "LOUD=yes", "--env", "NEW=a=b c", "--env", "NEW=last", "--", "env")
    done = tank(agent, *arguments)
    found = dict(line.split("=", 1) for line in done.stdout.decode().splitlines())
    assert found["GREETING"] == "hello"
    assert found["LOUD"] == "yes"
    assert found["NEW"] == "last"
    assert found["TERM"] == "xterm"
    assert found["HOSTNAME"] == "web"
    assert "/bin" in found["PATH"]


def test_it_begins_in_the_containers_directory_or_where_it_is_told(agent: Agent) -> None:
    assert tank(agent, "exec", "web", "--", "pwd").stdout == b"/srv\n"
    assert tank(agent, "exec", "web", "--cwd", "/bin/", "--", "pwd").stdout == b"/bin\n"


def test_it_is_in_all_of_the_containers_namespaces_and_in_its_cgroup(agent: Agent) -> None:
    kinds = ("mnt", "pid", "ipc", "uts", "net", "cgroup")
    links = " ".join(f"/proc/self/ns/{kind}" for kind in kinds)
    with spawned(agent, "exec", "web", "--", "sh", "-c", f"ls -l {links}; read stop") as session:
        assert session.stdout is not None
        found = {line.split()[-1].decode() for line in (session.stdout.readline() for _ in kinds)}
        main = Path(f"/proc/{agent.pid('web')}")
        assert found == {str((main / "ns" / kind).readlink()) for kind in kinds}
        session.communicate(b"\n", timeout=60)
    groups = tank(agent, "exec", "web", "--", "cat", "/proc/self/cgroup").stdout
    assert groups == tank(agent, "exec", "web", "--", "cat", "/proc/1/cgroup").stdout


def test_it_is_hardened_as_the_main_process_is(agent: Agent) -> None:
    wanted = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters")
    for container in ("app", "unprivileged"):
        lines = {}
        for pid in ("1", "self"):
            done = tank(agent, "exec", f"web/{container}", "--", "cat", f"/proc/{pid}/status")
            pairs = dict(line.split(":\t", 1) for line in done.stdout.decode().splitlines())
            lines[pid] = {key: pairs[key] for key in (*wanted, "Uid", "Gid", "Groups")}
        assert lines["self"] == lines["1"]
        assert (lines["1"]["NoNewPrivs"], lines["1"]["Seccomp"]) == ("1", "2")
    assert tank(agent, "exec", "web/unprivileged", "--", "id").stdout.decode().split()[:2] == [
        "uid=1000(web)",
        "gid=1000(web)",
    ]


def test_it_inherits_nothing_of_ours(agent: Agent) -> None:
    done = tank(agent, "exec", "web", "--", "sh", "-c", "ls /proc/$$/fd; umask")
    *descriptors, mask = done.stdout.decode().split()
    assert set(descriptors) <= {"0", "1", "2"}
    assert mask == "0022"


def test_no_monitor_is_made_for_a_command(agent: Agent) -> None:
    monitors = sorted(agent.conmons())
    with terminal(agent, "exec", "web", "--", "sh") as user:
        user.prompt()
        assert sorted(agent.conmons()) == monitors
        user.line("exit")
        assert user.end() == 0


def test_it_is_a_fresh_process_beside_the_main_one_which_goes_on(agent: Agent) -> None:
    main = agent.pid("web")
    # In the container that no other test leaves anything in.
    done = tank(agent, "exec", "web/unprivileged", "--", "ps", "-o", "pid,comm")
    lines = [line.split() for line in done.stdout.decode().splitlines()[1:]]
    assert lines[0] == ["1", "sleep"]
    assert [name for _, name in lines[1:]] == ["ps"]
    assert agent.pid("web") == main


# Pipes


def test_stdout_and_stderr_stay_apart_and_stdin_is_read(agent: Agent) -> None:
    done = tank(agent, "exec", "web", "--", "sh", "-c", "cat; echo wrong >&2; exit 4", stdin=b"a\0b\r\n\xff")
    assert (done.stdout, done.stderr, done.returncode) == (b"a\0b\r\n\xff", b"wrong\n", 4)


def test_a_command_that_does_not_read_its_input_ends_all_the_same(agent: Agent) -> None:
    done = tank(agent, "exec", "web", "--", "sh", "-c", "exec <&-; echo done", stdin=b"x" * 5_000_000)
    assert (done.stdout, done.returncode) == (b"done\n", 0)
    done = tank(agent, "exec", "web", "--", "head", "-c", "3", stdin=b"abcdef" * 1_000_000)
    assert (done.stdout, done.returncode) == (b"abc", 0)


def test_what_the_command_wrote_last_arrives_though_a_child_keeps_the_pipe(agent: Agent) -> None:
    script = "sleep 1000 & dd if=/dev/zero bs=1000 count=300 2>/dev/null"
    done = tank(agent, "exec", "web", "--", "sh", "-c", script)
    assert (len(done.stdout), done.returncode) == (300_000, 0)
    kill_inside(agent, "sleep 1000")


def test_a_hundred_megabytes_go_both_ways_unharmed_in_little_memory(own_agent: Agent, tmp_path: Path) -> None:
    # One that has not needed much for anything else before.
    agent = own_agent
    source, target = tmp_path / "source", tmp_path / "target"
    block = os.urandom(1 << 20)
    with source.open("wb") as file:
        for number in range(100):
            file.write(block[number:] + block[:number])
    with source.open("rb") as stdin, target.open("wb") as stdout, ThreadPoolExecutor(1) as pool:
        before = most = memory(agent)
        session = pool.submit(agent.client.exec, "web", ["cat"], stdin=stdin, stdout=stdout)
        while not session.done():
            most = max(most, memory(agent))
            time.sleep(0.001)
        assert session.result() == Exited(0)
        assert most - before < 8 << 20
    assert digest(target) == digest(source)


def test_the_command_line_moves_a_hundred_megabytes_in_little_memory(agent: Agent) -> None:
    block = os.urandom(1 << 20)
    sent, back = hashlib.sha256(), hashlib.sha256()
    with spawned(agent, "exec", "web", "-T", "--", "cat") as session:
        assert session.stdin is not None and session.stdout is not None

        def send() -> None:
            assert session.stdin is not None
            for number in range(100):
                piece = block[number:] + block[:number]
                sent.update(piece)
                session.stdin.write(piece)
            session.stdin.flush()

        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send)
            for _ in range(100):
                back.update(session.stdout.read(1 << 20))
            sending.result(60)
        assert most_memory(session.pid) < 32 << 20
        session.stdin.close()
        assert session.stdout.read() == b""
        assert session.wait(60) == 0
    assert back.digest() == sent.digest()


def resident(agent: Agent) -> int:
    assert agent.process is not None
    return most_memory(agent.process.pid)


def most_memory(pid: int) -> int:
    """Return the most memory that a process ever had, in bytes."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) << 10


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# As it shows itself: busybox cuts its arguments in place.
DD = "/bin/dd bs 64k count 1024 iflag fullblock"


def test_a_reader_that_stops_makes_only_its_own_command_wait(agent: Agent) -> None:
    script = "yes 4727 | /bin/dd bs=64k count=1024 iflag=fullblock 2>/dev/null"
    with spawned(agent, "exec", "web", "--", "sh", "-c", script) as stuck:
        assert stuck.stdout is not None
        assert stuck.stdout.read(5) == b"4727\n"
        before = memory(agent)
        written = settled(lambda: written_by(agent, DD))
        # What the pipes and the buffers on the way hold; the writer lives, and waits.
        assert 0 < written < 4 << 20
        assert memory(agent) - before < 4 << 20
        assert tank(agent, "exec", "web", "--", "echo", "free").stdout == b"free\n"
        assert stuck.poll() is None
        assert written_by(agent, DD) == written
        rest = stuck.stdout.read()
        assert b"4727\n" + rest == (b"4727\n" * (64 << 20))[: 64 << 20]
        assert stuck.wait(60) == 0


def test_a_command_that_does_not_read_makes_only_its_own_caller_wait(agent: Agent) -> None:
    script = "until test -e /tmp/eat; do sleep 0.05; done; sha256sum"
    data = os.urandom(1 << 20) * 8
    with spawned(agent, "exec", "web", "-T", "--", "sh", "-c", script) as session:
        assert session.stdin is not None and session.stdout is not None
        before = memory(agent)
        sent = fill(session.stdin.fileno(), data)
        assert sent < 2 << 20
        assert memory(agent) - before < 4 << 20
        assert tank(agent, "exec", "web", "--", "touch", "/tmp/eat").returncode == 0
        os.set_blocking(session.stdin.fileno(), True)
        out, _ = session.communicate(data[sent:], timeout=60)
        assert out.split()[0].decode() == hashlib.sha256(data).hexdigest()


def memory(agent: Agent) -> int:
    """Return how much memory the agent has now, in bytes."""
    assert agent.process is not None
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def written_by(agent: Agent, words: str) -> int:
    """Return how many bytes a command in the container has written."""
    io = Path(f"/proc/{processes_inside(agent)[words]}/io").read_text()
    return int(io.split("wchar:")[1].split()[0])


def settled(measure: Callable[[], int]) -> int:
    """Return a number that has not changed for half a second."""
    last, since = measure(), time.monotonic()
    while time.monotonic() < since + 0.5:
        now = measure()
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.02)
    return last


def test_fifty_sessions_at_once(agent: Agent) -> None:
    begun = threading.Barrier(51, timeout=60)
    before = resident(agent)

    def session(number: int) -> tuple[int, bytes]:
        reader, writer = os.pipe()
        output, theirs = os.pipe()
        with os.fdopen(output, "rb") as printed:
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(
                    agent.client.exec,
                    "web",
                    ["sh", "-c", f"echo up; read line; echo $line; exit {number}"],
                    stdin=reader,
                    stdout=theirs,
                )
                assert printed.readline() == b"up\n"
                begun.wait()
                os.write(writer, b"line of %d\n" % number)
                result = running.result(60)
                os.close(theirs)
                os.close(writer)
                os.close(reader)
            assert isinstance(result, Exited)
            return result.code, printed.read()

    with ThreadPoolExecutor(50) as pool:
        sessions = [pool.submit(session, number) for number in range(50)]
        begun.wait()
        for number, done in enumerate(sessions):
            assert done.result(60) == (number, b"line of %d\n" % number)
    assert resident(agent) - before < 64 << 20


# A terminal


def test_a_shell_has_a_terminal_of_the_right_size_from_the_first_moment(agent: Agent) -> None:
    with terminal(
        agent, "exec", "web", "--", "sh", "-c", "stty size; tty; echo $TERM", size=(33, 101)
    ) as user:
        user.expect("33 101")
        user.expect("/dev/pts/")
        user.expect("xterm")
        assert user.end() == 0
        assert user.is_restored()


def test_the_size_is_set_before_a_commands_first_instruction_each_time(agent: Agent) -> None:
    # crun lets one in four of these begin without a size, and more where much is going on.
    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(lambda _: size_at_once(agent), range(50))) == [b"33 101\r\n"] * 50


def size_at_once(agent: Agent) -> bytes:
    """Return what a command says of its terminal's size that does nothing else."""
    master, mine = os.openpty()
    reader, writer = os.pipe()
    try:
        termios.tcsetwinsize(master, (33, 101))
        assert agent.client.exec("web", ["stty", "size"], tty=True, stdin=mine, stdout=writer) == Exited(0)
        return os.read(reader, 100)
    finally:
        for descriptor in (master, mine, reader, writer):
            os.close(descriptor)


def test_nobody_traces_a_command_that_has_begun(agent: Agent) -> None:
    with terminal(agent, "exec", "web", "--", "grep", "TracerPid", "/proc/self/status") as user:
        user.expect("TracerPid:\t0")
        assert user.end() == 0


def test_an_agent_killed_while_it_holds_a_command_harms_nothing(own_agent: Agent) -> None:
    agent = own_agent
    main = agent.pid("web")
    agent.kill()
    agent.launch(fault="exec:held")
    wait_for(lambda: tank(agent, "list").returncode == 0, "the agent answers")
    with terminal(agent, "exec", "web", "--", "sleep", "4717") as user:
        user.expect("the agent ended")
        assert user.end() == 1
        assert user.is_restored()
    assert agent.died() == -signal.SIGKILL
    agent.start()
    assert agent.pid("web") == main
    wait_inside(agent, lambda names: "sleep 4717" not in names, "the command is hung up")
    wait_for(lambda: not list((agent.run / "exec").iterdir()), "no files of commands are left")


def test_a_resize_reaches_a_shell(agent: Agent) -> None:
    with terminal(agent, "exec", "web", "--", "sh", size=(24, 80)) as user:
        user.prompt()
        user.resize(40, 120)
        wait_resized(user, "40 120")
        user.line("exit 9")
        assert user.end() == 9
        assert user.is_restored()


def wait_resized(user: Terminal, size: str) -> None:
    user.line(f"while [ \"$(stty size)\" != '{size}' ]; do sleep 0.02; done; echo re''sized")
    user.expect("resized")
    user.prompt()


def test_a_terminal_that_gets_its_size_later_passes_it_on(agent: Agent) -> None:
    with terminal(agent, "exec", "web", "--", "sh", size=(0, 0)) as user:
        user.prompt()
        user.resize(33, 101)
        wait_resized(user, "33 101")
        user.line("exit")
        assert user.end() == 0


def test_ctrl_c_reaches_the_command_and_not_the_client(agent: Agent) -> None:
    with terminal(agent, "exec", "web", "--", "sh") as user:
        user.prompt()
        user.line("sleep 1000")
        wait_for(lambda: "sleep 1000" in processes_inside(agent), "the command runs")
        user.type("\x03")
        user.prompt()
        user.line("echo code $?")
        user.expect("code 130")
        user.prompt()
        user.line("exit")
        assert user.end() == 0


def test_without_a_tty_ctrl_c_reaches_the_command_once_and_then_the_client(agent: Agent) -> None:
    script = "trap 'echo caught' INT; echo ready; while :; do sleep 0.05; done"
    with spawned(agent, "exec", "web", "-T", "--", "sh", "-c", script) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"ready\n"
        session.send_signal(signal.SIGINT)
        assert session.stdout.readline() == b"caught\n"
        session.send_signal(signal.SIGINT)
        assert session.wait(60) == 130
    wait_inside(agent, lambda names: not any("caught" in name for name in names), "the command is hung up")


def test_the_first_ctrl_c_is_not_behind_input_that_waits(agent: Agent) -> None:
    script = "trap 'echo caught; cat | wc -c; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    with spawned(agent, "exec", "web", "-T", "--", "sh", "-c", script) as session:
        assert session.stdin is not None and session.stdout is not None
        assert session.stdout.readline() == b"ready\n"
        sent = fill(session.stdin.fileno(), b"x" * (4 << 20))
        session.send_signal(signal.SIGINT)
        assert session.stdout.readline() == b"caught\n"
        session.stdin.close()
        # All of it arrives, though it was overtaken.
        assert int(session.stdout.readline()) == sent
        assert session.wait(60) == 3


def fill(pipe: int, data: bytes) -> int:
    """Write to a pipe until nobody takes more; return how much that was."""
    os.set_blocking(pipe, False)
    sent = 0
    poller = select.poll()
    poller.register(pipe, select.POLLOUT)
    while poller.poll(500):
        sent += os.write(pipe, data[sent : sent + 4096])
        # Somebody pushes back before all of it is gone.
        assert sent < len(data)
    return sent


def test_what_a_terminal_does_not_take_yet_waits_if_nobody_types_it(agent: Agent) -> None:
    # Far more than the agent keeps, sent before the command reads any of it.
    typed = b"".join(b"line %d\n" % number for number in range(100_000))
    script = "stty -echo -icanon; echo up; until test -e /tmp/read; do sleep 1; done; head -c $0 | sha256sum"
    stdin, keys = os.pipe()
    reader, stdout = os.pipe()
    with ThreadPoolExecutor(2) as pool, os.fdopen(reader, "rb") as printed:
        argv = ["sh", "-c", script, str(len(typed))]
        session = pool.submit(agent.client.exec, "web", argv, tty=True, stdin=stdin, stdout=stdout)
        assert printed.readline() == b"up\r\n"
        sent = fill(keys, typed)
        assert tank(agent, "exec", "web", "--", "touch", "/tmp/read").returncode == 0
        os.set_blocking(keys, True)
        with os.fdopen(keys, "wb") as rest:
            rest.write(typed[sent:])
        assert session.result(60) == Exited(0)
        os.close(stdout)
        assert hashlib.sha256(typed).hexdigest() in printed.read().decode()
    os.close(stdin)


def test_no_tty_with_a_terminal_gives_pipes(agent: Agent) -> None:
    with terminal(agent, "exec", "web", "-T", "--", "sh", "-c", "tty; echo err >&2") as user:
        user.expect("not a tty")
        user.expect("err")
        assert user.end() == 0


def test_detach_leaves_the_command_running(agent: Agent) -> None:
    with terminal(
        agent, "exec", "web", "--", "sh", "-c", "echo up; sleep 4711; echo over > /tmp/over"
    ) as user:
        user.expect("up")
        user.type(LEAVE)
        user.expect("detached")
        assert user.end() == 0
        assert user.is_restored()
    wait_inside(agent, lambda names: "sleep 4711" in names, "the command goes on")
    kill_inside(agent, "sleep 4711")
    wait_for(lambda: tank(agent, "exec", "web", "--", "test", "-e", "/tmp/over").returncode == 0, "it ended")


def test_a_command_that_redirects_all_its_streams_keeps_its_terminal(agent: Agent) -> None:
    redirected = "exec </dev/null >/tmp/log 2>&1; sleep 0.5"
    # It goes on to its end, and nobody spins meanwhile.
    with terminal(agent, "exec", "web", "--", "sh", "-c", f"{redirected}; exit 7") as user:
        assert user.end() == 7
    before = cpu_time(agent)
    with terminal(agent, "exec", "web", "--", "sh", "-c", f"{redirected}; exec sleep 1") as user:
        assert user.end() == 0
    assert cpu_time(agent) - before < 1
    script = f"{redirected}; echo ba''ck >/dev/tty; read line </dev/tty; echo got $line >/dev/tty"
    with terminal(agent, "exec", "web", "--", "sh", "-c", script) as user:
        user.expect("back")
        user.line("typed")
        user.expect("got typed")
        assert user.end() == 0


def test_a_command_that_redirects_all_its_streams_goes_on_when_it_is_left(agent: Agent) -> None:
    script = "echo up; exec </dev/null >/tmp/log 2>&1; sleep 1; touch /tmp/redirected"
    with terminal(agent, "exec", "web", "--", "sh", "-c", script) as user:
        user.expect("up")
        user.type(LEAVE)
        assert user.end() == 0
    wait_for(
        lambda: tank(agent, "exec", "web", "--", "test", "-e", "/tmp/redirected").returncode == 0,
        "it went on",
    )


def cpu_time(agent: Agent) -> float:
    """Return how many seconds of processor time the agent itself has used."""
    assert agent.process is not None
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_command_that_was_left_is_read_so_that_it_never_waits(agent: Agent) -> None:
    script = "echo up; dd if=/dev/zero bs=1M count=8 2>/dev/null; touch /tmp/written"
    with terminal(agent, "exec", "web", "--", "sh", "-c", f"read go; {script}") as user:
        user.wait_raw()
        user.type(LEAVE)
        user.expect("detached")
        assert user.end() == 0
    # Nobody can type any more, so this one ends by itself.
    with terminal(agent, "exec", "web", "--", "sh", "-c", f"echo first; sleep 0.3; {script}") as user:
        user.expect("first")
        user.type(LEAVE)
        assert user.end() == 0
    wait_for(
        lambda: tank(agent, "exec", "web", "--", "test", "-e", "/tmp/written").returncode == 0, "written"
    )
    kill_inside(agent, f"sh -c read go; {script}")


@contextlib.contextmanager
def calling(
    agent: Agent, argv: list[str], sent: bytes = b"", *, tty: bool = False
) -> Iterator[socket.socket]:
    """Ask for a command as any client may, with frames right behind the request."""
    body = json.dumps({"argv": argv, "terminal": tty}).encode()
    head = f"POST /v1/pods/web/exec HTTP/1.1\r\nHost: tank\r\nContent-Length: {len(body)}\r\n"
    head += f"Connection: Upgrade\r\nUpgrade: {frames.PROTOCOL}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(20)
        caller.connect(os.fspath(agent.run / "tank.sock"))
        caller.sendall(head.encode() + body + sent)
        yield caller


def read_all(caller: socket.socket) -> bytes:
    answer = b""
    while piece := caller.recv(4096):
        answer += piece
    return answer


def test_a_caller_that_leaves_in_the_same_breath_leaves_the_command_running(agent: Agent) -> None:
    with calling(agent, ["sleep", "4716"], frames.frame(frames.DETACH), tty=True) as caller:
        answer = read_all(caller)
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.endswith(frames.frame(frames.DETACH))
    wait_inside(agent, lambda names: "sleep 4716" in names, "the command goes on")
    kill_inside(agent, "sleep 4716")


def test_what_was_typed_before_the_keys_that_leave_arrives(agent: Agent) -> None:
    # All of it comes before the command has begun.
    typed = frames.frame(frames.STDIN, b"echo typed > /tmp/typed; exit\r") + frames.frame(frames.DETACH)
    with calling(agent, ["sh"], typed, tty=True) as caller:
        assert read_all(caller).endswith(frames.frame(frames.DETACH))
    wait_for(lambda: tank(agent, "exec", "web", "--", "cat", "/tmp/typed").stdout == b"typed\n", "it was run")


@pytest.mark.parametrize("tty", [False, True])
def test_a_caller_that_is_gone_before_the_command_began_leaves_nothing(agent: Agent, tty: bool) -> None:
    for _ in range(10):
        with calling(agent, ["sleep", "4719"], tty=tty) as caller:
            assert caller.recv(4096).startswith(b"HTTP/1.1 101 ")
    # While a command runs, or is only being started, it has files.
    wait_for(lambda: not list((agent.run / "exec").iterdir()), "every command has ended")
    assert "sleep 4719" not in inside(agent)


def test_a_signal_before_the_command_began_reaches_it(agent: Agent) -> None:
    for _ in range(5):
        term = frames.frame(frames.SIGNAL, bytes((signal.SIGTERM,)))
        with calling(agent, ["sleep", "4724"], term) as caller:
            answer = read_all(caller)
        ended = frames.exit_payload(frames.SIGNALED, signal.SIGTERM)
        assert answer.endswith(frames.frame(frames.EXIT, ended)), answer


def test_a_lone_ctrl_p_is_passed_on_soon(agent: Agent) -> None:
    script = "stty raw -echo; echo ready; dd bs=1 count=1 2>/dev/null | sha256sum"
    with terminal(agent, "exec", "web", "--", "sh", "-c", script) as user:
        user.expect("ready")
        user.type("\x10")
        # Nothing else is typed; for how long it may be held is checked where nothing depends on the machine.
        user.expect(hashlib.sha256(b"\x10").hexdigest())
        assert user.end() == 0


def test_ctrl_p_and_another_key_both_arrive(agent: Agent) -> None:
    script = "stty raw -echo; echo ready; dd bs=1 count=4 2>/dev/null | sha256sum"
    with terminal(agent, "exec", "web", "--", "sh", "-c", script) as user:
        user.expect("ready")
        user.type("\x10x\x10\x10")
        user.expect(hashlib.sha256(b"\x10x\x10\x10").hexdigest())
        assert user.end() == 0


def test_other_detach_keys_and_none(agent: Agent) -> None:
    with terminal(agent, "exec", "web", "--detach-keys", "ctrl-x,x", "--", "cat") as user:
        user.wait_raw()
        user.type(LEAVE)
        user.type("\x18x")
        user.expect("detached")
        assert user.end() == 0
    script = "stty raw -echo; echo ready; dd bs=1 count=2 2>/dev/null | sha256sum"
    with terminal(agent, "exec", "web", "--detach-keys", "none", "--", "sh", "-c", script) as user:
        user.expect("ready")
        user.type(LEAVE)
        user.expect(hashlib.sha256(b"\x10\x11").hexdigest())
        assert user.end() == 0
    kill_inside(agent, "cat")


def test_vi_redraws_at_the_new_size(agent: Agent) -> None:
    with terminal(agent, "exec", "web", "--", "vi", "/etc/passwd", size=(24, 80)) as user:
        user.expect("root:x:0:0")
        # The last line of the screen is where vi shows its state.
        user.expect("\x1b[24;1H")
        user.resize(12, 60)
        user.expect("\x1b[12;1H")
        user.type(":q!\r")
        assert user.end() == 0
        assert user.is_restored()


def test_top_draws_within_the_window(agent: Agent) -> None:
    # A command line that is far longer than the window is wide.
    long = ["sh", "-c", "sleep 4728; : " + "x" * 200]
    with (
        spawned(agent, "exec", "web", "--", *long),
        terminal(agent, "exec", "web", "--", "top", "-d", "1", size=(10, 60)) as user,
    ):
        user.expect("Mem:")
        user.expect("PID")
        user.resize(20, 40)
        # Each picture begins at the top of the screen.
        for _ in range(2):
            user.expect("\x1b[H")
        user.expect("PID")
        user.expect("\x1b[H")
        picture = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", user.printed)
        lines = [line.rstrip("\r") for line in picture.split("\n")]
        assert max(map(len, lines)) <= 40
        assert len(lines) <= 20
        user.type("q")
        assert user.end() == 0
    wait_inside(agent, lambda names: not any("4728" in name for name in names), "it is hung up")


# What goes away


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_to_the_client_restores_the_terminal_and_hangs_the_command_up(
    agent: Agent, number: int
) -> None:
    with terminal(agent, "exec", "web", "--", "sh", "-c", "echo up; sleep 4712") as user:
        user.expect("up")
        assert user.is_raw()
        os.kill(user.child.pid, number)
        assert user.status() == -number
        assert user.is_restored()
    wait_inside(agent, lambda names: not any("4712" in name for name in names), "the command is hung up")


def test_a_signal_ends_a_client_whose_terminal_takes_nothing_more(agent: Agent) -> None:
    with terminal(agent, "exec", "web", "--", "sh", "-c", r"printf '\033[?1049hup'; yes 4723") as user:
        # Nobody reads what is printed from here on.
        user.expect("up")
        wait_for(lambda: not _takes_more(user.child.pid), "the terminal is full")
        os.kill(user.child.pid, signal.SIGTERM)
        assert user.status() == -signal.SIGTERM
        assert user.is_restored()
    wait_inside(agent, lambda names: not any("4723" in name for name in names), "the command is hung up")


def _takes_more(pid: int) -> bool:
    """Return whether a process could write to its terminal."""
    descriptor = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY | os.O_NOCTTY)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLOUT)
        return bool(poller.poll(0))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("flags", [[], ["-T"]])
def test_a_killed_client_hangs_the_command_up(agent: Agent, flags: list[str]) -> None:
    with terminal(agent, "exec", "web", *flags, "--", "sh", "-c", "echo up; sleep 4713") as user:
        user.expect("up")
        os.kill(user.child.pid, signal.SIGKILL)
        assert user.status() == -signal.SIGKILL
    wait_inside(agent, lambda names: not any("4713" in name for name in names), "the command is hung up")


def test_a_client_that_breaks_restores_the_terminal(agent: Agent) -> None:
    script = (
        "from tank_agent import Client\n"
        "from tank_agent.client.fast import session\n"
        "def fail(descriptor, data):\n"
        "    if b'up' in data:\n"
        "        raise RuntimeError('a bug')\n"
        "session._write = fail\n"
        "Client().exec('web', ['sh', '-c', r\"printf '\\033[?1049h'; sleep 0.2; echo up; sleep 4729\"])\n"
    )
    with terminal(agent, program=sys.executable, arguments=("-c", script)) as user:
        user.expect("\x1b[?1049l\x1b[0m")
        user.expect("RuntimeError: a bug")
        assert user.end() == 1
        assert user.is_restored()
    wait_inside(agent, lambda names: not any("4729" in name for name in names), "the command is hung up")


def test_an_interrupt_from_outside_ends_the_client_and_restores_the_terminal(agent: Agent) -> None:
    with terminal(agent, "exec", "web", "--", "sh", "-c", "echo up; sleep 4730") as user:
        user.expect("up")
        assert user.is_raw()
        # As `kill -INT` does: Ctrl-C itself is a key like any other.
        os.kill(user.child.pid, signal.SIGINT)
        assert user.end() == 130
        assert user.is_restored()
    wait_inside(agent, lambda names: not any("4730" in name for name in names), "the command is hung up")


def test_a_command_that_ignores_the_hang_up_goes_on(agent: Agent) -> None:
    script = "trap '' HUP; echo up; while ! test -e /tmp/end; do sleep 0.05; done; touch /tmp/ended"
    with spawned(agent, "exec", "web", "--", "sh", "-c", script) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"up\n"
        session.kill()
    tank(agent, "exec", "web", "--", "touch", "/tmp/end")
    wait_for(lambda: tank(agent, "exec", "web", "--", "test", "-e", "/tmp/ended").returncode == 0, "it ended")


def test_a_stopped_client_gives_the_terminal_back_and_takes_it_again(agent: Agent) -> None:
    with terminal(agent, program="/bin/bash", arguments=("--norc", "--noprofile", "-i")) as user:
        user.line("PS1='host''> '")
        user.expect("host> ")
        user.line(f"{sys.executable} -m tank_agent exec web -- sh -c 'echo up; exec sh'")
        user.expect("up")
        user.prompt()
        (client,) = Path(f"/proc/{user.child.pid}/task/{user.child.pid}/children").read_text().split()
        os.kill(int(client), signal.SIGTSTP)
        user.expect("Stopped")
        user.expect("host> ")
        user.line("stty -a | grep -c ' echo '")
        user.expect("1")
        user.line("fg")
        wait_for(lambda: _state(int(client)) != "T", "the client goes on")
        user.wait_raw()
        user.line("echo in''side $HOSTNAME; exit 3")
        user.expect("inside web")
        user.expect("host> ")
        user.line("echo code $?; exit")
        user.expect("code 3")
        assert user.end() == 0


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_container_that_stops_ends_the_session(agent: Agent) -> None:
    agent.write("short", agent.pod_text(command=["/bin/sleep", "1000"]))
    agent.wait_phase("short", "running")
    script = r"printf '\033[?1049h\033[?25lfull screen'; exec sleep 1000"
    with terminal(agent, "exec", "short", "--", "sh", "-c", script) as user:
        user.expect("full screen")
        (agent.pods / "short.toml").unlink()
        user.expect("\x1b[?25h\x1b[?1049l\x1b[0m\r\n")
        assert user.end() == 128 + signal.SIGKILL
        assert user.is_restored()
    agent.wait_gone("short")


@pytest.mark.parametrize(
    ("end", "printed", "code"),
    [
        ("exit 4", "cut\x1b[?2004l\x1b[0m", 4),
        ("kill -TERM $$", "cut\x1b[?2004l\x1b[0m\r\n", 128 + signal.SIGTERM),
    ],
)
def test_modes_are_undone_however_a_command_ends(agent: Agent, end: str, printed: str, code: int) -> None:
    script = rf"printf '\033[?2004hcut'; {end}"
    with terminal(agent, "exec", "web", "--", "sh", "-c", script) as user:
        user.expect("\x1b[?2004h")
        assert user.end() == code
        assert user.printed == printed
        assert user.is_restored()


@pytest.mark.parametrize("flags", [[], ["-T"]])
def test_an_agent_that_stops_ends_sessions_with_a_clear_message(own_agent: Agent, flags: list[str]) -> None:
    agent = own_agent
    main = agent.pid("web")
    with terminal(agent, "exec", "web", *flags, "--", "sh", "-c", "echo up; sleep 4714") as user:
        user.expect("up")
        assert agent.stop() == 0
        user.expect("the agent stops, which ends the command")
        assert user.end() == 1
        assert user.is_restored()
    agent.start()
    assert agent.pid("web") == main
    wait_inside(agent, lambda names: not any("4714" in name for name in names), "the command is hung up")


@pytest.mark.parametrize("flags", [[], ["-T"]])
def test_a_killed_agent_loses_the_session_but_not_the_terminal(own_agent: Agent, flags: list[str]) -> None:
    agent = own_agent
    main = agent.pid("web")
    with terminal(agent, "exec", "web", *flags, "--", "sh", "-c", "echo up; sleep 4715") as user:
        user.expect("up")
        agent.kill()
        user.expect("the agent ended")
        assert user.end() == 1
        assert user.is_restored()
    agent.start()
    assert agent.pid("web") == main
    wait_inside(agent, lambda names: not any("4715" in name for name in names), "the command is hung up")
    wait_for(lambda: not list((agent.run / "exec").iterdir()), "no files of commands are left")
    assert tank(agent, "exec", "web", "--", "echo", "again").stdout == b"again\n"


def test_a_command_that_outlives_the_stop_of_its_agent_is_found_by_the_next_one(own_agent: Agent) -> None:
    agent = own_agent
    root = Path(f"/proc/{agent.pid('web')}/root")
    script = "trap '' HUP; echo up; until test -e /tmp/go; do sleep 0.05; done; trap - HUP; exec sleep 4725"
    with spawned(agent, "exec", "web", "-T", "--", "sh", "-c", script) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"up\n"
        assert agent.stop() == 0
        assert len(list((agent.run / "exec").iterdir())) == 1
    (root / "tmp" / "go").touch()
    wait_for(lambda: sleeping("4725"), "it goes on")
    agent.start()
    wait_for(lambda: not sleeping("4725"), "it is hung up")
    wait_for(lambda: not list((agent.run / "exec").iterdir()), "no files of commands are left")


def sleeping(seconds: str) -> list[str]:
    """Return the processes that sleep for so long, wherever."""
    return [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _words(entry) == ["sleep", seconds]
    ]


def _words(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def test_a_lost_agent_leaves_no_alternate_screen_behind(own_agent: Agent) -> None:
    script = r"printf '\033[?1049h\033[?25l\033[?1000;1006hfull screen'; sleep 1000"
    with terminal(own_agent, "exec", "web", "--", "sh", "-c", script) as user:
        user.expect("full screen")
        own_agent.kill()
        for reset in ("\x1b[?1006l", "\x1b[?1000l", "\x1b[?25h", "\x1b[?1049l"):
            user.expect(reset)
        assert user.end() == 1
    own_agent.start()


def test_no_agent_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(AgentUnreachable, match="the agent is not running"):
        Client(tmp_path / "no.sock").exec("web", ["true"])


# From Python


def test_results_and_errors_in_python(agent: Agent) -> None:
    client = agent.client
    with (agent.home / "null").open("w+b") as null:
        streams = {"stdin": null, "stdout": null, "stderr": null}
        assert client.exec("web", ["sh", "-c", "exit 3"], **streams) == Exited(3)
        assert client.exec("web", ["sh", "-c", "kill -9 $$"], **streams) == Signaled(9)
        # Where the kernel says how it really ended, 137 is a code like any other.
        assert client.exec("web", ["sh", "-c", "exit 137"], **streams) in (Exited(137), Signaled(9))
        assert client.exec("web", ["test", "a", "=", "a"], env={"A": "b"}, cwd="/", **streams) == Exited(0)
        last = ["sh", "-c", 'test "$A$PWD" = c/tmp']
        assert client.exec("web", last, env=["A=b", "A=c"], cwd="/tmp", **streams) == Exited(0)
        for name, argv, error in (
            ("web", ["no-such-command"], CommandNotFound),
            ("web", ["/etc/passwd"], CannotRun),
            ("nobody", ["true"], PodNotFound),
            ("web", [], TankError),
            ("web", ["a\0b"], TankError),
        ):
            with pytest.raises(error):
                client.exec(name, argv, **streams)
    assert Detached() == Detached()
    assert (Exited(3).status, Signaled(9).status, Detached().status) == (3, 137, 0)
    assert issubclass(Retry, TankError)


def test_leaving_from_python(agent: Agent) -> None:
    keys, typed = os.pipe()
    printed, output = os.pipe()
    os.write(typed, LEAVE.encode())
    assert agent.client.exec("web", ["sleep", "4718"], tty=True, stdin=keys, stdout=output) == Detached()
    for descriptor in (keys, typed, printed, output):
        os.close(descriptor)
    wait_inside(agent, lambda names: "sleep 4718" in names, "the command goes on")
    kill_inside(agent, "sleep 4718")


def test_a_client_in_a_thread_and_with_a_terminal_that_nobody_has(agent: Agent) -> None:
    reader, writer = os.pipe()
    with ThreadPoolExecutor(1) as pool, os.fdopen(reader, "rb") as output:
        with (agent.home / "empty").open("w+b") as empty:
            session = pool.submit(agent.client.exec, "web", ["tty"], tty=True, stdin=empty, stdout=writer)
            assert session.result(60) == Exited(0)
        os.close(writer)
        assert output.read().startswith(b"/dev/pts/")
