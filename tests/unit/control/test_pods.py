"""`tank plan`: the steps that change something, and none that only take notice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace

from tank_agent.control.pods import Service
from tank_agent.reconcile.core.actions import Forget, RecordExit
from tank_agent.reconcile.core.plan import simulate
from tests.unit.reconcile.core.builders import watching


def test_steps_that_only_take_notice_are_not_shown() -> None:
    leaving = replace(watching(), desired=None)
    inner = [step for step in simulate(leaving) if isinstance(step, RecordExit | Forget)]
    assert {type(step) for step in inner} == {RecordExit, Forget}
    service: Any = SimpleNamespace(
        reconciler=SimpleNamespace(observer=SimpleNamespace(situation=lambda *_: leaving)),
        machine=SimpleNamespace(clock=SimpleNamespace(wall=lambda: 1.0)),
        _copied=lambda *_: (),
        _proof=lambda *_: "proof",
    )
    planned = Service._planned(service, "web", None, None, (), ())
    assert planned.change == "remove"
    assert "stop container app" in planned.actions
    assert not {step.describe() for step in inner} & set(planned.actions)
