"""How much one commit may change before a person has to nod."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from tank_agent.source.snapshot import Snapshot
from tank_agent.spec.model import content_hash


class OwnedPod(Protocol):
    """What the budget needs to know of a desired pod; the journal's DesiredPod is one."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def owner(self) -> str: ...  # noqa: D102
    @property
    def hash(self) -> str: ...  # noqa: D102


def held(current: Iterable[OwnedPod], snapshot: Snapshot, budget: int | None) -> str | None:
    """Return why a snapshot waits for a confirmation, as one sentence; None if it may go on.

    Counts the pods of git's that the snapshot would remove or replace. None as the budget: all of them may
    change if there is only one, else all but one. New pods cost nothing, and a pod whose file is bad is not
    removed.
    """
    owned = {pod.name: pod for pod in current if pod.owner.startswith("git:")}
    declared = {declared.pod.name: declared.pod for declared in snapshot.pods}
    kept = {problem.pod for problem in snapshot.problems if problem.pod is not None}
    removed, replaced = [], []
    for name, pod in sorted(owned.items()):
        if name in declared:
            if content_hash(declared[name]) != pod.hash:
                replaced.append(name)
        elif name not in kept and pod.owner not in snapshot.unreadable:
            removed.append(name)
    limit = max(1, len(owned) - 1) if budget is None else budget
    if len(removed) + len(replaced) <= limit:
        return None
    return f"held: {_count(removed, replaced, len(owned))}, and the budget is {limit}"


def _count(removed: list[str], replaced: list[str], total: int) -> str:
    parts = [
        f"{verb} {_names(names)}" for verb, names in (("remove", removed), ("replace", replaced)) if names
    ]
    return f"it would {' and '.join(parts)} of {total} {'pod' if total == 1 else 'pods'}"


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} ({shown})"
