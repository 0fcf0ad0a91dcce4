"""The revision that `tank rollback` means, whether it may run again, and the data that it had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tank_agent.errors import Stalled
from tank_agent.journal.records import DesiredPod, PodStatus, Revision
from tank_agent.spec.model import content_hash

# Snapshots of a pod: the generation that each was taken for → its id by volume.
Snapshots = Mapping[int, Mapping[str, str]]


def older_revision(
    kept: Sequence[Revision], pod: DesiredPod, status: PodStatus, to: str | None
) -> Revision | None:
    """Return the kept revision that `to` names: a generation, or the beginning of a revision's name.

    Without `to`, it is the last one before the present that did not fail.
    """
    known = [found for found in kept if found.generation <= pod.generation]
    if to is None:
        # A second rollback in a row goes back once more, and does not undo the first.
        restored = {old.generation: old.restored for old in known}
        present = pod.generation
        while (origin := restored.get(present)) is not None:
            present = origin
        before = [old for old in known if old.generation < present and old.hash != pod.hash]
        found = [old for old in before if failure_of(old, status) is None]
    elif to.isascii() and to.isdigit() and any(old.generation == int(to) for old in known):
        found = [old for old in known if old.generation == int(to)]
    else:
        found = [old for old in known if len(to) >= 4 and old.revision.startswith(to)]
    return found[-1] if found else None


def failure_of(revision: Revision, status: PodStatus) -> str | None:
    """Return why a revision failed as an update; None if it did not, or was good since."""
    hash_ = revision.hash or content_hash(revision.pod)
    if status.good is not None and status.good.hash == hash_:
        return None
    bad = next((bad for bad in reversed(status.bad) if bad.hash == hash_), None)
    if bad is not None:
        return bad.reason
    failed = revision.verdict is not None and revision.verdict.outcome == "failed"
    return revision.verdict.reason if failed and revision.verdict is not None else None


def refuse_failed(name: str, revision: Revision, status: PodStatus) -> None:
    """Raise Stalled if a revision failed as an update."""
    reason = failure_of(revision, status)
    if reason is None:
        return
    place = str(revision.generation) if revision.generation else revision.revision
    raise Stalled(
        f"revision {revision.revision[:12] or place} of pod {name} failed as an update: {reason}",
        hint=f"`tank rollback {name} {place} --force` goes there all the same; see `tank history {name}`",
    )


def data_of(
    name: str,
    revision: Revision,
    kept: Sequence[Revision],
    status: PodStatus,
    snapshots: Callable[[str], Snapshots],
) -> Mapping[str, str]:
    """Return the snapshots, by volume, that have the data as a revision left it.

    Raises:
        Stalled: there are none.
    """
    wanted = [volume.name for volume in revision.pod.volumes if volume.snapshot]
    good = status.good
    if good is not None and good.generation == revision.generation and good.snapshots:
        return good.snapshots
    # Without a rollout, the pod of this name is another one than that of the snapshots.
    taken = snapshots(name) if wanted and revision.generation and status.rollout is not None else {}
    # A snapshot for a generation has the data of the last good one before that.
    ends = {old.generation: old.verdict.outcome if old.verdict is not None else None for old in kept}
    for generation, ids in sorted(taken.items(), reverse=True):
        before = [at for at, outcome in ends.items() if at < generation and outcome == "good"]
        if before and max(before) == revision.generation and set(wanted) <= ids.keys():
            return {volume: ids[volume] for volume in wanted}
    what = (
        "none of its volumes has `snapshot = true`"
        if not wanted
        else "no update has taken one since, or it is removed"
    )
    place = f"generation {revision.generation}" if revision.generation else f"commit {revision.revision[:12]}"
    raise Stalled(
        f"there is no snapshot of the data of {place} of pod {name}: {what}",
        hint="without --with-data, the volumes stay as they are; `tank volume ls` shows all snapshots",
    )
