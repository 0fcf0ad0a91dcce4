"""Judge a new commit: its history since the deployed one, and how many pods it changes. Pure functions.

The commits come from a process that is not trusted, but each was found by its own hash: a chain of hashes
proves that a commit is an ancestor, and a withheld commit leaves a hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from tank_agent.source.follower import OwnedPod
from tank_agent.source.git.objects import Commit, Tag
from tank_agent.source.kinds import GIT
from tank_agent.source.snapshot import Snapshot, source_of
from tank_agent.spec.model import content_hash

Relation = Literal["first", "same", "ahead", "behind", "diverged"]


class Judged(Struct, frozen=True, kw_only=True):
    """A commit, the object and the tags that led to it, and its relation to the deployed commit.

    `new` are the commits whose signatures are not checked yet, newest first: those that are reachable from
    this one but not from the deployed commit; only this one if nothing was ever deployed, or if it is older,
    since so old a history may never have been checked. `holes` are parents of them that were not given.
    """

    tip: str
    tags: Sequence[Tag]
    commit: Commit
    deployed: str | None
    relation: Relation
    new: tuple[Commit, ...]
    holes: frozenset[str]


def judge(tip: str, deployed: str | None, commits: Mapping[str, Commit], tags: Sequence[Tag] = ()) -> Judged:
    """Return how a commit, or the one that `tags` lead to from `tip`, relates to `deployed`.

    Raises:
        KeyError: the commit is not in `commits`.
    """
    target = tags[-1].target if tags else tip
    commit = commits[target]
    relation: Relation = "first" if deployed is None else "same"
    new: tuple[Commit, ...] = () if target == deployed else (commit,)
    holes: frozenset[str] = frozenset()
    if deployed is not None and target != deployed:
        ahead, old = _reachable(target, commits), _reachable(deployed, commits)
        relation = "behind" if target in old else "ahead" if deployed in ahead else "diverged"
        if relation != "behind":
            fresh = [name for name in ahead if name not in old]
            new = tuple(commits[name] for name in fresh if name in commits)
            holes = frozenset(name for name in fresh if name not in commits)
    return Judged(
        tip=tip, tags=tags, commit=commit, deployed=deployed, relation=relation, new=new, holes=holes
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
    """Return why a snapshot waits for a confirmation, as one sentence; None if it need not wait.

    Counts the repository's pods that the snapshot would remove or replace. Without a budget, all but one may
    change, or the only one. New pods do not count, nor does a pod whose file is bad: it stays.
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
    changes = (("remove", removed), ("replace", replaced))
    listed = " and ".join(f"{verb} {_names(names)}" for verb, names in changes if names)
    pods = "pod" if len(owned) == 1 else "pods"
    return f"held: it would {listed} of {len(owned)} {pods}, and the budget is {limit}"


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} ({shown})"
