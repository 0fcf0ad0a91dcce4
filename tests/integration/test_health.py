"""Probes of real containers: over their networks, by commands in them, and when something goes away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from tank_agent.journal.records import Health, NewEvent
from tank_agent.linux import pidfd
from tank_agent.linux.clock import Clock
from tank_agent.linux.namespaces import in_network_namespace
from tank_agent.reconcile.core.observed import Probed
from tank_agent.reconcile.probes import Probes
from tank_agent.runtime.container.crun import Crun
from tank_agent.runtime.health.command import PROBES_AT_ONCE
from tank_agent.runtime.limits import cgroup
from tank_agent.runtime.run import RECORD, LiveRun, RunRecord, read_file
from tank_agent.runtime.session.exec import Executor
from tank_agent.spec.model import Container, HealthCheck, HttpProbe
from tests.support.agent import Agent, running_agent, wait_for
from tests.support.probe_servers import OK, answering, listening, self_signed, serving, silent, with_tls
from tests.support.terminal import add_commands
from tests.support.updates import root_of

# Nothing but the test ends a probe.
PATIENT = {"timeout": 600.0, "interval": 10.0}
COMMANDS = ("env", "pwd", "yes", "setsid", "printf", "test", "wc", "seq", "nc")
POD = """
{head}
[[containers]]
name = "app"
rootfs = "{rootfs}"
command = ["/bin/sleep", "infinity"]
stop_grace = "0s"
user = "web"
working_dir = "/srv"
env = {{ GREETING = "hello" }}
[containers.limits]
pids = 300
"""


class Probing:
    """Probes of this process for the containers of an agent that knows nothing of them."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.woken: list[str] = []
        self.events: list[NewEvent] = []
        self.cgroups = cgroup.detect(agent.run)
        crun = Crun("crun", agent.run, self.cgroups)
        self.executor = Executor(crun, agent.home, self.cgroups, name="test-probes", most=64)
        self.probes = Probes(
            self.executor, Clock(), lambda pod, _: self.woken.append(pod), self.events.append, self.netns
        )

    def netns(self, pod: str) -> Path:
        return self.agent.run / "netns" / pod

    def run(self, pod: str, **changes: Any) -> LiveRun:
        """Return the run of a pod's container, as the agent has it on disk."""
        for directory in (self.agent.run / "containers").iterdir():
            record = read_file(directory / RECORD, RunRecord)
            if record is not None and record.pod == pod:
                facts = {"started": True, "alive_since": time.monotonic(), **changes}
                return LiveRun(record=record, directory=directory, **facts)
        raise AssertionError(f"{pod} does not run")

    def want(self, pod: str, known: Health | None = None, **check: Any) -> str:
        """Probe a pod's container, quickly and with little patience, and return the id of its run."""
        # Only the tests of timeouts have short ones: elsewhere a slow machine is not to count as a failure.
        quick = {"interval": 0.2, "timeout": 20.0, "retries": 2, "start_period": 0.0, "start_interval": 0.1}
        run = self.run(pod, adopted=known is not None)
        container = Container(name="app", health=HealthCheck(**quick | check))
        self.probes.want(run, container, hurry=False, known=known)
        return run.record.id

    def seen(self, run: str) -> Probed:
        probed = self.probes.observe(run)
        assert probed is not None
        return probed

    def wait(self, run: str, state: str) -> Probed:
        def reached() -> Probed | None:
            seen = self.seen(run)
            return seen if seen.health.state == state else None

        seen = wait_for(reached, f"{run} is {state}: {self.seen(run)}")
        assert seen is not None
        return seen

    def wait_message(self, run: str, text: str) -> str:
        """Wait for a probe that ends so: one before it may have come less far in its time."""
        wait_for(lambda: text in (self.seen(run).health.message or ""), f"{text} in {self.seen(run)}")
        return self.seen(run).health.message or ""

    def wait_events(self, *types: str, pods: Collection[str] = ("web",)) -> None:
        """Wait until just these were told: a moment after the state is shown."""

        def told() -> list[str]:
            return [event.type for event in self.events if event.pod in pods]

        wait_for(lambda: told() == [*types], f"{types} of {pods} are told: {self.events}")

    def inside(self, pod: str) -> set[int]:
        """Return the processes of a container but its main one."""
        run = self.run(pod)
        found = self.cgroups.processes(run.record.cgroup)
        return {pid for pid in found if pidfd.numbers(pid)[1:] != (1,)}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("health")) as started:
        add_commands(started, *COMMANDS)
        started.write("web", POD.format(rootfs=started.rootfs, head=""))
        started.wait_phase("web", "running")
        yield started


