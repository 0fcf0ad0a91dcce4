"""The state of a pod, and of a disk, as decisions about notifications need it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.journal.records import ContainerStatus
from tank_agent.outward.notify.facts import pod_facts, room_of
from tank_agent.outward.notify.memory import PodFacts
from tank_agent.reconcile.core.phase import ContainerView, Phase, PodView

NOW, MB = 1000.0, 1 << 20


def facts(
    phase: Phase, *containers: tuple[Phase, float, str], error: str = "", retry: float | None = None,
    is_update: bool = False,
) -> PodFacts:  # fmt: skip
    views = tuple(
        ContainerView(
            name=f"c{number}",
            phase=each,
            run=None,
            status=ContainerStatus(hash="h", started_at=started),
            error=text or None,
        )
        for number, (each, started, text) in enumerate(containers)
    )
    view = PodView(phase=phase, containers=views, error=error or None, next_retry=retry)
    return pod_facts(view, NOW, 60.0, excused=False, is_update=is_update, revision="r")


def test_a_pod_is_well_once_it_has_run_for_a_while() -> None:
    assert not facts(Phase.RUNNING, (Phase.RUNNING, NOW - 59, "")).well
    found = facts(Phase.RUNNING, (Phase.RUNNING, NOW - 60, ""), (Phase.COMPLETED, 0.0, ""))
    assert found.well and not found.bad


@pytest.mark.parametrize("phase", [Phase.BACKING_OFF, Phase.FAILED])
def test_a_container_that_does_not_run_is_bad_and_named(phase: Phase) -> None:
    found = facts(phase, (Phase.RUNNING, 0.0, ""), (phase, 0.0, "it ended\n  look"))
    assert (found.bad, found.well, found.container, found.error) == (True, False, "c1", "it ended; look")
    assert found.final is (phase is Phase.FAILED)


def test_a_pod_that_was_rolled_back_and_runs_is_not_failing() -> None:
    found = facts(Phase.DEGRADED, (Phase.RUNNING, 0.0, ""), error="generation 2 failed as an update")
    assert not found.bad and found.well


def test_an_error_that_is_tried_again_is_bad() -> None:
    assert facts(Phase.DEGRADED, (Phase.RUNNING, 0.0, ""), error="no address", retry=1.0).bad


def test_while_an_update_is_under_way_only_that_tells() -> None:
    assert not facts(Phase.BACKING_OFF, (Phase.BACKING_OFF, 0.0, "it ended"), is_update=True).bad


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.PULLING, Phase.STARTING, Phase.STOPPING])
def test_what_is_on_its_way_is_neither(phase: Phase) -> None:
    found = facts(phase, (phase, 0.0, ""))
    assert not found.bad and not found.well


@pytest.mark.parametrize(
    ("free", "size", "files", "answer"),
    [
        (99 * MB, 9000 * MB, 10**6, "full"),
        (150 * MB, 9000 * MB, 10**6, None),
        (200 * MB, 9000 * MB, 10**6, ""),
        (4 * MB, 100 * MB, 10**6, "full"),
        (11 * MB, 100 * MB, 10**6, ""),
        (5000 * MB, 9000 * MB, 999, "full"),
        (5000 * MB, 9000 * MB, 1500, None),
        # btrfs has no limit on files.
        (5000 * MB, 9000 * MB, 0, ""),
    ],
)
def test_a_disk_is_full_free_or_in_between(free: int, size: int, files: int, answer: str | None) -> None:
    found = room_of(Path("/data"), free, size, files)
    assert bool(found) if answer == "full" else found == answer
