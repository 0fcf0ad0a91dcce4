"""The thread of probes, on the host's loopback, with a clock that runs and commands that are fakes."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tank_agent.journal.records import NewEvent
from tank_agent.linux.clock import Clock
from tank_agent.linux.namespaces import StrandedThread
from tank_agent.reconcile import prober as module
from tank_agent.reconcile.core.observed import Probed
from tank_agent.reconcile.probes import Probes
from tank_agent.runtime.health.command import PROBES_AT_ONCE
from tank_agent.runtime.health.result import GOOD, ProbeResult, bad, ours
from tank_agent.spec.model import Container, HealthCheck, HttpProbe
from tests.support.agent import wait_for
from tests.support.probe_servers import OK, answering, listening, serving
from tests.unit.reconcile.test_probes import live_run

QUICK = {"interval": 0.1, "timeout": 0.5, "retries": 2, "start_period": 0.0, "start_interval": 0.02}


class World:
    def __init__(self) -> None:
        self.woken: list[str] = []
        self.events: list[NewEvent] = []
        executor = SimpleNamespace(cgroups=SimpleNamespace(frozen=lambda _: False))
        self.probes = Probes(
            cast("Any", executor),
            Clock(),
            lambda pod, _: self.woken.append(pod),
            self.events.append,
            lambda _: None,
        )

    def want(self, run: str, **check: Any) -> None:
        live = live_run(run, time.monotonic())
        container = Container(name="app", health=HealthCheck(**{**QUICK, **check}))
        self.probes.want(live, container, hurry=False, known=None)

    def seen(self, run: str) -> Probed:
        probed = self.probes.observe(run)
        assert probed is not None
        return probed

    def wait(self, run: str, state: str) -> None:
        wait_for(lambda: self.seen(run).health.state == state, f"{run} is {state}")


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    yield found
    found.probes.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "probes"]


def test_a_service_comes_goes_and_comes_back(world: World) -> None:
    with serving(answering(OK)) as port:
        # Only what is closed may count: a server that is slow for once would be another event.
        world.want("run", http=HttpProbe(port=port), timeout=20.0)
        world.wait("run", "healthy")
    world.wait("run", "unhealthy")
    with serving(answering(OK), port=port):
        world.wait("run", "healthy")
    assert [event.type for event in world.events] == ["healthy", "unhealthy", "healthy"]


def test_many_runs_in_one_thread(world: World) -> None:
    with listening(backlog=512) as listener:
        port = listener.getsockname()[1]
        for number in range(100):
            world.want(f"run-{number}", tcp=port)
        for number in range(100):
            world.wait(f"run-{number}", "healthy")
    assert len([thread for thread in threading.enumerate() if thread.name == "probes"]) == 1


def test_a_dropped_probe_has_no_socket_when_drop_returns(world: World) -> None:
    with listening() as listener:
        world.want("run", http=HttpProbe(port=listener.getsockname()[1]), timeout=60.0)
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            world.probes.drop(["run"])
            connection.setblocking(False)
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
    assert world.probes.observe("run") is None


def test_dropping_and_wanting_again_while_probes_fly(world: World) -> None:
    """Whatever the moment, nothing breaks, no probe stays, and the thread goes on."""
    with serving(answering(OK)) as port:
        for turn in range(300):
            world.want(f"run-{turn % 7}", http=HttpProbe(port=port), start_interval=0.001, interval=0.001)
            if turn % 3:
                world.probes.drop([f"run-{(turn + 1) % 7}"])
            if turn % 5 == 0:
                time.sleep(0.002)
        world.probes.drop_pod("pod-of-run-0")
        world.probes.drop([f"run-{number}" for number in range(7)])
        world.want("last", http=HttpProbe(port=port))
        world.wait("last", "healthy")
    assert world.probes.alive()
    assert not [event for event in world.events if event.type == "probe-trouble"]


def test_a_result_that_is_there_counts_however_late_the_thread_comes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer came in time, but the thread was held up beyond the deadline."""
    held = threading.Event()
    real = module.Prober._pause

    def slow(self: module.Prober) -> float | None:
        timeout = real(self)
        if held.is_set():
            time.sleep(0.4)
        return timeout

    monkeypatch.setattr(module.Prober, "_pause", slow)
    with serving(answering(OK)) as port:
        held.set()
        world.want("run", http=HttpProbe(port=port), timeout=0.2, retries=1)
        world.wait("run", "healthy")


def test_a_bug_in_one_probe_is_an_error_of_ours(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: object) -> ProbeResult:
        raise AssertionError("a bug")

    monkeypatch.setattr(module.Connection, "begin", fail)
    world.want("run", tcp=1)
    wait_for(lambda: [event.type for event in world.events] == ["probe-trouble"], "it is told")
    assert world.probes.alive()


def test_a_stranded_thread_ends_and_is_missed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def strand(*_: object, **__: object) -> socket.socket:
        raise StrandedThread("setns failed")

    monkeypatch.setattr(module.SocketMaker, "make", strand)
    assert world.probes.alive()
    world.want("run", tcp=1)
    wait_for(lambda: not world.probes.alive(), "the thread has ended")