@contextlib.contextmanager
def probing_of(agent: Agent) -> Iterator[Probing]:
    found = Probing(agent)
    yield found
    found.probes.close()
    directory = found.executor.directory
    assert not directory.is_dir() or not list(directory.iterdir())


@pytest.fixture
def probing(agent: Agent) -> Iterator[Probing]:
    with probing_of(agent) as found:
        yield found
    wait_for(lambda: not found.inside("web"), f"no process of a probe is left: {found.inside('web')}")


def http(port: int = 8080, **fields: Any) -> HttpProbe:
    return HttpProbe(port=port, **fields)


def test_a_port_of_the_pod_opens_and_closes(probing: Probing) -> None:
    run = probing.want("web", tcp=8080)
    assert probing.wait(run, "unhealthy").restart
    assert probing.seen(run).health.message == "cannot connect to port 8080: Connection refused"
    with listening(port=8080, netns=probing.netns("web")):
        assert probing.wait(run, "healthy").steady_since is not None
    probing.wait(run, "unhealthy")
    probing.wait_events("unhealthy", "healthy", "unhealthy")
    # A port of the host's loopback is none of the pod's.
    with listening(port=8080):
        assert probing.seen(run).health.state == "unhealthy"


def test_a_server_that_listens_on_ipv6_only(probing: Probing) -> None:
    run = probing.want("web", http=http())
    netns = probing.netns("web")
    with serving(answering(OK), socket.AF_INET6, port=8080, netns=netns):
        probing.wait(run, "healthy")


def test_a_server_with_tls_and_a_certificate_of_its_own(probing: Probing, tmp_path: Path) -> None:
    run = probing.want("web", http=http(tls=True))
    with serving(with_tls(self_signed(tmp_path), answering(OK)), port=8080, netns=probing.netns("web")):
        probing.wait(run, "healthy")
    probing.wait(run, "unhealthy")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 503 Busy\r\n\r\n", "port 8080 answers 503 Busy"),
        (b"garbage\r\n", "port 8080 does not answer in HTTP but with 'garbage\\r\\n'"),
        (b"\0" * 1_000_000, "port 8080 does not answer in HTTP"),
        (b"", "port 8080 closed the connection without an answer"),
    ],
)
def test_bad_answers_in_a_pod(probing: Probing, answer: bytes, message: str) -> None:
    with serving(answering(answer), port=8080, netns=probing.netns("web")):
        run = probing.want("web", http=http())
        probing.wait(run, "unhealthy")
        assert message in probing.wait_message(run, message)


@pytest.mark.parametrize(
    "answer",
    [OK, b"HTTP/1.1 301 Moved\r\nLocation: http://localhost:1/\r\n\r\n", OK + b"x" * 3_000_000],
    ids=["ok", "redirect", "huge"],
)
def test_good_answers_in_a_pod(probing: Probing, answer: bytes) -> None:
    with serving(answering(answer), port=8080, netns=probing.netns("web")):
        probing.wait(probing.want("web", http=http()), "healthy")


