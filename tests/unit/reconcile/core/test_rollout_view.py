"""The update axis of a pod: one state for each stage, and the revision that is wanted where another runs."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tank_agent.journal.records import (
    Bad,
    Blocked,
    ContainerStatus,
    DesiredPod,
    Good,
    Hold,
    PodStatus,
    Rollout,
)
from tank_agent.reconcile.core.rollout_view import RolloutState, view_rollout
from tank_agent.spec.model import Container, Pod

POD = Pod(name="web", containers=(Container(name="app", image="nginx"),))
GOOD = Good(generation=2, hash="good", at=1.0)
BAD = Bad(hash="bad", generation=3, revision="badrev", at=2.0, reason="it never became healthy")
QUARANTINED = Hold(kind="quarantined", since=2.0, generation=2, declared="bad", failed=3)
STARTED = {"app": ContainerStatus(hash="h", instance="app-1")}


def desired(generation: int = 3, hold: Hold | None = None) -> DesiredPod:
    return DesiredPod(
        name="web",
        pod=POD,
        owner="api",
        revision="goodrev" if hold else "newrev",
        generation=generation,
        hash="good" if hold else "new",
        changed_at=0.0,
        hold=hold,
    )


def rollout(generation: int = 3, **fields: Any) -> Rollout:
    return Rollout(**{"generation": generation, "kind": "update", "boot_id": "b", "begun": 1.0} | fields)


@pytest.mark.parametrize(
    ("pod", "status", "state", "outcome"),
    [
        (desired(1), PodStatus(), "first", None),
        (desired(1), PodStatus(rollout=rollout(1, kind="first")), "first", None),
        (desired(1), PodStatus(rollout=rollout(1, kind="first", outcome="failed")), "failed", "failed"),
        # It ran before an agent watched updates.
        (desired(1), PodStatus(containers=STARTED), "none", None),
        (desired(3), PodStatus(good=GOOD, rollout=rollout(2, outcome="good")), "updating", None),
        (desired(3), PodStatus(good=GOOD, rollout=rollout(begun=None, replaced=2)), "updating", None),
        (desired(3), PodStatus(good=GOOD, rollout=rollout()), "updating", None),
        (desired(2), PodStatus(good=GOOD, rollout=rollout(2, outcome="good")), "good", "good"),
        # A change that nothing has to prove itself for, such as another agent's record.
        (desired(2), PodStatus(good=GOOD), "good", "good"),
        (desired(3), PodStatus(good=GOOD, rollout=rollout(outcome="failed")), "failed", "failed"),
        (
            desired(3),
            PodStatus(good=GOOD, blocked=Blocked(generation=3, error="no room", retry_at=9.0)),
            "blocked",
            None,
        ),
        # Of a generation that is no more.
        (
            desired(2),
            PodStatus(good=GOOD, blocked=Blocked(generation=1, error="no room", retry_at=9.0)),
            "good",
            "good",
        ),
        (
            desired(4, QUARANTINED),
            PodStatus(good=GOOD, bad=(BAD,), rollout=rollout(3, outcome="failed")),
            "rolling-back",
            "failed",
        ),
        (
            desired(4, QUARANTINED),
            PodStatus(good=GOOD, bad=(BAD,), rollout=rollout(4, kind="rollback")),
            "rolling-back",
            "failed",
        ),
        (
            desired(4, QUARANTINED),
            PodStatus(good=GOOD, bad=(BAD,), rollout=rollout(4, kind="rollback", outcome="good")),
            "rolled-back",
            "failed",
        ),
        (
            desired(4, QUARANTINED),
            PodStatus(good=GOOD, bad=(BAD,), rollout=rollout(4, kind="rollback", outcome="failed")),
            "failed",
            "failed",
        ),
        # The same while another update is watched.
        (
            desired(5, replace(QUARANTINED, generation=5)),
            PodStatus(good=GOOD, bad=(BAD,), rollout=rollout(5)),
            "updating",
            "failed",
        ),
        # It failed too often, and was not tried again: nothing was rolled back.
        (desired(2, QUARANTINED), PodStatus(good=GOOD, bad=(BAD,)), "quarantined", "failed"),
        # Only the image was bad, so nothing holds the pod.
        (
            desired(4),
            PodStatus(
                good=GOOD,
                bad=(replace(BAD, hash="new"),),
                rollout=rollout(4, kind="rollback", replaced=3, outcome="good"),
            ),
            "rolled-back",
            "failed",
        ),
        # Its file declares the good spec again, so that is what is wanted.
        (
            desired(4),
            PodStatus(good=GOOD, bad=(BAD,), rollout=rollout(4, kind="rollback", replaced=3, outcome="good")),
            "good",
            "good",
        ),
        # The file said what was good before the update had a verdict; its image had failed long ago.
        (
            desired(6),
            PodStatus(
                good=GOOD, bad=(replace(BAD, hash="new"),), rollout=rollout(6, kind="rollback", replaced=5)
            ),
            "updating",
            None,
        ),
        (
            desired(6),
            PodStatus(good=GOOD, bad=(BAD,), rollout=rollout(6, kind="rollback", replaced=5, outcome="good")),
            "good",
            "good",
        ),
        # A rollback by hand is an update, whatever failed before.
        (
            desired(4, Hold(kind="pinned", since=1.0, generation=2, declared="new")),
            PodStatus(good=GOOD, bad=(BAD,), rollout=rollout(4, outcome="good")),
            "good",
            "good",
        ),
    ],
)
def test_the_state(pod: DesiredPod, status: PodStatus, state: str, outcome: str | None) -> None:
    view = view_rollout(pod, status)
    assert (str(view.state), view.outcome) == (state, outcome)


def test_every_state_can_be_seen() -> None:
    (mark,) = test_the_state.pytestmark  # type: ignore[attr-defined]
    assert {state for _, _, state, _ in mark.args[1]} == {str(state) for state in RolloutState}


def test_the_failed_revision_is_wanted_and_the_good_one_runs() -> None:
    status = PodStatus(
        good=GOOD, bad=(BAD,), rollout=rollout(4, kind="rollback", outcome="good", reason="as before")
    )
    view = view_rollout(desired(4, QUARANTINED), status)
    assert (view.wanted, view.running, view.reason) == ("badrev", 4, "it never became healthy")


def test_what_runs_until_an_update_begins() -> None:
    assert view_rollout(desired(3), PodStatus(good=GOOD, rollout=rollout(2))).running == 2
    waiting = PodStatus(good=GOOD, rollout=rollout(3, begun=None, replaced=2))
    assert view_rollout(desired(3), waiting).running == 2
    assert view_rollout(desired(3), PodStatus(good=GOOD, rollout=rollout(3))).running == 3
    assert view_rollout(desired(3), PodStatus()).running == 3


def test_the_reasons_of_what_failed() -> None:
    blocked = Blocked(generation=3, error="no room for a snapshot", retry_at=9.0)
    assert view_rollout(desired(), PodStatus(good=GOOD, blocked=blocked)).reason == "no room for a snapshot"
    failed = PodStatus(rollout=rollout(outcome="failed", reason="it ended three times"))
    assert view_rollout(desired(), failed).reason == "it ended three times"
    back = rollout(4, kind="rollback", outcome="failed", reason="the disk is full")
    twice = view_rollout(desired(4, QUARANTINED), PodStatus(good=GOOD, bad=(BAD,), rollout=back)).reason
    assert twice == "it never became healthy; then the way back failed, too: the disk is full"
    assert view_rollout(desired(2), PodStatus(good=GOOD)).reason is None


def test_the_bad_revision_is_found_among_many() -> None:
    older = Bad(hash="bad", generation=1, revision="older", at=1.0, reason="first try")
    other = Bad(hash="other", generation=9, revision="other", at=3.0, reason="another")
    status = PodStatus(good=GOOD, bad=(older, BAD, other))
    assert view_rollout(desired(4, QUARANTINED), status).wanted == "badrev"