class FakeCommand:
    """A command with a descriptor that a test makes readable as it ends."""

    started: list[FakeCommand]

    def __init__(self, run: str) -> None:
        self.run, self.result, self.over = run, GOOD, False
        self.killed = 0
        self.flag = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.descriptors = (self.flag,)
        FakeCommand.started.append(self)

    def end(self, result: ProbeResult = GOOD) -> None:
        self.result = result
        os.eventfd_write(self.flag, 1)

    def go_on(self, _descriptor: int) -> ProbeResult | None:
        self.close()
        return None if self.killed else self.result

    def expire(self, timeout: float) -> ProbeResult:
        self.kill()
        return bad(f"the command did not end within {timeout:g} s")

    def kill(self) -> None:
        self.killed += 1

    def wait(self, _timeout: float) -> bool:
        return True

    def close(self) -> None:
        if not self.over:
            self.over = True
            os.close(self.flag)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[FakeCommand]:
    FakeCommand.started = []

    class Beginning(FakeCommand):
        @classmethod
        def begin(cls, _executor: object, run: Any, command: tuple[str, ...]) -> FakeCommand | ProbeResult:
            return ours("crun is busy") if command == ("busy",) else FakeCommand(run.record.id)

    monkeypatch.setattr(module, "ProbeCommand", FakeCommand)
    monkeypatch.setattr(FakeCommand, "begin", Beginning.begin, raising=False)
    return FakeCommand.started


def test_commands_take_turns(world: World, commands: list[FakeCommand]) -> None:
    for number in range(2 * PROBES_AT_ONCE):
        world.want(f"run-{number}", exec=("check",), timeout=30.0, interval=10.0)
    wait_for(lambda: len(commands) == PROBES_AT_ONCE, "as many run as may")
    ended = set()
    while len(ended) < 2 * PROBES_AT_ONCE:
        command = wait_for(lambda: next((one for one in commands if not one.over), None), "one runs")
        assert sum(1 for one in commands if not one.over) <= PROBES_AT_ONCE
        command.end()
        ended.add(command.run)
        world.wait(command.run, "healthy")


def test_a_command_that_hangs_is_killed_and_stays_the_only_one_of_its_run(
    world: World, commands: list[FakeCommand]
) -> None:
    world.want("run", exec=("check",), timeout=0.1, retries=1)
    world.wait("run", "unhealthy")
    assert world.seen("run").health.message == "the command did not end within 0.1 s"
    assert commands[0].killed >= 1
    # It does not end, as in a frozen container: there is no other, and it is killed again.
    wait_for(lambda: commands[0].killed >= 2, "it is killed again")
    assert len(commands) == 1
    commands[0].end()
    wait_for(lambda: len(commands) == 2, "the next one is started")
    commands[1].end()
    world.wait("run", "healthy")


def test_a_command_that_cannot_start_is_trouble_of_ours(world: World, commands: list[FakeCommand]) -> None:
    world.want("run", exec=("busy",))
    wait_for(lambda: [event.type for event in world.events] == ["probe-trouble"], "it is told")
    assert world.seen("run").health.state == "starting"
    assert commands == []


def test_a_dropped_command_is_killed(world: World, commands: list[FakeCommand]) -> None:
    world.want("run", exec=("check",), timeout=60.0)
    wait_for(lambda: commands, "it runs")
    world.probes.drop(["run"])
    wait_for(lambda: commands[0].killed, "it is killed")
    commands[0].end()
    wait_for(lambda: commands[0].over, "it is let go of")
    world.want("other", exec=("check",))
    wait_for(lambda: len(commands) == 2, "the thread goes on")


def test_commands_are_killed_at_the_end(commands: list[FakeCommand]) -> None:
    world = World()
    world.want("run", exec=("check",), timeout=60.0)
    wait_for(lambda: commands, "it runs")
    world.probes.close()
    assert (commands[0].killed, commands[0].over) == (1, True)


def test_nothing_is_polled_while_nothing_is_due(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [0]
    real = module.Prober._turn

    def counted(self: module.Prober, maker: Any) -> None:
        turns[0] += 1
        real(self, maker)

    monkeypatch.setattr(module.Prober, "_turn", counted)
    with listening() as listener:
        world.want("run", tcp=listener.getsockname()[1], interval=60.0)
        world.wait("run", "healthy")
        seen = turns[0]
        time.sleep(0.3)
    assert turns[0] <= seen + 1


def test_files_are_closed(world: World) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    world.probes.close()
    before = open_files()
    other = World()
    with listening(backlog=0) as listener, contextlib.ExitStack() as stack:
        port = listener.getsockname()[1]
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        for number in range(20):
            other.want(f"run-{number}", tcp=port, timeout=0.05)
        other.wait("run-0", "unhealthy")
        other.probes.close()
    # Threads of tests before this one may end meanwhile.
    wait_for(lambda: open_files() <= before, "nothing is left open")