def test_servers_that_hang_are_failures_at_the_timeout(probing: Probing) -> None:
    def dribble(connection: socket.socket) -> None:
        connection.recv(65536)
        for byte in OK:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)

    netns = probing.netns("web")
    for serve in (dribble, silent):
        with serving(serve, port=8080, netns=netns):
            run = probing.want("web", http=http(), timeout=0.3)
            probing.wait(run, "unhealthy")
            probing.wait_message(run, "no answer from port 8080 within 0.3 s")
            probing.probes.drop([run])
    with listening(port=8080, backlog=0, netns=netns), contextlib.ExitStack() as stack:
        for _ in range(4):
            one = in_network_namespace(netns, lambda: socket.socket(socket.AF_INET))
            stack.enter_context(one).setblocking(False)
            one.connect_ex(("127.0.0.1", 8080))
        run = probing.want("web", tcp=8080, timeout=0.3)
        probing.wait(run, "unhealthy")
        probing.wait_message(run, "no connection to port 8080 within 0.3 s")
        probing.probes.drop([run])


def test_one_probe_at_a_time(probing: Probing) -> None:
    at_once, most = [0], [0]

    def serve(connection: socket.socket) -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        with contextlib.suppress(ConnectionResetError):
            silent(connection)
        at_once[0] -= 1

    with serving(serve, port=8080, netns=probing.netns("web")):
        run = probing.want("web", http=http(), timeout=0.3, interval=0.1, retries=4)
        probing.wait(run, "unhealthy")
        probing.probes.drop([run])
    assert most == [1]


def test_a_hanging_probe_keeps_no_network_once_it_is_dropped(agent: Agent, probing: Probing) -> None:
    agent.write("gone", POD.format(rootfs=agent.rootfs, head=""))
    agent.wait_phase("gone", "running")
    netns = probing.netns("gone")
    inode = netns.stat().st_ino
    accepted: list[socket.socket] = []
    with listening(port=8080, netns=netns) as listener:
        run = probing.want("gone", http=http(), timeout=60.0)
        accepted.append(listener.accept()[0])
        accepted[0].recv(65536)
        sockets = own_sockets(inode)
        probing.probes.drop([run])
        # In order, it would read the end of the stream.
        with pytest.raises(ConnectionResetError):
            accepted[0].recv(1)
        accepted[0].close()
    assert own_sockets(inode) == sockets
    assert str(netns) in Path("/proc/self/mountinfo").read_text()
    (agent.pods / "gone.toml").unlink()
    agent.wait_gone("gone")
    assert str(netns) not in Path("/proc/self/mountinfo").read_text()
    for task in Path("/proc/self/task").iterdir():
        assert (task / "ns" / "net").stat().st_ino != inode


def own_sockets(inode: int) -> int:
    """Return how many threads of this process are in a network namespace: none, ever."""
    found = [(task / "ns" / "net").stat().st_ino for task in Path("/proc/self/task").iterdir()]
    return found.count(inode)


def test_without_its_namespace_a_probe_says_nothing(probing: Probing) -> None:
    probing.probes._namespace = lambda _: Path("/no/such/namespace")
    run = probing.want("web", tcp=8080)
    wait_for(lambda: [event.type for event in probing.events] == ["probe-trouble"], "the trouble is told")
    assert "cannot enter its network" in probing.events[0].message
    assert probing.seen(run).health.state == "starting"


def sh(script: str) -> dict[str, Any]:
    return {"exec": ("/bin/sh", "-c", script)}


def test_a_command_has_what_its_container_has(probing: Probing) -> None:
    checks = 'test "$GREETING" = hello && test "$(pwd)" = /srv && test "$(id -u)" = 1000 && test ! -t 0'
    probing.wait(probing.want("web", **sh(f"{checks} && ! read -r line")), "healthy")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no good; exit 3", "the command ended with code 3: no good"),
        ("echo out; echo err >&2; exit 1", "the command ended with code 1: "),
        ("kill -9 $$", "the command was ended by signal 9"),
        (r"printf '\033[2Jx\na\200'; exit 1", "code 1: \\x1b[2Jx\\na\ufffd"),
        ("seq 100000; exit 1", "99999\\n100000"),
        ("yes; exit 1", "the command printed more than 1 MiB and was killed"),
    ],
)
def test_commands_that_fail(probing: Probing, script: str, message: str) -> None:
    run = probing.want("web", **sh(script))
    probing.wait(run, "unhealthy")
    shown = probing.seen(run).health.message or ""
    assert message in shown
    assert len(shown.encode()) <= 4096
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("/no/such",), "/no/such: not found in the container"),
        (("/etc",), "/etc cannot be executed"),
    ],
)
def test_commands_that_cannot_run_are_failures(
    probing: Probing, command: tuple[str, ...], message: str
) -> None:
    run = probing.want("web", exec=command)
    probing.wait(run, "unhealthy")
    assert message in (probing.seen(run).health.message or "")


