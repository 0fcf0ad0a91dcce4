"""A container that is about to start is waited for, bounded, and only while somebody wants it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tank_agent.control import sessions as interactive
from tank_agent.control.sessions import Sessions
from tank_agent.errors import NotRunning
from tank_agent.reconcile.core.phase import Phase
from tank_agent.runtime.run import RunState
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
