"""Sessions wait for a container that is about to start, bounded; logs come joined, in the order of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from tank_agent.control import sessions as interactive
from tank_agent.control.sessions import LogQuery, Sessions, chosen_run
from tank_agent.errors import NotRunning, Stalled
from tank_agent.journal.records import JobRun, JobStatus, PodStatus
from tank_agent.reconcile.core.phase import Phase
from tank_agent.runtime.run import RunState
from tank_agent.spec.model import Container
from tank_agent.spec.model import Pod as PodSpec
from tests.support.fake_service import desired


class Pod:
    """A pod that is in one phase after the other, a look each, and runs when they are over."""

    def __init__(self, *phases: Phase, stopped: bool = False, declared: bool = True) -> None:
        self.left = list(phases)
        self.stopped = 1.0 if stopped else None
        self.declared = declared
        self.run = SimpleNamespace(
            record=SimpleNamespace(container="app", created_at=1.0, id="app-2"),
            state=RunState.RUNNING,
            stopping=None,
        )
        # One that goes on until the others are looked at.
        self.before: Any = None

    def status(self, name: str) -> PodStatus:
        return PodStatus(replacing=("app-1",))

    def get(self, name: str) -> object:
        return desired(name) if self.declared else None

    def runs(self, name: str) -> list[object]:
        before = [self.before] if self.before is not None else []
        return before if self.left else [*before, self.run]

    def view(self, name: str) -> object:
        phase = self.left.pop(0) if len(self.left) > 1 or self.left[0] != Phase.PULLING else self.left[0]
        found = SimpleNamespace(name="app", phase=phase, error="it said no\n  look at it")
        return SimpleNamespace(containers=(found,), stopped=self.stopped)


def opened(pod: Pod, ended: bool = False, within: float | None = None) -> object:
    fake = cast(Any, pod)
    return Sessions(fake, fake, fake, cast(Any, None)).target("web", None, lambda: ended, within)


def older(*, stopping: bool = False) -> Any:
    """Return the run that a person wants to be replaced."""
    return SimpleNamespace(
        record=SimpleNamespace(container="app", created_at=0.5, id="app-1"),
        state=RunState.RUNNING,
        stopping=True if stopping else None,
    )


@pytest.mark.parametrize("stopping", [False, True])
def test_the_next_run_is_waited_for_during_a_restart(stopping: bool) -> None:
    pod = Pod(Phase.STOPPING, Phase.STARTING)
    pod.before = older(stopping=stopping)
    assert opened(pod) is pod.run


def test_one_that_only_ends_is_entered_while_it_does() -> None:
    """Who asks why it does not end must be able to look."""
    for pod in (Pod(Phase.STOPPING, stopped=True), Pod(Phase.PULLING)):
        pod.before = older(stopping=True)
        assert opened(pod, within=0) is pod.before


def test_how_it_runs_again_is_said() -> None:
    with pytest.raises(NotRunning, match="it is stopped: it said no") as caught:
        opened(Pod(Phase.STOPPED, stopped=True))
    assert caught.value.hint == "`tank start web` starts it"
    with pytest.raises(NotRunning) as caught:
        opened(Pod(Phase.SCHEDULED))
    assert caught.value.hint == "`tank run web` runs it now"


def test_one_that_starts_is_waited_for() -> None:
    pod = Pod(Phase.PENDING, Phase.PULLING, Phase.STARTING)
    assert opened(pod) is pod.run


@pytest.mark.parametrize("phase", [Phase.BACKING_OFF, Phase.COMPLETED, Phase.FAILED])
def test_one_that_will_not_start_is_refused_at_once(phase: Phase) -> None:
    began = time.monotonic()
    with pytest.raises(NotRunning, match=f"web/app is not running: it is {phase}"):
        opened(Pod(phase, Phase.PULLING))
    assert time.monotonic() - began < interactive.STARTS_WITHIN / 4


def test_one_that_takes_too_long_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interactive, "STARTS_WITHIN", 0.15)
    with pytest.raises(NotRunning, match=r"does not run yet: after 0\.15 s it is pulling") as caught:
        opened(Pod(Phase.PULLING))
    assert "`tank wait web`" in (caught.value.hint or "")


def test_nobody_is_waited_for_who_hung_up() -> None:
    began = time.monotonic()
    with pytest.raises(NotRunning):
        opened(Pod(Phase.PULLING), ended=True)
    assert time.monotonic() - began < interactive.STARTS_WITHIN / 4


def line(second: int, text: str) -> bytes:
    return f"2026-11-22T06:00:{second:02}.000000000+00:00 stdout F {text}\n".encode()


class Machine:
    """A pod of two containers; `look` is called whenever somebody looks whether it runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.look: Callable[[], None] = lambda: None
        containers = tuple(Container(name=name, image="oci:/srv/x") for name in ("one", "two"))
        self.declared = PodSpec(name="web", containers=containers)

    def get(self, name: str) -> Any:
        return type("Desired", (), {"pod": self.declared})

    def log(self, pod: str, container: str) -> Path:
        return self.directory / f"{container}.log"

    def runs(self, pod: str) -> list[str]:
        self.look()
        return ["one run"]


