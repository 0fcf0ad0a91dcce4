"""Work without an agent: plan a tree of pod files on a laptop, and make a repository to push to."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from tank_agent.api.types import PlannedPod, PlanReport
from tank_agent.control.published import waits_for_ports, what_it_takes
from tank_agent.errors import Problem, Stalled
from tank_agent.journal import ownership
from tank_agent.journal.ownership import Known
from tank_agent.journal.records import DesiredPod
from tank_agent.reconcile.core.changes import changes
from tank_agent.source.files import parse_bytes, parser_for
from tank_agent.source.kinds import GIT
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.model import EVERYWHERE, Host

# Pod files by their names from the top of a tree, or why one can't be used.
Files = Mapping[str, bytes | Problem]


def plan_trees(path: Path, files: Files, against: Files | None, host: Host | None) -> PlanReport:
    """Return what would change on a machine that follows `against` (None: nothing) and gets `files` instead.

    Findings name files as below `path`. With a host, pods whose selectors do not match it are left out.
    """
    snapshot, selective = _parsed(files, host)
    before: Mapping[str, DesiredPod] = {}
    if against is not None:
        merged = ownership.merge(Known(), _parsed(against, host)[0], 0.0)
        before = {pod.name: pod for pod in merged.changed}
    known = Known(desired=before, generations={name: pod.generation for name, pod in before.items()})
    merged = ownership.merge(known, snapshot, 0.0)
    planned = [PlannedPod(name=name, change="remove") for name in merged.removed]
    changed = {pod.name: pod for pod in merged.changed}
    after = {name: pod for name, pod in {**before, **changed}.items() if name not in merged.removed}
    ports = {name: pod.pod.ports for name, pod in after.items()}
    waits = waits_for_ports(ports, {name: pod.pod.ports for name, pod in before.items()})
    for pod in merged.changed:
        old = before.get(pod.name)
        diff = () if old is None else tuple(map(str, changes(old.pod, pod.pod)))
        takes = what_it_takes(pod.pod, pod.pod.ports) if old is None else ()
        change, notes = "create" if old is None else "update", (*takes, *waits.get(pod.name, ()))
        planned.append(PlannedPod(name=pod.name, change=change, diff=diff, notes=notes))
    planned.sort(key=lambda pod: pod.name)
    # Without a host, nobody can say which of several pods of one name is meant.
    own = set(snapshot.problems)
    found = [one for one in merged.problems if one in own or one.pod not in selective]
    # Findings name files as the user did.
    top = path.is_dir()
    named = [replace(one, file=os.fspath(path / one.file) if top else os.fspath(path)) for one in found]
    return PlanReport(pods=tuple(planned), problems=tuple(sorted(map(str, named))))


def init_repository(path: Path, branch: str, owner: str | None) -> bool:
    """Make a bare repository to push to; False if there is one already.

    Raises:
        Stalled: something else is there, or there is no such user.
    """
    # Imported here, since `tank plan` needs this module but not git.
    from tank_agent.source.git.repository import init_bare

    try:
        user = None if owner is None else pwd.getpwnam(owner)
    except KeyError:
        hint = f"sudo adduser --system --group {owner}"
        raise Stalled(f"there is no user {owner}", hint=hint) from None
    ids = None if user is None else (user.pw_uid, user.pw_gid)
    return init_bare(path.absolute(), branch=branch, owner=ids)


def _parsed(tree: Files, host: Host | None) -> tuple[Snapshot, frozenset[str]]:
    """Return a tree as a repository would declare it, and without a host the names of pods with selectors."""
    parse = parse_bytes if host is None else parser_for(host)
    problems = [found for found in tree.values() if isinstance(found, Problem)]
    pods, selective = [], set()
    for name, found in tree.items():
        if isinstance(found, Problem):
            continue
        file = parse(found, name)
        problems += file.problems
        owner = GIT.owner(name)
        for one in file.pods:
            pods.append(Declared(pod=one.pod, owner=owner, revision=file.revision, file=name, line=one.line))
            if host is None and one.selector != EVERYWHERE:
                selective.add(one.pod.name)
    unreadable = frozenset(GIT.owner(problem.file) for problem in problems)
    snapshot = Snapshot(
        source=GIT.name, revision="", pods=tuple(pods), problems=tuple(problems), unreadable=unreadable
    )
    return snapshot, frozenset(selective)
