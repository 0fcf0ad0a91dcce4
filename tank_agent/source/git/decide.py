"""Judge a new commit: its history since the deployed one, and how many pods it changes. Pure functions.

The commits come from a process that we do not trust, but each was found under its own hash: "is an ancestor"
is proved by a chain of hashes, and a commit that was withheld shows as a hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from tank_agent.source.follower import OwnedPod
from tank_agent.source.git.objects import Commit, Tag
from tank_agent.source.kinds import GIT
from tank_agent.source.snapshot import Snapshot, source_of
from tank_agent.spec.model import content_hash

Relation = Literal["first", "same", "ahead", "behind", "diverged"]


class History(Struct, frozen=True, kw_only=True):
    """How a new tip relates to the deployed commit.

    `new` are the commits whose signatures nobody has checked yet: those that are reachable from the tip but
    not from the deployed commit, newest first; only the tip if nothing was ever deployed, or if the tip is
    older, since history that old may never have been checked. `holes` are commits named as parents of new
    ones that nobody gave us.
    """

    relation: Relation
    new: tuple[Commit, ...]
    holes: frozenset[str]


class Judged(Struct, frozen=True, kw_only=True):
    """A commit, the object and the tags that led to it, and how it relates to the deployed one."""

    tip: str
    tags: list[Tag]
    commit: Commit
    deployed: str | None
    found: History


def judge(tip: str, deployed: str | None, commits: Mapping[str, Commit]) -> History:
    """Return how `tip` relates to `deployed`; `commits` must hold the tip.

    Raises:
        KeyError: the tip is not in `commits`.
    """
    if deployed is None:
        return History(relation="first", new=(commits[tip],), holes=frozenset())
    if deployed == tip:
        return History(relation="same", new=(), holes=frozenset())
    ahead = _reachable(tip, commits)
    old = _reachable(deployed, commits)
    if tip in old:
        return History(relation="behind", new=(commits[tip],), holes=frozenset())
    fresh = [name for name in ahead if name not in old]
    relation: Relation = "ahead" if deployed in ahead else "diverged"
    return History(
        relation=relation,
        new=tuple(commits[name] for name in fresh if name in commits),
        holes=frozenset(name for name in fresh if name not in commits),
    )


def _reachable(start: str, commits: Mapping[str, Commit]) -> dict[str, None]:
    """Return the names that can be reached, in the order in which they were found."""
    found: dict[str, None] = {start: None}
    queue = [start]
    for name in queue:
        commit = commits.get(name)
        for parent in commit.parents if commit is not None else ():
            if parent not in found:
                found[parent] = None
                queue.append(parent)
    return found


def held(current: Iterable[OwnedPod], snapshot: Snapshot, budget: int | None) -> str | None:
    """Return why a snapshot waits for a confirmation, as one sentence; None if it may go on.

    Counts the repository's pods that the snapshot would remove or replace. Without a budget, all but one may
    change, or the only one. New pods cost nothing, and a pod whose file is bad is not removed.
    """
    owned = {pod.name: pod for pod in current if source_of(pod.owner) == GIT.name}
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