@pytest.mark.parametrize(
    "script",
    [
        "sleep 1000",
        "trap '' TERM HUP INT; sleep 1000; sleep 1000",
        "for i in 1 2 3; do (sleep 1000 & sleep 1000) & done; wait",
        # In a session of its own.
        "setsid sleep 1000 & sleep 1000",
        "setsid sh -c 'sleep 1000 & sleep 1000' & wait",
        # It starts others as fast as it can.
        "while :; do sleep 1000 & sleep 0.01; done",
    ],
)
def test_a_command_that_hangs_is_killed_with_all_that_it_started(probing: Probing, script: str) -> None:
    run = probing.want("web", **sh(f"echo begun; {script}"), timeout=0.5, interval=0.3)
    probing.wait(run, "unhealthy")
    probing.wait_message(run, "the command did not end within 0.5 s: begun")
    probing.probes.drop([run])
    wait_for(lambda: not probing.inside("web"), "nothing of it is left")


def test_what_a_command_left_in_the_background_ends_with_it(probing: Probing) -> None:
    run = probing.want("web", **sh("sleep 1000 & sleep 1000 & exit 0"))
    probing.wait(run, "healthy")
    begun = time.monotonic()
    wait_for(lambda: time.monotonic() - begun > 1.0 or len(probing.inside("web")) > 8, "five probes more")
    assert len(probing.inside("web")) <= 4


def test_more_commands_than_slots_take_turns(agent: Agent, probing: Probing) -> None:
    names = [f"many{number}" for number in range(3 * PROBES_AT_ONCE)]
    for name in names:
        agent.write(name, POD.format(rootfs=agent.rootfs, head=""))
    for name in names:
        agent.wait_phase(name, "running")
    # None ends before the test has seen them together.
    runs = [
        probing.want(name, **sh("until test -e /tmp/go; do sleep 0.1; done"), **PATIENT) for name in names
    ]

    def at_once() -> int:
        # Those that were there before and after a look at all of them were there at one moment.
        before, after = ({name: probing.inside(name) for name in names} for _ in range(2))
        count = sum(1 for name in names if before[name] and after[name])
        assert count <= PROBES_AT_ONCE
        return count

    wait_for(lambda: at_once() == PROBES_AT_ONCE, "as many run as may")
    assert at_once() == PROBES_AT_ONCE
    for name in names:
        (root_of(agent, name) / "tmp").mkdir(exist_ok=True)
        (root_of(agent, name) / "tmp" / "go").touch()
    for run in runs:
        probing.wait(run, "healthy")
    # Those that hang fail, and the others are not among them for long.
    probing.probes.drop(runs)
    hanging = [probing.want(name, **sh("sleep 1000"), timeout=0.5, interval=1.0) for name in names[:6]]
    good = [probing.want(name, **sh("exit 0"), interval=1.0) for name in names[6:]]
    for run in good:
        probing.wait(run, "healthy")
    for run in hanging:
        probing.wait(run, "unhealthy")
    probing.wait_events(*["healthy"] * 12, pods=names[6:])
    probing.probes.close()
    for name in names:
        (agent.pods / f"{name}.toml").unlink()
    for name in names:
        agent.wait_gone(name)


@contextlib.contextmanager
def frozen(probing: Probing, pod: str) -> Iterator[None]:
    cgroups, path = probing.cgroups, probing.run(pod).record.cgroup
    for group in cgroups.directories(path):
        for name, value in (("freezer.state", "FROZEN"), ("cgroup.freeze", "1")):
            if (group / name).exists():
                (group / name).write_text(value)
    wait_for(lambda: cgroups.frozen(path), "the group is frozen")
    try:
        yield
    finally:
        cgroups.thaw(path)
    assert not cgroups.frozen(path)


