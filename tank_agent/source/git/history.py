"""What lies between the deployed commit and a new one. Pure: commits in, judgement out.

The commits come from a process that we do not trust, but each was found under its own hash. So "is an
ancestor" is proved by a chain of hashes, and a commit that was kept from us shows as a hole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from tank_agent.source.git.objects import Commit, Tag

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
