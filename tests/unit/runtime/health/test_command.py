"""One attempt of an exec probe, with a command that is a real process in no container."""

from __future__ import annotations

import os
import select
import subprocess
from typing import Any, cast

import pytest

from tank_agent.errors import CannotRun, CommandNotFound, NotRunning, Retry, TankError
from tank_agent.runtime.health.command import ProbeCommand
from tank_agent.runtime.health.result import MESSAGE_SIZE, ProbeResult
from tank_agent.runtime.session.exec import Ended, Executor
from tests.unit.reconcile.test_probes import live_run

STREAMS = ("stdin", "stdout", "stderr")


class FakeExecution:
    """A shell script that runs on the host."""

    def __init__(self, script: str) -> None:
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.stdin, self.stdout, self.stderr = (self._own(name) for name in STREAMS)
        self.waiter = os.pidfd_open(self.process.pid)
        self.error: TankError | None = None
        self.is_begun = True
        self.kills = self.closes = 0

    def _own(self, name: str) -> int | None:
        pipe = getattr(self.process, name)
        descriptor = os.dup(pipe.fileno())
        os.set_blocking(descriptor, False)
        pipe.close()
        return descriptor

    def begun(self) -> bool:
        return self.is_begun

    def read(self, descriptor: int, size: int) -> bytes:
        return os.read(descriptor, size)

    def close_stream(self, descriptor: int) -> None:
        for name in STREAMS:
            if descriptor == getattr(self, name):
                os.close(descriptor)
                setattr(self, name, None)

    def result(self) -> Ended:
        code = self.process.wait(20)
        if self.error is not None:
            raise self.error
        return Ended(code=code) if code >= 0 else Ended(signal=-code)

    def kill(self) -> None:
        self.kills += 1
        if self.process.poll() is None:
            self.process.kill()

    def close(self) -> None:
        self.closes += 1
        for name in STREAMS:
            if getattr(self, name) is not None:
                self.close_stream(getattr(self, name))
        os.close(self.waiter)
        self.process.wait(20)


def start(script: str) -> tuple[ProbeCommand, FakeExecution]:
    execution = FakeExecution(script)
    return ProbeCommand(cast("Any", execution)), execution


def finish(command: ProbeCommand) -> ProbeResult | None:
    """Wait as the thread does, until there is a result or the command is over."""
    poller, watched = select.epoll(), set(command.descriptors)
    for descriptor in watched:
        poller.register(descriptor, select.EPOLLIN)
    result = None
    while result is None and not command.over:
        ready = poller.poll(10)
        assert ready, "nothing happens"
        for descriptor, _ in ready:
            result = result or (None if command.over else command.go_on(descriptor))
    poller.close()
    return result


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("true", ""),
        ("echo much; exit 0", ""),
        ("exit 7", "the command ended with code 7"),
        ("echo why; exit 1", "the command ended with code 1: why"),
        ("echo why >&2; kill -KILL $$", "the command was ended by signal 9: why"),
        ("read x || echo no input; exit 1", "the command ended with code 1: no input"),
    ],
)
def test_the_end_of_a_command(script: str, message: str) -> None:
    command, execution = start(script)
    result = finish(command)
    assert result is not None
    assert (result.good, result.ours, result.message) == (message == "", False, message)
    # What it left in the background is killed, too.
    assert (command.over, execution.kills, execution.closes) == (True, 1, 1)


def test_the_end_of_long_output_is_shown() -> None:
    command, _ = start("seq 50000; exit 1")
    result = finish(command)
    assert result is not None
    assert result.message.startswith("the command ended with code 1: …")
    assert result.message.endswith("\\n50000")
    assert MESSAGE_SIZE - 100 < len(result.message.encode()) <= MESSAGE_SIZE


def test_a_command_that_prints_without_end_is_killed() -> None:
    command, execution = start("yes")
    result = finish(command)
    assert result is not None
    assert result.message == "the command printed more than 1 MiB and was killed"
    assert (execution.kills, command.over) == (1, False)
    assert finish(command) is None
    assert command.over


def test_a_command_that_hangs_is_killed() -> None:
    command, execution = start("echo begun; exec sleep 1000")
    result = command.expire(0.5)
    assert (result.good, result.ours, execution.kills) == (False, False, 1)
    assert result.message.startswith("the command did not end within 0.5 s")
    # Its result is known; its end adds none.
    assert finish(command) is None
    assert (command.over, execution.closes) == (True, 1)
    command.close()
    assert execution.closes == 1


def test_a_runtime_that_hangs_is_an_error_of_ours() -> None:
    command, execution = start("exec sleep 1000")
    execution.is_begun = False
    result = command.expire(0.5)
    assert (result.ours, execution.kills) == (True, 1)
    assert finish(command) is None


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (CommandNotFound("x: not found in the container"), False),
        (CannotRun("x cannot be executed"), False),
        (NotRunning("web/app is not running"), True),
        (TankError("the container runtime failed"), True),
    ],
)
def test_errors_of_the_runtime(error: TankError, *, ours: bool) -> None:
    command, execution = start("true")
    execution.error = error
    result = finish(command)
    assert result is not None
    assert (result.good, result.ours) == (False, ours)
    assert str(error) in result.message


@pytest.mark.parametrize("error", [Retry("too many"), NotRunning("gone"), OSError(28, "full")])
def test_a_command_that_cannot_be_started_is_an_error_of_ours(error: Exception) -> None:
    class Refusing:
        def start(self, *_: object) -> None:
            raise error

    result = ProbeCommand.begin(cast("Executor", Refusing()), live_run("run", 0.0), ("true",))
    assert isinstance(result, ProbeResult)
    assert (result.good, result.ours) == (False, True)


def test_an_end_can_be_waited_for() -> None:
    command, execution = start("exec sleep 1000")
    assert not command.wait(0.01)
    command.kill()
    assert command.wait(10)
    command.close()
    assert (command.wait(0), execution.closes) == (True, 1)