def test_when_nobody_waits_any_more_reading_stops(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    # Some 10 MB of lines that are all too old to be shown.
    for name in ("one", "two"):
        machine.log("web", name).write_bytes(line(1, "x" * 1000) * 5000)
    asked = []

    def ended() -> bool:
        asked.append(True)
        return len(asked) > 2

    _, lines = sessions_of(machine).logs("web", None, LogQuery(since="2027"), ended)
    assert list(lines) == []
    # Once for each megabyte or so, and once more by each of the two files when it is over.
    assert 3 <= len(asked) <= 6


def test_lines_that_are_followed_come_in_the_order_of_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    over = []

    def print_both() -> None:
        # All of it between two looks at the logs.
        if not over:
            for second in range(10):
                with machine.log("web", "one" if second % 3 else "two").open("ab") as file:
                    file.write(line(second, str(second)))
        over.append(True)

    machine.look = print_both
    _, pieces = sessions_of(machine).logs("web", None, LogQuery(follow=True), lambda: len(over) > 1)
    printed = b"".join(pieces).decode().splitlines()
    assert [text.split()[-1] for text in printed] == [str(number) for number in range(10)]


def sessions_of(machine: Machine) -> Sessions:
    part = cast("Any", machine)
    return Sessions(part, part, part, part)


def job(*numbers: int, under_way: bool = False) -> JobStatus:
    """Return a job that had these runs."""
    runs = [JobRun(number=n, cause="manual", due=1.0, begun=1.0, ended=2.0) for n in numbers]
    if under_way:
        runs[-1] = replace(runs[-1], ended=None)
    return JobStatus(runs=tuple(runs))


@pytest.mark.parametrize(
    ("known", "query", "number"),
    [
        (job(4, 5), LogQuery(), 5),
        (job(4, 5), LogQuery(run=4), 4),
        (job(4, 5), LogQuery(run=-1), 5),
        (job(4, 5), LogQuery(run=-2), 4),
        (job(4, 5), LogQuery(follow=True), 6),
        (job(4, 5), LogQuery(follow=True, run=6), 6),
        (job(4, 5), LogQuery(follow=True, run=5), 5),
        (job(4, 5, under_way=True), LogQuery(), 5),
        (job(4, 5, under_way=True), LogQuery(follow=True), 5),
        (job(), LogQuery(follow=True), 1),
    ],
)
def test_the_run_that_is_meant(known: JobStatus, query: LogQuery, number: int) -> None:
    assert chosen_run("nightly", known, query) == number


@pytest.mark.parametrize(
    ("known", "run", "why"),
    [
        (job(), None, "job nightly has not run yet"),
        (job(), -1, "job nightly has not run yet"),
        (job(4, 5), 3, "run 3 of nightly is not kept any more"),
        (job(4, 5), 6, "run 6 of nightly has not begun yet"),
        (job(4, 5), -3, "3 runs of nightly are more than are kept"),
    ],
)
def test_a_run_that_is_not_there_is_refused(known: JobStatus, run: int | None, why: str) -> None:
    with pytest.raises(Stalled, match=why) as caught:
        chosen_run("nightly", known, LogQuery(run=run))
    assert caught.value.hint
