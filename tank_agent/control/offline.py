"""Work without an agent: plan a tree of pod files on a laptop, and make a repository to push to."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.api.types import PlannedPod, PlanReport
from tank_agent.errors import Problem, Stalled
from tank_agent.journal import ownership
from tank_agent.journal.ownership import Known
from tank_agent.journal.records import DesiredPod
from tank_agent.reconcile.core.changes import changes
from tank_agent.source.files import parse_bytes, parser_for
from tank_agent.source.kinds import GIT
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.selectors import EVERYWHERE, Host

# Pod files by their names from the top of a tree, or why one is none.
Files = Mapping[str, bytes | Problem]


class _Tree(Struct, frozen=True):
    """A tree of pod files as a repository would declare it; files are named from its top."""

    snapshot: Snapshot
    # Names that a pod with selectors declares: without a host, nobody can say which of several is meant.
    selective: frozenset[str]


def plan_trees(path: Path, files: Files, against: Files | None, host: Host | None) -> PlanReport:
    """Return what would change on a machine that follows `against` (None: nothing) and gets `files` instead.

    Findings name files as below `path`. With a host, pods whose selectors do not match it are left out.
    """
    tree = _parsed(files, host)
    before: Mapping[str, DesiredPod] = {}
    if against is not None:
        old = ownership.merge(Known(), _parsed(against, host).snapshot, 0.0)
        before = {pod.name: pod for pod in old.changed}
    known = Known(desired=before, generations={name: pod.generation for name, pod in before.items()})
    merged = ownership.merge(known, tree.snapshot, 0.0)
    planned = [_planned(before.get(pod.name), pod) for pod in merged.changed]
    planned += [PlannedPod(name=name, change="remove") for name in merged.removed]
    found = set(tree.snapshot.problems)
    problems = [
        _named(problem, path)
        for problem in merged.problems
        if problem in found or problem.pod not in tree.selective
    ]
    planned.sort(key=lambda pod: pod.name)
    return PlanReport(pods=tuple(planned), problems=tuple(sorted(map(str, problems))))


def init_repository(path: Path, branch: str, owner: str | None) -> bool:
    """Make a bare repository to push to; False if there is one already.

    Raises:
        Stalled: something else is there, or there is no such user.
    """
    # `tank plan` loads this module, and makes no repository.
    from tank_agent.source.git.repository import init_bare

    ids = None
    if owner is not None:
        try:
            user = pwd.getpwnam(owner)
        except KeyError:
            raise Stalled(
                f"there is no user {owner}", hint=f"sudo adduser --system --group {owner}"
            ) from None
        ids = user.pw_uid, user.pw_gid
    return init_bare(path.absolute(), branch=branch, owner=ids)


def _planned(before: DesiredPod | None, after: DesiredPod) -> PlannedPod:
    if before is None:
        return PlannedPod(name=after.name, change="create")
    diff = tuple(str(line) for line in changes(before.pod, after.pod))
    return PlannedPod(name=after.name, change="update", diff=diff)


def _named(problem: Problem, path: Path) -> Problem:
    """Call a file as the user did."""
    return replace(problem, file=os.fspath(path / problem.file) if path.is_dir() else os.fspath(path))


def _parsed(tree: Files, host: Host | None) -> _Tree:
    parse = parse_bytes if host is None else parser_for(host)
    files = [parse(found, name) for name, found in tree.items() if isinstance(found, bytes)]
    problems = [found for found in tree.values() if isinstance(found, Problem)]
    pods = [
        Declared(
            pod=found.pod, owner=GIT.owner(file.file), revision=file.revision, file=file.file, line=found.line
        )
        for file in files
        for found in file.pods
    ]
    problems += [problem for file in files for problem in file.problems]
    return _Tree(
        Snapshot(
            source=GIT.name,
            revision="",
            pods=tuple(pods),
            problems=tuple(problems),
            unreadable=frozenset(GIT.owner(problem.file) for problem in problems),
        ),
        frozenset(
            found.pod.name
            for file in files
            for found in file.pods
            if host is None and found.selector != EVERYWHERE
        ),
    )
