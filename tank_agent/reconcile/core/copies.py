"""The copies of volumes that an update needs: snapshots before it, and the way back after it failed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from tank_agent.reconcile.core import actions
from tank_agent.reconcile.core.actions import Action
from tank_agent.reconcile.core.observed import Situation, SnapshotJob
from tank_agent.reconcile.core.order import current_run, is_current
from tank_agent.reconcile.core.rollout import starts_new
from tank_agent.spec.model import RestartPolicy


class Copy(NamedTuple):
    """A copy of volumes that must be complete before a generation starts.

    `volumes` have how they are copied, or the snapshot to put back. `users` are the containers that mount
    them.
    """

    kind: Literal["take", "put-back"]
    volumes: Mapping[str, bool | str]
    users: frozenset[str]
    job: SnapshotJob | None

    @property
    def how(self) -> dict[str, bool | Literal["reflink"]]:
        """Return how each volume is copied, for snapshots."""
        return {name: "reflink" if how == "reflink" else True for name, how in self.volumes.items()}

    @property
    def may_begin(self) -> bool:
        """Return whether runs may be stopped for it: not before it is sure that there is room."""
        checked = self.job is not None and (self.job.state == "done" or self.job.kind == "take")
        failed = self.job is not None and self.job.state == "failed"
        return self.kind == "put-back" or (checked and not failed)


def copy_due(situation: Situation) -> Copy | None:
    """Return the copy that is due before the desired generation starts; None if there is none."""
    desired, rollout = situation.desired, situation.status.rollout
    if desired is None or rollout is None or not starts_new(situation):
        return None
    volumes: Mapping[str, bool | str] = _to_take(situation)
    kind: Literal["take", "put-back"] = "take" if volumes else "put-back"
    # Data that a person wants back comes after the snapshot of what the good revision has now.
    volumes = volumes or rollout.restore
    if not volumes:
        return None
    users = frozenset(
        container.name
        for container in desired.pod.containers
        if any(mount.volume in volumes for mount in container.mounts)
    )
    job = situation.observed.copying
    if job is not None and (
        job.generation != rollout.generation or (job.kind == "put-back") != (kind == "put-back")
    ):
        job = None
    return Copy(kind, volumes, users, job)


def looks_for_room(copy: Copy | None) -> bool:
    """Return whether it is not known yet whether a snapshot that is due can be taken."""
    if copy is None or copy.kind != "take":
        return False
    return copy.job is None or (copy.job.kind == "check" and copy.job.state == "running")


def copy_steps(copy: Copy, situation: Situation, waits: list[float]) -> Iterator[Action]:
    """Yield the next step of a copy."""
    job, desired = copy.job, situation.desired
    assert desired is not None
    names = tuple(sorted(copy.volumes))
    used = any(run.container in copy.users or not is_current(run, desired) for run in situation.observed.runs)
    if job is None:
        if copy.kind == "take":
            yield actions.CheckRoom(volumes=names)
        elif not used:
            yield actions.Restore(volumes=names)
    elif job.state == "failed" and copy.kind == "take":
        yield actions.Block(reason=job.error)
    elif job.state == "failed" and job.retry_at > situation.now.monotonic:
        # The good revision must not start with the data of the failed one.
        waits.append(job.retry_at - situation.now.monotonic)
    elif job.state == "failed" and not used:
        yield actions.Restore(volumes=names)
    elif job.state == "done" and job.kind != "check":
        yield actions.RecordCopy(volumes=names)
    elif job.state == "done" and not used:
        yield actions.TakeSnapshot(volumes=names)


def _to_take(situation: Situation) -> dict[str, bool | str]:
    """Return the volumes that a container mounts which the update replaces, and that want a snapshot."""
    desired, rollout, good = situation.desired, situation.status.rollout, situation.status.good
    assert desired is not None and rollout is not None
    # A snapshot of the good revision stays the one to go back to, whatever ran since.
    needless = rollout.kind != "update" or good is None or good.snapshots or not rollout.replaced
    began = any(word.startswith("start ") for word in rollout.steps)
    if needless or began or desired.pod.restart is RestartPolicy.NEVER:
        return {}
    wanted = {volume.name: volume.snapshot for volume in desired.pod.volumes if volume.snapshot}
    replaced = (
        (found for found in desired.pod.containers if current_run(found, situation) is None) if wanted else ()
    )
    mounted = {mount.volume for container in replaced for mount in container.mounts}
    return {name: how for name, how in wanted.items() if name in mounted}