def test_a_frozen_container_is_not_judged(agent: Agent, probing: Probing) -> None:
    agent.write("ice", POD.format(rootfs=agent.rootfs, head=""))
    agent.wait_phase("ice", "running")
    by_command = probing.want("ice", **sh("sleep 0.1"), timeout=5.0)
    probing.wait(by_command, "healthy")
    with frozen(probing, "ice"):
        wait_for(lambda: [event.type for event in probing.events][1:] == ["probe-trouble"], "it is told")
        assert "the container is frozen" in probing.events[-1].message
        assert probing.seen(by_command).health.state == "healthy"
    wait_for(lambda: probing.seen(by_command).health.failing == 0, "it goes on")
    probing.probes.drop([by_command])
    (agent.pods / "ice.toml").unlink()
    agent.wait_gone("ice")


def test_a_container_that_is_frozen_while_its_command_runs(agent: Agent, probing: Probing) -> None:
    agent.write("ice", POD.format(rootfs=agent.rootfs, head=""))
    agent.wait_phase("ice", "running")
    run = probing.want("ice", **sh("sleep 1"), timeout=5.0)
    probing.wait(run, "healthy")
    wait_for(lambda: probing.inside("ice"), "a command runs")
    with frozen(probing, "ice"):
        wait_for(lambda: "probe-trouble" in [event.type for event in probing.events], "it is told")
        assert probing.seen(run).health.state == "healthy"
    wait_for(lambda: probing.seen(run).health.failing == 0, "it goes on")
    probing.probes.drop([run])
    wait_for(lambda: not probing.inside("ice"), "nothing of the commands is left")
    (agent.pods / "ice.toml").unlink()
    agent.wait_gone("ice")


def test_a_container_that_is_killed_in_a_probe(agent: Agent, probing: Probing) -> None:
    agent.write("dies", POD.format(rootfs=agent.rootfs, head='restart = "never"'))
    agent.wait_phase("dies", "running")
    # Nobody tells these probes, as the agent would, that the container has ended: they ask until it is seen.
    run = probing.want("dies", **sh("sleep 1000"), timeout=60.0, retries=1000)
    wait_for(lambda: probing.inside("dies"), "a command runs")
    os.kill(agent.pid("dies"), signal.SIGKILL)
    agent.wait_phase("dies", "failed")
    # It ended by no fault that its probe could have found.
    assert probing.seen(run).health.state == "starting"
    probing.probes.drop([run])
    (agent.pods / "dies.toml").unlink()
    agent.wait_gone("dies")


def test_a_dropped_command_is_killed_at_once(probing: Probing) -> None:
    run = probing.want("web", **sh("sleep 1000"), timeout=60.0)
    wait_for(lambda: probing.inside("web"), "a command runs")
    probing.probes.drop([run])
    wait_for(lambda: not probing.inside("web"), "it is killed")
    assert probing.probes.observe(run) is None


def test_the_commands_end_with_the_probes(agent: Agent) -> None:
    with probing_of(agent) as probing:
        probing.want("web", **sh("sleep 1000"), timeout=60.0)
        wait_for(lambda: probing.inside("web"), "a command runs")
    wait_for(lambda: not probing.inside("web"), "it is killed")


def test_commands_of_a_killed_agent_are_swept(probing: Probing) -> None:
    probing.want("web", **sh("trap '' HUP TERM; sleep 1000 & sleep 1000; sleep 1000"), timeout=60.0)
    wait_for(lambda: len(probing.inside("web")) == 3, "a command runs")
    probing.executor.sweep(lambda: probing.inside("web"), signal.SIGKILL)
    wait_for(lambda: not probing.inside("web"), "it is killed")
    assert not list(probing.executor.directory.iterdir())


def test_what_was_known_is_shown_until_a_probe_says_otherwise(probing: Probing) -> None:
    known = Health(state="healthy", since=5.0)
    run = probing.want("web", known=known, tcp=8080, interval=0.5)
    assert probing.seen(run) == Probed(health=known)
    assert probing.wait(run, "unhealthy").restart
