"""Sessions wait for a container that is about to start, bounded; logs come joined, in the order of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tank_agent.control import sessions as interactive
from tank_agent.control.sessions import LogQuery, Sessions
from tank_agent.errors import NotRunning
from tank_agent.reconcile.core.phase import Phase
from tank_agent.runtime.run import RunState
from tank_agent.spec.model import Container
from tank_agent.spec.model import Pod as PodSpec
from tests.support.fake_service import desired


class Pod:
    """A pod that is in one phase after the other, a look each, and runs when they are over."""

    def __init__(self, *phases: Phase) -> None:
        self.left = list(phases)
        self.run = SimpleNamespace(
            record=SimpleNamespace(container="app", created_at=1.0), state=RunState.RUNNING
        )

    def get(self, name: str) -> object:
        return desired(name)

    def runs(self, name: str) -> list[object]:
        return [] if self.left else [self.run]

    def view(self, name: str) -> object:
        phase = self.left.pop(0) if len(self.left) > 1 or self.left[0] != Phase.PULLING else self.left[0]
        return SimpleNamespace(containers=(SimpleNamespace(name="app", phase=phase),))


def opened(pod: Pod, ended: bool = False) -> object:
    fake = cast(Any, pod)
    return Sessions(fake, fake, fake, cast(Any, None)).target("web", None, lambda: ended)


def test_one_that_starts_is_waited_for() -> None:
    pod = Pod(Phase.PENDING, Phase.PULLING, Phase.STARTING)
    assert opened(pod) is pod.run


@pytest.mark.parametrize("phase", [Phase.BACKING_OFF, Phase.COMPLETED, Phase.FAILED, Phase.STOPPING])
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
