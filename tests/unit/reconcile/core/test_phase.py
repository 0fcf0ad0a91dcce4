"""What a status shows of a pod while its volumes are copied."""

from __future__ import annotations

from msgspec.structs import replace

from tank_agent.reconcile.core.observed import Situation, SnapshotJob
from tank_agent.reconcile.core.phase import view_pod
from tank_agent.spec.model import Mount, Volume
from tests.unit.reconcile.core.builders import NOW, container, good, pod, rollout, updating, wanted

MOUNTS = (Mount(volume="data", path="/d"),)
OLD = pod(container(word="old", mounts=MOUNTS), volumes=(Volume(name="data", snapshot=True),))
NEW = pod(container(word="new", mounts=MOUNTS), volumes=OLD.volumes)
PUT_BACK = SnapshotJob(kind="put-back", generation=2)


def stopped(job: SnapshotJob, kind: str = "rollback") -> Situation:
    """Return a pod whose containers have ended for a copy."""
    found = rollout(kind=kind, begun=None, restore={"data": "2"} if kind == "rollback" else {})
    return updating(wanted(NEW), old=OLD, good=good(OLD), rollout=found, copying=job, runs=())


def test_a_copy_that_is_under_way_is_waited_for() -> None:
    waiting = view_pod(stopped(PUT_BACK))
    assert waiting.waits == ("waits for the snapshot of its volumes to be put back",)
    taken = view_pod(stopped(replace(PUT_BACK, kind="take"), "update"))
    assert taken.waits == ("waits for the snapshot of its volumes",)
    assert not view_pod(stopped(replace(PUT_BACK, kind="check"), "update")).waits


def test_data_that_cannot_be_put_back_has_an_error_and_a_next_try() -> None:
    failed = replace(PUT_BACK, state="failed", error="the disk has errors", retry_at=NOW.monotonic + 7)
    shown = view_pod(stopped(failed))
    assert shown.error is not None and shown.error.startswith("the disk has errors")
    assert shown.next_retry == NOW.wall + 7
    assert not shown.settled
